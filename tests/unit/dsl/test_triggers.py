"""What starts a workflow: webhooks, other workflows, calls."""

from __future__ import annotations

import pytest

from tests.unit.dsl.conftest import Language
from waterflowd.model.plan import InputSpec, Triggers, WebhookTrigger, WorkflowRunTrigger

JOBS = "\njobs: {j: {runs-on: g, steps: [{run: x}]}}"


def test_a_webhook_has_a_name_and_a_secret(language: Language) -> None:
    """The default name is the file's name; the secret is given by name, in either spelling."""
    for secret in ("HOOK", "'${{ secrets.HOOK }}'"):
        triggers = language.plan(f"on: {{webhook: {{secret: {secret}}}}}{JOBS}").triggers
        assert triggers == Triggers(dispatch=False, webhook=WebhookTrigger(name="w", secret="HOOK"))
    triggers = language.plan(f"on: {{webhook: {{name: forge.push, secret: A}}, manual: }}{JOBS}").triggers
    assert triggers == Triggers(webhook=WebhookTrigger(name="forge.push", secret="A"))


def test_a_workflow_may_start_after_another_one(language: Language) -> None:
    """Filters for conclusions and branches are supported; GitHub's `types` is accepted."""
    triggers = language.plan(
        "on: {workflow_run: {workflows: [build, workflows/test.yml], types: [completed], conclusions: [success, lost], "
        f"branches: main}}}}{JOBS}"
    ).triggers
    assert triggers.workflow_run == WorkflowRunTrigger(
        workflows=("build", "workflows/test.yml"), conclusions=("success", "lost"), branches=("main",)
    )
    assert not triggers.dispatch


def test_nothing_else_starts_a_workflow_that_can_only_be_called(language: Language) -> None:
    """Neither a push nor a manual start does."""
    assert language.plan(f"on: workflow_call{JOBS}").triggers == Triggers(dispatch=False)


def test_calls_and_manual_starts_may_have_different_inputs(language: Language) -> None:
    """Expressions can use both; the plan has those of a manual start."""
    plan = language.plan(
        "on: {workflow_call: {inputs: {a: }}, workflow_dispatch: {inputs: {b: }}}\n"
        "jobs: {j: {runs-on: g, steps: [{run: 'echo ${{ inputs.a }} ${{ inputs.b }}'}]}}"
    )
    assert plan.inputs == (InputSpec(name="b"),)


@pytest.mark.parametrize(
    ("on", "code", "words"),
    [
        ("webhook", "WF105", "secret"),
        ("{webhook: {secret: 'a-b'}}", "WF136", "never its value"),
        ("{webhook: {secret: A, name: 'a b'}}", "WF106", "letters"),
        ("{webhook: {secret: A, nme: a}}", "WF103", 'did you mean "name"'),
        ("workflow_run", "WF105", "workflows"),
        ("{workflow_run: {workflows: []}}", "WF106", "at least one"),
        ("{workflow_run: {workflows: [a], types: [requested]}}", "WF106", "completed"),
        ("{workflow_run: {workflows: [a], conclusions: [sucess]}}", "WF106", 'did you mean "success"'),
        ("{workflow_run: {workflows: [w]}}", "WF106", "run forever"),
        ("{workflow_run: {workflows: [workflows/w.yml]}}", "WF106", "run forever"),
        ("{workflow_run: {workflows: [a], branches: [b], branches-ignore: [c]}}", "WF116", "cannot be combined"),
        ("{workflow_call: {outputs: {a: '${{ jobs.k.outputs.x }}'}}}", "WF125", "job"),
        ("{workflow_call: {outputs: {a: '${{ needs.j.outputs.x }}'}}}", "WF129", "write jobs"),
        ("{workflow_call: {outputs: {a: }}}", "WF106", "text"),
        ("{workflow_call: {inputs: {a: {type: number, default: b}}}}", "WF110", "a number"),
        ("{workflow_call: {secrets: {A: {required: maybe}}}}", "WF106", "true or false"),
        ("{workflow_call: {secrets: {a b: }}}", "WF109", "a-b"),
        ("issues", "WF113", "webhook"),
        ("pull_request_review", "WF113", "webhook"),
    ],
)
def test_a_mistake_in_on_has_its_code(language: Language, on: str, code: str, words: str) -> None:
    """One mistake is one error with a next action."""
    error = language.error(f"on: {on}{JOBS}")
    assert error.code == code
    assert words in f"{error.message} {error.suggestion}"


def test_call_inputs_are_declared_only_once(language: Language) -> None:
    """The shorthand and the long form are mutually exclusive."""
    error = language.error(f"inputs: {{a: }}\non: {{workflow_call: {{inputs: {{b: }}}}}}{JOBS}")
    assert (error.code, "declared twice" in error.message) == ("WF116", True)


def test_the_jobs_context_exists_only_in_outputs_of_a_call(language: Language) -> None:
    """Elsewhere it is `needs`."""
    error = language.error("jobs: {j: {runs-on: g, steps: [{run: 'x ${{ jobs.j.result }}'}]}}")
    assert (error.code, "needs" in error.message) == ("WF129", True)


@pytest.mark.parametrize("used", ["runner.nothing", "agent.nothing", "job.nothing", "run.nmber", "git.shaa"])
def test_an_unknown_context_property_is_an_error(language: Language, used: str) -> None:
    """This applies where the language defines all properties of the context."""
    error = language.error(f"jobs: {{j: {{runs-on: g, steps: [{{run: 'x ${{{{ {used} }}}}'}}]}}}}")
    assert error.code == "WF125"
