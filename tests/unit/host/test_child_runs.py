"""Steps that start child runs: each run is started once, also after a crash at any commit, and every failure is reported."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.dsl import compile_workflow
from waterflowd.engine import events, inputs
from waterflowd.host import child_run_starter as starter_module
from waterflowd.host import child_runs
from waterflowd.host import driver as driver_module
from waterflowd.model import chains
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Outcome
from waterflowd.testing.host import HostWorld, until

PARENT = """
jobs:
  a:
    runs-on: web
    steps:
      - id: other
        uses: workflow/run
        with: {workflow: other.yml, inputs: {version: "2"}}
"""
OTHER = """
on:
  workflow_call:
    inputs: {version: {required: true}}
    outputs: {got: {value: "${{ jobs.b.outputs.got }}"}}
jobs:
  b:
    runs-on: web
    outputs: {got: "${{ steps.s.outputs.x }}-${{ inputs.version }}"}
    steps: [{id: s, run: work}]
"""
ITSELF = """
jobs:
  a:
    runs-on: web
    steps: [{uses: workflow/run, with: {workflow: parent.yml}}]
"""
PATH = "workflows/parent.yml"
FILES = {"workflows/other.yml": OTHER}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "DISK_FULL_PAUSE_S", 0.0)
    monkeypatch.setattr(starter_module, "_BACKOFF", Backoff(0.0, 0.0))


def request(text: str = PARENT, files: dict[str, str] | None = None, **trigger: Any) -> StartRequest:
    """Returns a request to start the parent run in a repository."""
    others = {**(FILES if files is None else files), PATH: text}
    compiled = compile_workflow(PATH, text.encode(), {path: content.encode() for path, content in others.items()})
    assert compiled.plan is not None, compiled.diagnostics
    fields: dict[str, Any] = {"kind": TriggerKind.CLI, "by": "ann", "ref": "refs/heads/main", "git": {"branch": "main"}}
    return StartRequest(plan=compiled.plan, repository="ops", revision="c1", trigger=Trigger(**{**fields, **trigger}))


async def begun(world: HostWorld, text: str = PARENT, files: dict[str, str] | None = None) -> RunId:
    """Returns a parent run whose step has requested its child run."""
    world.workflows.files = {**(FILES if files is None else files), PATH: text}
    return (await world.driver.start(request(text, files))).id


def started_by(world: HostWorld, run: RunId) -> list[RunId]:
    """Returns the child runs that the run has recorded."""
    return [event.run for event in world.events(run) if isinstance(event, events.ChildRunStarted)]


def all_of(world: HostWorld) -> dict[RunId, events.RunCreated]:
    """Returns every child run in the log."""
    found = [record for record in world.log.feed(0, 10_000) if isinstance(record.event, events.RunCreated)]
    runs = {RunId(record.stream.removeprefix("run/")): record.event for record in found}
    return {run: event for run, event in runs.items() if event.trigger.kind == chains.PARENT_RUN}


async def waits(world: HostWorld, run: RunId) -> RunId:
    """Returns the run that the parent waits for."""
    await until(lambda: bool(started_by(world, run)), 60)
    return started_by(world, run)[-1]


async def ends(world: HostWorld, run: RunId, conclusion: Conclusion) -> events.RunCompleted:
    """Waits for the run to end."""
    await until(lambda: world.kinds(run)[-1] == "RunCompleted", 60)
    last = world.events(run)[-1]
    assert last.conclusion is conclusion, last.reason
    return last  # type: ignore[no-any-return]


async def work(world: HostWorld, **changes: Any) -> None:
    """Completes the next step on a server."""
    agent = world.enroll("web-1", "web")
    world.hello(agent)
    await until(lambda: bool(world.link.offers()), 60)
    world.finished(agent, world.link.offers()[-1], **changes)
    world.link.take()
    await world.settle()


async def test_a_step_starts_a_run_and_ends_with_it_and_its_outputs() -> None:
    """The child run has the same repository, commit and starter as its parent, and both records name each other."""
    async with HostWorld() as world:
        run = await begun(world)
        other = await waits(world, run)
        (created,) = all_of(world).values()
        assert (created.repository, created.revision, created.inputs) == ("ops", "c1", {"version": "2"})
        assert (created.trigger.by, created.trigger.ref) == ("ann", "refs/heads/main")
        assert created.trigger.payload["parent_run"]["id"] == run
        assert world.queries.run(run).jobs[0].steps[0].reason.text == f"waiting for run {other} (other #1)"
        assert world.placed() == {}
        await work(world, outputs={"x": "made"})
        await ends(world, run, Conclusion.SUCCESS)
        step = world.queries.run(run).jobs[0].steps[0]
        assert step.outputs == {"got": "made-2", "run-id": other, "conclusion": "success"}
        assert world.queries.run(other).outputs == {"got": "made-2"}


async def test_a_run_that_fails_is_named_by_the_step_that_waited_for_it() -> None:
    """The step's failure names the child run's conclusion and reason."""
    async with HostWorld() as world:
        run = await begun(world)
        other = await waits(world, run)
        await work(world, outcome=Outcome.FAILURE, exit_code=3)
        await ends(world, run, Conclusion.FAILURE)
        step = world.queries.run(run).jobs[0].steps[0]
        assert step.reason.text.startswith(f"run {other} failed: ")
        assert "exit code 3" in step.reason.text
        assert step.outputs["conclusion"] == "failure"


async def test_after_a_crash_at_any_commit_one_run_is_started_and_waited_for() -> None:
    """The log is cut after each of its transactions: recovery starts one child run, and the parent ends."""
    async with HostWorld() as world:
        run = await begun(world)
        await waits(world, run)
        await work(world, outputs={"x": "made"})
        await ends(world, run, Conclusion.SUCCESS)
        commits = len(world.log.commits)
    seen = set()
    for commit in range(1, commits + 1):
        async with world.crashed(commit) as again:
            before = again.kinds(run)
            seen.add(before[-1])
            if before[-1] != "RunCompleted":
                other = await waits(again, run)
                if not again.queries.run(other).is_completed:
                    await work(again, outputs={"x": "made"})
            await ends(again, run, Conclusion.SUCCESS)
            assert list(all_of(again)) == started_by(again, run)
            assert len(all_of(again)) == 1
    assert {"ChildRunRequested", "ChildRunStarted", "RunCompleted"} <= seen


async def test_a_run_that_ended_while_nobody_watched_is_found_in_the_log() -> None:
    """As after a restore, the log contains the child run's end but the parent was not notified."""
    async with HostWorld() as world:
        run = await begun(world)
        other = await waits(world, run)
        await world.driver.cancel(other, "ann")
        await ends(world, run, Conclusion.FAILURE)
        # Remove the parent's answer from the commit that contains the child run's end.
        commit = next(
            number
            for number, batch in enumerate(world.log.commits)
            if any(isinstance(event, events.RunCompleted) for append in batch.appends for event in append.events)
        )
    cut = world.crashed(commit)
    batch = world.log.commits[commit]
    rest = [append for append in batch.appends if append.stream != f"run/{run}"]
    rows = [row for row in batch.summaries if row.id != run]
    cut.log.append_blocking(msgspec.structs.replace(batch, appends=rest, summaries=rows))
    async with cut as again:
        last = await ends(again, run, Conclusion.FAILURE)
        assert f"run {other} was cancelled" in last.reason.text


async def test_a_run_that_is_gone_is_lost_for_who_waits_for_it() -> None:
    """Its outcome is unknown, so the step is reported as lost instead of waiting for ever."""
    async with HostWorld() as world:
        run = await begun(world)
        other = await waits(world, run)
    cut = world.crashed()
    batches, cut.log.commits = list(cut.log.commits), []
    log = type(cut.log)(world.log._codec, generation=cut.log.generation)
    for batch in batches:
        log.append_blocking(
            msgspec.structs.replace(
                batch,
                appends=[append for append in batch.appends if append.stream != f"run/{other}"],
                summaries=[row for row in batch.summaries if row.id != other],
                keys={},
            )
        )
    async with HostWorld(log, world.clock) as again:
        last = await ends(again, run, Conclusion.FAILURE)
        assert "nobody can know how it ended" in last.reason.text


async def test_a_failed_commit_starts_nothing_and_is_made_again() -> None:
    """The disk is full when the child run starts, and again when it ends."""
    async with HostWorld() as world:
        run = await begun(world)
        world.log.fail_next(Retryable("WF302", "the disk is full"), Retryable("WF302", "the disk is full"))
        await waits(world, run)
        world.log.fail_next(Retryable("WF302", "the disk is full"))
        await work(world, outputs={"x": "made"})
        await ends(world, run, Conclusion.SUCCESS)
        assert len(all_of(world)) == 1


async def test_an_attempt_starts_one_run_however_often_it_is_asked_for() -> None:
    """Two simultaneous start requests for one attempt, as after a failed commit, start one child run."""
    async with HostWorld() as world:
        run = await begun(world)
        other = await waits(world, run)
        place = AttemptId(run, JobId("a"), StepId("other"), AttemptNo(1))
        live = world.world.runs[run]
        plan = await world.workflows.plan("ops", "c1", "workflows/other.yml")
        wanted = child_runs.start_request(live, place, plan, {"version": "2"})
        await asyncio.gather(world.driver.begin(place, wanted), world.driver.begin(place, wanted))
        assert (await world.driver.start(wanted)).id == other
        assert list(all_of(world)) == [other]


async def test_a_target_that_cannot_be_read_now_is_waited_for() -> None:
    """The step shows the reason, and continues when the target can be read."""
    async with HostWorld() as world:
        world.workflows.fail_next(Retryable("WF503", "the repository cannot be read", after_s=0.0))
        run = await begun(world)
        await waits(world, run)
        waited = [event.reason for event in world.events(run) if isinstance(event, events.AttemptWaiting)]
        assert [(why.facts["error"], why.text) for why in waited] == [
            ("WF503", "its run is not started yet: the repository cannot be read")
        ]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ('{workflow: "${{ git.branch }}.yml"}', 'no workflow file "workflows/main.yml" [WF135]'),
        ('{workflow: "${{ git.branch }}"}', "the path or the name of a .yml or .yaml file [WF135]"),
        ("{workflow: \"${{ '../x.yml' }}\"}", "the path or the name of a .yml or .yaml file [WF135]"),
        ("{workflow: \"${{ 'broken.yml' }}\"}", "has errors"),
        ("{workflow: \"${{ 'other.yml' }}\"}", 'version: input "version" is required [WF110]'),
        ("{workflow: other.yml, inputs: \"${{ fromJSON('{}') }}\"}", 'input "version" is required [WF110]'),
    ],
)
async def test_a_run_that_can_never_be_fails_the_step_with_its_code(step: str, said: str) -> None:
    """Some errors are known only at run time: the file's path, whether it compiles, and its inputs."""
    files = {**FILES, "workflows/broken.yml": "jobs: 1"}
    text = f"jobs: {{a: {{runs-on: web, steps: [{{uses: workflow/run, with: {step}}}]}}}}"
    async with HostWorld() as world:
        run = await begun(world, text, files)
        last = await ends(world, run, Conclusion.FAILURE)
        assert said in last.reason.text
        assert all_of(world) == {}
        assert world.queries.run(run).jobs[0].steps[0].reason.code.value == "child-run-refused"


async def test_a_run_without_a_repository_has_no_other_workflow_to_start() -> None:
    """This is a plan that was compiled with a repository but started without one; a single file would not compile."""
    async with HostWorld() as world:
        started = await world.driver.start(msgspec.structs.replace(request(), repository=None, revision=None))
        last = await ends(world, started.id, Conclusion.FAILURE)
        assert "comes from no repository" in last.reason.text
        assert world.workflows.asked == []


async def test_runs_that_start_one_another_end_at_the_bound() -> None:
    """A workflow that starts itself is refused at the nesting limit, and every run in the chain names the refusal."""
    async with HostWorld() as world:
        run = await begun(world, ITSELF, {})
        last = await ends(world, run, Conclusion.FAILURE)
        assert len(all_of(world)) == chains.CHILD_RUN_DEPTH_MAX
        depths = [event.trigger.payload["parent_run"]["depth"] for event in all_of(world).values()]
        assert depths == list(range(1, chains.CHILD_RUN_DEPTH_MAX + 1))
        newest = list(all_of(world))[-1]
        refusal = world.queries.run(newest).jobs[0].steps[0].reason
        assert "which is the limit [WF609]" in refusal.text
        assert "failed: " in last.reason.text


def test_a_chain_counts_both_ways_of_starting_another_run() -> None:
    """A chain that mixes both kinds of starts has the same limit, and payloads of other triggers cannot forge a depth."""
    step = Trigger(kind=TriggerKind.PARENT_RUN, payload={"name": "parent_run", "parent_run": {"depth": 3}})
    after = Trigger(kind=TriggerKind.WORKFLOW_RUN, payload={"name": "workflow_run", "workflow_run": {"depth": 4}})
    assert [chains.depth_of(trigger) for trigger in (step, after)] == [3, 4]
    assert chains.depth_of(Trigger(kind=TriggerKind.WEBHOOK, payload={"name": "x", "parent_run": {"depth": 9}})) == 0
    assert (
        chains.depth_of(Trigger(kind=TriggerKind.WEBHOOK, payload={"name": "parent_run", "parent_run": {"depth": "9"}}))
        == 0
    )


async def test_a_cancel_goes_to_the_run_that_the_step_started() -> None:
    """The parent ends after its child run, and both are cancelled."""
    async with HostWorld() as world:
        run = await begun(world)
        other = await waits(world, run)
        await world.driver.cancel(run, "ann")
        await ends(world, other, Conclusion.CANCELLED)
        await ends(world, run, Conclusion.CANCELLED)
        assert world.queries.run(other).cancel_by == f"run {run}"


async def test_a_cancel_by_force_ends_both_at_once() -> None:
    """Both end even if the child run's server never answers."""
    async with HostWorld() as world:
        run = await begun(world)
        other = await waits(world, run)
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        await until(lambda: bool(world.link.offers()), 60)
        await world.driver.cancel(run, "ann")
        await world.settle()
        assert world.kinds(run)[-1] == "CancelRequested"
        await world.driver.cancel(run, "ann", is_forced=True)
        await ends(world, run, Conclusion.CANCELLED)
        await ends(world, other, Conclusion.CANCELLED)
        assert world.queries.run(other).is_forced


async def test_a_step_that_waits_for_no_run_leaves_it_alone() -> None:
    """With `wait: false`, neither the end nor a cancel of the parent affects the child run."""
    text = PARENT.replace("with: {", "with: {wait: false, ")
    async with HostWorld() as world:
        run = await begun(world, text)
        other = await waits(world, run)
        await ends(world, run, Conclusion.SUCCESS)
        assert world.queries.run(run).jobs[0].steps[0].outputs == {"run-id": other}
        assert not world.queries.run(other).is_completed


async def test_the_policy_of_groups_holds_for_the_started_run() -> None:
    """The child run belongs to the same repository and has the same permissions."""
    async with HostWorld() as world:
        policy = msgspec.structs.replace(world.world, may_use=lambda repository, group: repository is None)
        world.driver.state = policy
        run = await begun(world)
        await waits(world, run)
        last = await ends(world, run, Conclusion.FAILURE)
        assert 'may not use the group "web"' in last.reason.text


async def test_nothing_is_remembered_of_runs_that_are_over() -> None:
    """Completed runs and answered attempts leave no state behind."""
    async with HostWorld() as world:
        run = await begun(world)
        await waits(world, run)
        await work(world, outputs={"x": "made"})
        await ends(world, run, Conclusion.SUCCESS)
        book = world.world.child_runs
        assert (book._wanted, book._waiting, book._watched, book._of_run) == ({}, {}, {}, {})


async def test_an_answer_about_another_run_changes_nothing() -> None:
    """Stale answers are ignored: for a run that the attempt did not start, and for an attempt that has ended."""
    async with HostWorld() as world:
        run = await begun(world)
        other = await waits(world, run)
        before = world.kinds(run)
        place: dict[str, Any] = {"job": JobId("a"), "step": StepId("other"), "attempt": AttemptNo(1)}
        wrong = inputs.ChildRunEnded(**place, run=RunId("0" * 26), conclusion=Conclusion.SUCCESS, why="")
        again = inputs.ChildRunCreated(**place, run=RunId("0" * 26), name="x", number=1)
        world.driver.submit([(run, wrong), (run, again)])
        await world.settle()
        assert world.kinds(run) == before
        assert started_by(world, run) == [other]


def test_a_long_attempt_id_gives_a_short_trigger_key() -> None:
    """Ids of nested steps grow, but the length of a trigger key is bounded."""
    long = AttemptId(RunId("0" * 26), JobId("a"), StepId("x/" * 400), AttemptNo(1))
    other = msgspec.structs.replace(long, number=AttemptNo(2))
    keys = {child_runs.trigger_key(place) for place in (long, other)}
    assert len(keys) == 2
    assert all(len(key) < 200 for key in keys)


async def test_too_many_open_runs_are_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on open runs delays the child run; it does not fail the step."""
    async with HostWorld() as world:
        monkeypatch.setattr(driver_module, "OPEN_RUNS_MAX", 1)
        run = await begun(world)
        await until(lambda: "AttemptWaiting" in world.kinds(run), 60)
        monkeypatch.setattr(driver_module, "OPEN_RUNS_MAX", 10)
        await waits(world, run)


async def test_a_fault_in_the_start_of_one_run_does_not_end_the_others() -> None:
    """The starter is supervised: it logs the error and tries again."""
    async with HostWorld() as world:
        world.workflows.fail_next(ZeroDivisionError("a bug"))  # type: ignore[arg-type]
        run = await begun(world)
        await waits(world, run)
        assert world.is_alive
        assert "a fault in Waterflow" in str([event for event in world.events(run) if hasattr(event, "reason")])


def test_a_refusal_says_which_input_is_meant() -> None:
    """The message names the input and the error code."""
    why = child_runs.refusal(Rejected("WF110", "it is required", where="version"))
    assert (why.text, why.facts) == ("version: it is required [WF110]", {"error": "WF110"})


async def test_a_job_with_such_a_step_behind_others_is_placed() -> None:
    """The first step of a job requests the nodes of all steps; `workflow/run` needs no node on the server."""
    text = PARENT.replace("      - id: other", "      - run: before\n      - id: other")
    async with HostWorld() as world:
        world.hello(world.enroll("web-1", "web"))
        await begun(world, text)
        await until(lambda: world.link.offers())
