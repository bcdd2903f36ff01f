"""Values that a workflow can make too large: tasks, outputs, names. Only the step or job that is affected fails."""

from __future__ import annotations

import json

import pytest

from waterflow_agent.wire import codec, messages
from waterflowd.dispatch import lowering
from waterflowd.engine import commands, outstanding
from waterflowd.engine.rules.rendering import NAME_LENGTH_MAX
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.scenario import Scenario

#: Doubles its text once for each `&`; every single expression stays within its limit of 1 MiB.
MEGABYTE = "${{ join(range(0, 9999), '0123456789012345678901234567890123456789012345678901234567890123456789012345') }}"


def play(workflow: str, script: str = "connect web-1 web\nstart") -> Scenario:
    scenario = Scenario(workflow)
    scenario.play(script)
    return scenario


def write(scenario: Scenario, step: str, name: str, size: int) -> None:
    """Completes the step with an environment variable of this size."""
    job, found, attempt = scenario._open(f"a/{step}")
    scenario._feed(scenario._report(job, found, attempt, [f"env.{name}={'x' * size}"]))


def test_an_oversized_task_fails_its_step() -> None:
    """Three texts of almost 1 MiB exceed the size of a task: the step fails with a message, and nothing is dispatched."""
    lines = "\n".join(f"              {name}: {MEGABYTE}" for name in "ABC")
    scenario = play(f"jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: 'true'\n        env:\n{lines}\n")
    assert scenario.run.conclusion is Conclusion.FAILURE
    failed = scenario.run.jobs[0].steps[0]
    assert "the limit is" in failed.reason.text
    assert not scenario.placement.server(scenario.registry.agents.popitem()[0]).taken


def test_variables_set_by_steps_count_towards_the_task_size() -> None:
    """Variables in `WATERFLOW_ENV` add up over the job, and the step whose task becomes too large fails."""
    scenario = play("jobs: {a: {runs-on: web, steps: [{run: x}, {run: x}, {run: x}, {run: x}]}}")
    for number, step in enumerate("123"):
        write(scenario, step, f"V{number}", 900_000)
    assert scenario.run.jobs[0].steps[3].conclusion is Conclusion.FAILURE
    assert "environment" in scenario.run.jobs[0].steps[3].reason.text


def test_the_largest_task_fits_on_the_wire() -> None:
    """Whatever the engine accepts can be queued, so it never closes an agent's session."""
    scenario = play("jobs: {a: {runs-on: web, steps: [{run: x}, {run: x}, {run: x}]}}")
    for number, step in enumerate("12"):
        write(scenario, step, f"V{number}", 950_000)
    (send,) = [command for command in outstanding(scenario.run) if isinstance(command, commands.SendTask)]
    task = lowering.draft(scenario.run, send).task
    assert len(memoryview(codec.encode_message(messages.Offer(task)))) <= messages.TASK_BYTES_MAX


def test_a_number_of_more_than_64_bits_is_rounded_before_it_is_stored() -> None:
    """An expression rounds it as JavaScript does, so no step or job fails."""
    number = "${{ fromJSON('100000000000000000000') }}"
    workflow = f'jobs: {{a: {{runs-on: web, outputs: {{n: "{number}"}}, steps: [{{run: x}}]}}}}'
    scenario = play(workflow, "connect web-1 web\nstart\nfinish a/1")
    assert scenario.run.conclusion is Conclusion.SUCCESS
    assert scenario.run.jobs[0].outputs == {"n": 1e20}


def test_rendered_names_are_truncated() -> None:
    """A rendered name of almost 1 MiB would be useless."""
    scenario = play(f'jobs: {{a: {{runs-on: web, name: "{MEGABYTE}", steps: [{{run: x, name: "{MEGABYTE}"}}]}}}}')
    assert len(scenario.run.jobs[0].name) == NAME_LENGTH_MAX
    assert len(scenario.run.jobs[0].steps[0].name) == NAME_LENGTH_MAX


def test_an_invalid_group_fails_the_job() -> None:
    """A group with an empty name or a name of 1 MiB can never have a server, so the job fails at once with a message."""
    for group in ("${{ '' }}", MEGABYTE):
        scenario = play(f'jobs: {{a: {{runs-on: "{group}", steps: [{{run: x}}]}}}}')
        assert scenario.run.conclusion is Conclusion.FAILURE
        assert "group" in scenario.run.jobs[0].reason.text


def test_a_sleep_that_overflows_fails_its_step() -> None:
    """A duration of four hundred digits exceeds 366 days, and does not stall the run."""
    digits = "1" + "0" * 400
    scenario = play(
        f"jobs: {{a: {{runs-on: web, steps: [{{uses: sleep, with: {{duration: \"${{{{ fromJSON('{digits}') }}}}\"}}}}]}}}}"
    )
    assert scenario.run.conclusion is Conclusion.FAILURE


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"items": "${{ run.id }}"}, "items must be a list"),
        ({"items": "${{ fromJSON(format('[{0},1,2,3]', join(range(0, 9999), ','))) }}"}, "items; the limit is 10000"),
        ({"items": [1], "max-parallel": "${{ fromJSON('0') }}"}, "max-parallel is 0"),
        ({"while": "true", "max-iterations": "${{ fromJSON('1.5') }}"}, "max-iterations is 1.5"),
        ({"while": "run.id", "max-iterations": "${{ fromJSON('20000') }}"}, "max-iterations is 20000"),
    ],
)
def test_an_invalid_loop_fails_its_step(parameters: dict[str, object], message: str) -> None:
    """Values from expressions are checked when the step starts."""
    step = {"uses": "loop", "with": {**parameters, "steps": [{"run": "x"}]}}
    scenario = play(json.dumps({"jobs": {"a": {"runs-on": "web", "steps": [step]}}}), "connect web-1 web\nstart")
    assert scenario.run.conclusion is Conclusion.FAILURE
    assert message in scenario.run.jobs[0].steps[0].reason.text
