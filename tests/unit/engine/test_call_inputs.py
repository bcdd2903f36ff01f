"""Inputs of called workflows and composite steps: values from expressions are checked like all others."""

from __future__ import annotations

from typing import Any

import pytest

from waterflowd.model.ids import JobId, StepId
from waterflowd.model.reasons import Reason
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.scenario import Scenario

#: A declaration, the value of an expression for it, and a part of the reason.
WRONG = [
    ("{type: choice, options: [staging, production]}", "$(reboot)", "expected one of staging, production"),
    ("{type: choice, options: [staging, production]}", "prodction", 'did you mean "production"?'),
    ("{pattern: '[a-z]+'}", "x; reboot", "expected text that matches [a-z]+"),
    ("{type: number}", "many", "expected a number"),
    ("{type: boolean}", "yes", "expected true or false"),
    ("{type: json}", "{broken", "expected JSON"),
]
#: A declaration, the value of an expression for it, and the resulting input.
RIGHT = [
    ("{type: choice, options: [staging, production]}", "production", "production"),
    ("{pattern: '[a-z]+'}", "abc", "abc"),
    ("{type: number}", "5", 5),
    ("{type: boolean}", "true", True),
    ("{type: json}", '{"a": [1]}', {"a": [1]}),
]


def composite(declaration: str, value: str) -> Scenario:
    """Returns a run whose second step is a composite step with the first step's output `value` as its input."""
    files = {"steps/deploy/step.yml": f"inputs: {{to: {declaration}}}\nsteps: [{{run: 'deploy ${{{{ inputs.to }}}}'}}]"}
    steps = "[{id: pick, run: pick}, {id: deploy, uses: ./steps/deploy, with: {to: '${{ steps.pick.outputs.value }}'}}]"
    scenario = Scenario(f"jobs: {{a: {{runs-on: web, steps: {steps}}}}}", files)
    scenario.play(f"connect web-1 web\nstart\nfinish a/pick 'out.value={value}'")
    return scenario


def call(declaration: str, value: str) -> Scenario:
    """Returns a run whose second job calls a workflow with the first job's output `value` as its input."""
    files = {
        "workflows/callee.yml": f"on: {{workflow_call: {{inputs: {{to: {declaration}}}}}}}\n"
        "jobs: {work: {runs-on: web, steps: [{run: 'deploy ${{ inputs.to }}'}]}}"
    }
    scenario = Scenario(
        "jobs:\n"
        "  a: {runs-on: web, steps: [{id: pick, run: pick}], outputs: {value: '${{ steps.pick.outputs.value }}'}}\n"
        "  call: {needs: a, uses: ./workflows/callee.yml, with: {to: '${{ needs.a.outputs.value }}'}}\n",
        files,
    )
    scenario.play(f"connect web-1 web\nstart\nfinish a/pick 'out.value={value}'")
    return scenario


def check_failure(conclusion: Conclusion | None, reason: Reason, value: str, expected: str) -> None:
    assert conclusion is Conclusion.FAILURE
    assert reason.code.value == "input-invalid"
    assert 'input "to"' in reason.text
    assert f'found "{value}"' in reason.text
    assert expected in reason.text


@pytest.mark.parametrize(("declaration", "value", "expected"), WRONG)
def test_a_wrong_value_fails_the_composite_step_before_anything_in_it_runs(
    declaration: str, value: str, expected: str
) -> None:
    """A `choice` or `pattern` protects a script only if values that are known late are checked too."""
    scenario = composite(declaration, value)
    step = scenario.run.jobs[0].steps_by_id[StepId("deploy")]
    assert not step.blocks
    check_failure(step.conclusion, step.reason, value, expected)


@pytest.mark.parametrize(("declaration", "value", "converted"), RIGHT)
def test_a_value_that_fits_is_converted_for_the_composite_step(declaration: str, value: str, converted: Any) -> None:
    """Text from an output is converted to the input's type, as if it were written in the file."""
    step = composite(declaration, value).run.jobs[0].steps_by_id[StepId("deploy")]
    assert step.blocks
    assert step.inputs == {"to": converted}


@pytest.mark.parametrize(("declaration", "value", "expected"), WRONG)
def test_a_wrong_value_fails_the_job_that_calls_a_workflow(declaration: str, value: str, expected: str) -> None:
    """No job of the called workflow starts."""
    job = call(declaration, value).run.jobs[1]
    assert job.children is None
    check_failure(job.conclusion, job.reason, value, expected)


@pytest.mark.parametrize(("declaration", "value", "converted"), RIGHT)
def test_a_value_that_fits_is_converted_for_the_called_workflow(declaration: str, value: str, converted: Any) -> None:
    """JSON text is parsed, whether it is in the file or comes from an expression."""
    job = call(declaration, value).run.jobs[1]
    assert job.children is not None
    assert job.children.scope is not None
    assert job.children.scope.inputs == {"to": converted}


def test_an_omitted_choice_is_its_first_option() -> None:
    """Called workflows and composite steps behave like a manual start."""
    callee = "inputs: {to: {type: choice, options: [staging, production]}}\n"
    work = "steps: [{run: 'deploy ${{ inputs.to }}'}]"
    files = {
        "workflows/callee.yml": f"on: workflow_call\n{callee}jobs: {{work: {{runs-on: web, {work}}}}}",
        "steps/deploy/step.yml": callee + work,
    }
    scenario = Scenario(
        "jobs:\n  call: {uses: ./workflows/callee.yml}\n  a: {runs-on: web, steps: [{uses: ./steps/deploy}]}", files
    )
    scenario.play("connect web-1 web\nstart")
    called, job = scenario.run.jobs[0], scenario.run.jobs_by_id[JobId("a")]
    assert called.children is not None
    assert called.children.scope is not None
    assert called.children.scope.inputs == {"to": "staging"}
    assert next(iter(job.steps_by_id.values())).inputs == {"to": "staging"}


def test_null_from_an_expression_is_an_omitted_value() -> None:
    """The default is used; without one, a required input fails with a reason that says so."""
    files = {"steps/deploy/step.yml": "inputs: {to: {required: true}}\nsteps: [{run: 'deploy ${{ inputs.to }}'}]"}
    scenario = Scenario(
        "jobs: {a: {runs-on: web, steps: [{id: deploy, uses: ./steps/deploy, with: {to: '${{ null }}'}}]}}", files
    )
    scenario.play("connect web-1 web\nstart")
    step = scenario.run.jobs[0].steps_by_id[StepId("deploy")]
    assert step.reason.text == 'input "to" is required; it was passed as null'


SECRETS = [
    ("{pattern: '[^;]+'}", "an input with a pattern cannot take a secret"),
    ("{type: choice, options: [a, b]}", "an input of type choice cannot take a secret"),
    ("{type: number}", "an input of type number cannot take a secret"),
    ("{type: json}", "an input of type json cannot take a secret"),
]


@pytest.mark.parametrize(("declaration", "expected"), SECRETS)
def test_a_secret_never_passes_a_check_of_its_value(declaration: str, expected: str) -> None:
    """The daemon sees only a reference to the secret; the compiler reports it, and for a nested input the engine does."""
    inner = f"inputs: {{to: {declaration}}}\nsteps: [{{run: 'deploy ${{{{ inputs.to }}}}'}}]"
    uses = "{uses: ./steps/inner, with: {to: '${{ secrets.TOKEN }}'}}"
    with pytest.raises(ValueError, match=expected):
        Scenario(f"jobs: {{a: {{runs-on: web, steps: [{uses}]}}}}", {"steps/inner/step.yml": inner})
    files = {
        "steps/inner/step.yml": inner,
        "steps/outer/step.yml": "inputs: {to: {}}\n"
        "steps: [{id: inner, uses: ./steps/inner, with: {to: '${{ inputs.to }}'}}]",
    }
    uses = "{id: outer, uses: ./steps/outer, with: {to: '${{ secrets.TOKEN }}'}}"
    scenario = Scenario(f"jobs: {{a: {{runs-on: web, steps: [{uses}]}}}}", files)
    scenario.play("connect web-1 web\nstart")
    step = scenario.run.jobs[0].steps_by_id[StepId("outer/inner")]
    assert step.conclusion is Conclusion.FAILURE
    assert step.reason.code.value == "input-invalid"
    assert expected in step.reason.text
    assert "TOKEN" not in step.reason.text


def test_text_and_json_inputs_may_contain_secrets() -> None:
    """Their values are filled in when the task is sent to the server."""
    inner = (
        "inputs: {text: {}, data: {type: json}}\nsteps: [{run: 'deploy ${{ inputs.text }} ${{ inputs.data.token }}'}]"
    )
    uses = "{id: a, uses: ./steps/inner, with: {text: 'x ${{ secrets.A }}', data: {token: '${{ secrets.B }}'}}}"
    scenario = Scenario(f"jobs: {{a: {{runs-on: web, steps: [{uses}]}}}}", {"steps/inner/step.yml": inner})
    scenario.play("connect web-1 web\nstart")
    (inner_step,) = scenario.run.jobs[0].steps_by_id[StepId("a")].blocks[0].steps
    assert inner_step.plan.secrets == ("A", "B")
    assert inner_step.attempts
