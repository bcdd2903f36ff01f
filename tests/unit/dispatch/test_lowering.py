"""Lowering: an attempt becomes the same task as often as it is offered."""

from __future__ import annotations

from waterflow_agent.wire import messages
from waterflowd.dispatch import lowering
from waterflowd.engine import commands, outstanding
from waterflowd.testing.scenario import Scenario


def task(step: str, script: str = "", *, start: str = "start", instance: str = "i") -> messages.Task:
    """The task of the open attempt of a workflow with this one step."""
    workflow = f"""
env: {{A: workflow, B: workflow}}
on: {{workflow_dispatch: {{inputs: {{dir: {{type: string, default: ""}}}}}}}}
jobs:
  a:
    runs-on: web
    timeout-minutes: 10
    env: {{B: job}}
    steps:
      - {step}
"""
    world = Scenario(workflow)
    world.play(f"connect web-1 web\n{start}\n{script}")
    (send,) = [command for command in outstanding(world.run) if isinstance(command, commands.SendTask)]
    return lowering.lower(world.run, send, instance)


def test_the_same_attempt_is_the_same_task() -> None:
    """Only the session's instance differs between two offers."""
    first, second = task("run: work"), task("run: work", instance="j")
    assert (first.instance, second.instance) == ("i", "j")
    assert first.params == second.params
    assert first.key == second.key


def test_layers_of_the_environment_are_laid_over_each_other() -> None:
    """Step over job over workflow."""
    assert task("{run: work, env: {C: step}}").env == {"A": "workflow", "B": "job", "C": "step"}


def test_the_time_out_is_the_smaller_of_the_steps_and_what_is_left_of_the_jobs() -> None:
    """Both are enforced by the agent alone, when the link is cut."""
    assert task("{run: work, timeout-minutes: 2}").timeout_ms == 120_000
    assert task("{run: work, timeout-minutes: 60}").timeout_ms == 600_000
    assert task("run: work").timeout_ms == 600_000


def test_a_rendered_directory_is_the_rendered_one_even_if_it_is_empty() -> None:
    """An expression that yields nothing means the job's own directory, never its own source text."""
    step = "{run: work, working-directory: '${{ inputs.dir }}'}"
    assert task(step, start="start dir=sub").working_directory == "sub"
    assert task(step).working_directory in (None, "")


def test_a_cancel_names_the_attempt_as_its_offer_did() -> None:
    """One key for one attempt, on the way there and on the way to its end."""
    world = Scenario("jobs: {a: {runs-on: web, steps: [{run: x}]}}")
    world.play("connect web-1 web\nstart\ncancel")
    owed = list(outstanding(world.run))
    (send,) = [command for command in owed if isinstance(command, commands.SendTask)]
    (cancel,) = [command for command in owed if isinstance(command, commands.CancelTask)]
    assert lowering.cancel(world.run, cancel).key == lowering.lower(world.run, send, "i").key
