"""Child runs on the Temporal engine: parents and children as streams, and what may go wrong between them."""

from __future__ import annotations

import random

import pytest

from tests.unit.temporal.streams_harness import Streams
from waterflowd.engine import inputs
from waterflowd.model import chains
from waterflowd.model.ids import RunId
from waterflowd.model.statuses import Conclusion
from waterflowd.temporal import run_turns
from waterflowd.temporal.coordination import child_run_commands

PARENT = """
jobs:
  a:
    runs-on: web
    steps:
      - id: other
        uses: workflow/run
        with: {workflow: other.yml}
"""
CHILD = "{on: manual, jobs: {b: {runs-on: web, steps: [{run: x}]}}}"
ITSELF = PARENT.replace("other.yml", "itself.yml")


def streams(chance: random.Random | None = None, child: str = CHILD) -> Streams:
    """Streams whose repository has a workflow to start."""
    made = Streams(chance)
    made.files = {"other.yml": child, "itself.yml": ITSELF}
    return made


def children(made: Streams, *parents: RunId) -> list[RunId]:
    """All runs that others have started."""
    names = [RunId(name.removeprefix("run/")) for name in made.all if name.startswith(run_turns.PREFIX)]
    return [name for name in names if name not in parents]


async def test_a_step_ends_with_its_child_run() -> None:
    """The child run acts for the same principal, with the same groups, and its end is the end of the step."""
    made = streams()
    made.finish = lambda run: False
    parent = made.start(PARENT, "shop")
    await made.settle()
    [child] = children(made, parent)
    assert not made.run(parent).is_completed
    trigger = made.run(child).trigger
    assert (trigger.principal, trigger.scope, chains.depth_of(trigger)) == ("ann", ("web",), 1)
    made.finish = lambda run: True
    await made.settle()
    step = made.run(parent).jobs[0].steps_by_id["other"]  # type: ignore[index]
    assert (step.outputs["run-id"], step.outputs["conclusion"]) == (child, "success")
    assert made.run(parent).conclusion is Conclusion.SUCCESS
    assert not any(stream.is_open for stream in made.all.values())


async def test_a_step_that_does_not_wait_ends_at_once() -> None:
    """Neither the end nor a cancel of the parent affects the child run."""
    made = streams()
    made.finish = lambda run: False
    parent = made.start(PARENT.replace("{workflow", "{wait: false, workflow"), "shop")
    await made.settle()
    [child] = children(made, parent)
    assert made.run(parent).conclusion is Conclusion.SUCCESS
    assert not made.run(child).is_cancelled
    made.finish = lambda run: True
    await made.settle()
    assert made.run(child).conclusion is Conclusion.SUCCESS


async def test_a_cancel_reaches_the_child_run() -> None:
    """The parent ends after it."""
    made = streams()
    made.finish = lambda run: False
    parent = made.start(PARENT, "shop")
    await made.settle()
    [child] = children(made, parent)
    made.tell(parent, inputs.CancelRun(by="ada"))
    await made.settle()
    assert made.run(child).cancel_by == f"run {parent}"
    assert not made.run(parent).is_completed
    made.finish = lambda run: True
    await made.settle()
    assert [made.run(run).conclusion for run in (parent, child)] == [Conclusion.CANCELLED] * 2


async def test_a_child_run_that_was_terminated_is_noticed() -> None:
    """It cannot report its end: its parent looks every ten minutes."""
    made = streams()
    made.finish = lambda run: False
    parent = made.start(PARENT, "shop")
    await made.settle()
    [child] = children(made, parent)
    made.terminate(f"run/{child}")
    await made.advance(child_run_commands.LOOK_AGAIN_MS)
    state = made.run(parent)
    assert state.conclusion is Conclusion.FAILURE
    assert "was terminated from outside" in str(made.events(parent))


async def test_nested_child_runs_end_at_the_limit() -> None:
    """A workflow that starts itself is refused at the nesting limit, and every parent reports it."""
    made = streams()
    parent = made.start(ITSELF, "shop")
    await made.settle()
    assert len(children(made, parent)) == chains.CHILD_RUN_DEPTH_MAX
    assert made.run(parent).conclusion is Conclusion.FAILURE
    assert "nesting limit of 8 child runs reached [WF609]" in str(made.events(children(made, parent)[-1]))


async def test_a_run_without_a_repository_starts_no_child_run() -> None:
    """The turn refuses it, because the run has no commit."""
    made = streams()
    parent = made.start(PARENT)
    await made.settle()
    assert made.run(parent).conclusion is Conclusion.FAILURE
    assert "does not come from a repository" in str(made.events(parent))
    assert children(made, parent) == []


@pytest.mark.parametrize("seed", range(30))
async def test_every_step_ends_and_no_child_run_is_left_behind(seed: int) -> None:
    """By chance: starts are repeated and withdrawn, ends and cancels arrive in any order, streams continue as new."""
    chance = random.Random(seed)
    made = streams(chance)
    made.finish = lambda run: chance.random() < 0.2
    parents = [made.start(PARENT, "shop") for _ in range(chance.randint(1, 3))]
    for _ in range(chance.randint(2, 6)):
        for _ in range(chance.randint(0, 12)):
            await made.one()
        what = chance.random()
        if what < 0.2:
            made.restart()
        elif what < 0.4:
            made.continue_as_new(chance.choice([name for name in made.all if made.all[name].is_open] or list(made.all)))
        elif what < 0.7:
            made.tell(chance.choice(parents), inputs.CancelRun(by="ada"))
    made.finish = lambda run: True
    await made.advance(3 * child_run_commands.LOOK_AGAIN_MS)
    assert len(children(made, *parents)) <= len(parents)
    assert not any(stream.is_open for stream in made.all.values())
    for child in children(made, *parents):
        state = made.run(child)
        parent = made.run(RunId(state.trigger.payload["parent_run"]["id"]))
        if parent.is_cancelled and not state.is_cancelled:
            assert state.conclusion is Conclusion.SUCCESS
        elif not parent.is_cancelled:
            assert (parent.conclusion, state.conclusion) == (Conclusion.SUCCESS, Conclusion.SUCCESS)
