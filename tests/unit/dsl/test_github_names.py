"""The `github` and `runner` contexts, GitHub's variables in scripts, and values that only the server knows."""

from __future__ import annotations

import json

import pytest

from tests.unit.dsl.conftest import Language
from waterflowd.dsl.models import github_names
from waterflowd.dsl.models.expression_scopes import CONTEXTS
from waterflowd.model.plan import SETUP_STEP


def with_step(step: str, job: str = "", top: str = "") -> str:
    return f"{top}\njobs: {{j: {{runs-on: g, {job} steps: [{step}]}}}}"


@pytest.mark.parametrize(
    "expression",
    [
        "github.sha",
        "GitHub.Ref_Name",
        "github.repository_owner",
        "github.event.inputs.version",
        "github.event.head_commit.message",
        "github.event.created",
        "github.event.deleted",
        "toJSON(github)",
        "github[inputs.field]",
    ],
)
def test_fields_with_a_true_value_can_be_used(language: Language, expression: str) -> None:
    """Most files of GitHub need no change."""
    step = f"{{if: \"{expression} == 'x'\", run: 'echo ${{{{ {expression} }}}}'}}"

    assert not language.warnings(with_step(step, top="inputs: {field: {}}"))


@pytest.mark.parametrize("field", [*github_names.GITHUB_ONLY_FIELDS, "nonsense"])
def test_a_field_without_a_true_value_is_an_error(language: Language, field: str) -> None:
    """It names the closest counterpart."""
    error = language.error(with_step(f"{{run: 'echo ${{{{ github.{field} }}}}'}}"))

    assert error.code == ("WF125" if field == "nonsense" else "WF113")
    assert error.suggestion or field == "nonsense"


def test_the_tables_of_github_s_names_do_not_overlap() -> None:
    """A field has a value, or a counterpart."""
    fields = CONTEXTS["github"].fields
    assert not fields.keys() & github_names.GITHUB_ONLY_FIELDS.keys()
    assert github_names.ALWAYS_EMPTY_FIELDS.keys() <= fields.keys()
    assert not github_names.GITHUB_ONLY_EVENT_FIELDS.keys() & github_names.ALWAYS_EMPTY_EVENT_FIELDS.keys()


def test_fields_of_an_event_that_github_alone_has_are_reported(language: Language) -> None:
    """What a push has on GitHub is an error; what other events have there, which never occur here, is a warning."""
    error = language.error(with_step("{run: 'echo ${{ github.event.pusher.name }}'}"))
    assert (error.code, error.suggestion) == ("WF113", "write github.actor")

    (warning,) = language.warnings(with_step("{if: github.event.pull_request.draft, run: x}"))
    assert (warning.code, warning.message) == (
        "WF138",
        "github.event.pull_request: there are no pull requests here, so it is always null",
    )


@pytest.mark.parametrize("path", ["github.workspace", "runner.temp", "runner.workspace"])
def test_paths_of_the_server_are_for_the_server(language: Language, path: str) -> None:
    """They can be used in what is sent there, but the daemon cannot compute with them."""
    value = f"${{{{ {path} }}}}"
    env = f"{{A: \"${{{{ format('{{0}}/a', {path}) }}}}\"}}"
    used = f"{{run: 'cd \"{value}/x\"', env: {env}, working-directory: '{value}'}}"
    assert language.steps(used)

    for step in (
        f"{{if: \"{path} == 'x'\", run: x}}",
        f"{{name: '${{{{ {path} }}}}', run: x}}",
        f"{{run: 'echo ${{{{ {path} == 1 }}}}'}}",
        f"{{if: env.A == 'x', env: {{A: '${{{{ {path} }}}}'}}, run: x}}",
    ):
        error = language.error(with_step(step))
        assert error.code == "WF146"


def test_paths_of_the_server_are_known_in_composite_steps(language: Language) -> None:
    """In what is sent to the server, as in the steps of a job."""
    steps = "{run: 'cd ${{ github.workspace }}', env: {A: '${{ runner.temp }}'}}, {uses: log, with: {message: hi}}"
    files = {"a/step.yml": f"steps: [{steps}]"}
    assert language.plan(with_step("{uses: ./a}"), files)

    files = {"a/step.yml": "steps: [{run: x, if: github.workspace}]"}
    assert language.error(with_step("{uses: ./a}"), files).code == "WF146"
    files = {"a/step.yml": "steps: [{run: x, env: {A: \"${{ secrets.B == 'x' }}\"}}]"}
    assert language.error(with_step("{uses: ./a}"), files).code == "WF129"


@pytest.mark.parametrize(
    "step",
    [
        "{if: env.T == 'x', run: x}",
        "{name: 'T ${{ env.t }}', run: x}",
        "{run: 'echo ${{ env.T == 1 }}'}",
        "{run: 'echo ${{ toJSON(env) }}'}",
        "{env: {A: '${{ env.T }}'}, if: \"env.A != ''\", run: x}",
        "{uses: approval, with: {message: '${{ env.T }}'}}",
        "{run: x, timeout-minutes: '${{ env.T }}'}",
    ],
)
@pytest.mark.parametrize("where", ["workflow", "job"])
def test_a_secret_in_a_variable_cannot_be_computed_with(language: Language, step: str, where: str) -> None:
    """The daemon has a placeholder in its place, which nobody must see or compare."""
    env = "env: {T: 'Bearer ${{ secrets.TOKEN }}'}"
    text = with_step(step, top=env) if where == "workflow" else with_step(step, job=f"{env},")

    assert language.error(text).code == "WF136"


def test_a_secret_in_a_variable_can_be_passed_on(language: Language) -> None:
    """Alone and in text, in what is sent to the server; a step that overrides the variable may compute with it."""
    assert language.steps(
        "{run: 'curl -H \"${{ env.T }}\"', env: {A: 'x ${{ env.T }}'}}, {if: env.T == 'x', env: {T: x}, run: x}",
        top="env: {T: '${{ secrets.TOKEN }}'}",
    )


@pytest.mark.parametrize(
    "step",
    [
        "{if: NAME != '', run: x}",
        "{run: 'echo ${{ NAME || 1 }}'}",
        "{name: 'T ${{ NAME }}', run: x}",
        "{run: x, timeout-minutes: '${{ NAME }}'}",
        "{env: {A: 'x ${{ NAME }}'}, if: \"env.A != ''\", run: x}",
        "{env: {A: \"${{ NAME == 'x' }}\"}, run: x}",
        "{uses: approval, with: {message: '${{ NAME }}'}}",
        "{uses: loop, with: {items: ['${{ NAME }}'], steps: [{run: x}]}}",
        "{uses: condition, env: {A: '${{ NAME }}'}, with: {if: true, then: [{if: env.A, run: x}]}}",
        "{run: 'echo ${{ NAME }}', unsafe-interpolation: true}",
        "{uses: ./steps/inner, with: {value: 'x ${{ NAME }}'}}",
        "{uses: ./steps/inner, env: {VALUE: 'x ${{ NAME }}'}}",
    ],
)
@pytest.mark.parametrize(
    ("use", "name", "at"),
    [
        ("with: {token: '${{ secrets.T }}'}", "inputs.token", "token:"),
        ("with: {token: 'x ${{ env.JOB }}'}", "inputs.token", "token:"),
        ("env: {Own: '${{ secrets.T }}'}", "env.OWN", "Own:"),
        ("name: x", "env.JOB", "uses:"),
    ],
)
def test_a_secret_is_not_passed_to_a_composite_step_that_computes_with_it(
    language: Language, step: str, use: str, name: str, at: str
) -> None:
    """As an input or in a variable; the error is at the call, also where the value came through other names."""
    inputs = "inputs: {token: {}}\nsteps:\n"
    files = {
        "steps/go/action.yml": f"{inputs}    - {step.replace('NAME', name)}",
        "steps/inner/step.yml": "inputs: {value: {}}\nsteps: [{run: x, if: inputs.value || env.VALUE}]",
    }
    text = with_step(f"{{uses: ./steps/go, {use}}}", job="env: {JOB: '${{ secrets.T }}'},")

    error = language.error(text, files)
    assert (error.code, error.path) == ("WF136", "workflows/w.yml")
    assert text.splitlines()[error.line - 1][error.column - 1 :].startswith(at)


def test_a_composite_step_may_pass_a_secret_on(language: Language) -> None:
    """To its scripts, nodes and inner composite steps; it may compute with its other inputs, and with what it sets itself."""
    action = (
        "inputs: {token: {}, mode: {}}\nsteps:\n"
        "  - {run: 'curl -H \"${{ inputs.token }}\" $T', env: {A: 'x ${{ inputs.token }}', JOB: x}}\n"
        "  - {run: x, if: inputs.mode == 'x' && env.JOB == 'x', env: {JOB: x}}\n"
        "  - {uses: ./steps/inner, with: {value: '${{ inputs.token }}', token: x}}"
    )
    inner = "inputs: {value: {}, token: {}}\nsteps: [{run: 'x ${{ inputs.value }}', if: inputs.token}]"
    files = {"steps/go/action.yml": action, "steps/inner/step.yml": inner}
    use = "{uses: ./steps/go, with: {token: '${{ secrets.T }}', mode: x}, env: {T: '${{ secrets.T }}'}}"

    assert language.plan(with_step(use, job="env: {JOB: '${{ secrets.T }}'},"), files)


def test_a_secret_is_not_an_output_of_a_composite_step(language: Language) -> None:
    """Outputs are recorded."""
    files = {"steps/go/step.yml": "inputs: {token: {}}\noutputs: {a: '${{ inputs.token }}'}\nsteps: [{run: x}]"}

    error = language.error(with_step("{uses: ./steps/go, with: {token: '${{ secrets.T }}'}}"), files)
    assert error.code == "WF136"


def test_a_secret_of_an_outer_step_cannot_be_computed_with(language: Language) -> None:
    """The steps inside it inherit its variables."""
    step = "{uses: loop, env: {T: '${{ secrets.T }}'}, with: {items: [1], steps: [{run: x, if: env.T == 'x'}]}}"

    assert language.error(with_step(step)).code == "WF136"


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("echo $GITHUB_SHA ${GITHUB_REF_NAME} $RUNNER_TEMP", []),
        ("echo $GITHUB_TOKEN", ["GITHUB_TOKEN"]),
        ("echo ${GITHUB_EVENT_PATH:-x} $RUNNER_TOOL_CACHE", ["GITHUB_EVENT_PATH", "RUNNER_TOOL_CACHE"]),
        ("GITHUB_TOKEN=x; echo $GITHUB_TOKEN $MY_GITHUB_TOKEN", []),
        ("echo $GITHUB_MINE $GITHUB_OURS", []),
    ],
)
def test_variables_of_github_that_are_empty_are_reported(language: Language, script: str, names: list[str]) -> None:
    """Those that the file sets are known."""
    text = with_step(f"{{run: '{script}', env: {{GITHUB_MINE: x}}}}", job="env: {GITHUB_OURS: x},")

    warnings = language.warnings(text)
    assert [warning.message.split()[2] for warning in warnings] == names
    assert all(warning.code == "WF138" and warning.suggestion for warning in warnings)


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ('echo "::set-output name=a::b"', ["::set-output"]),
        ("echo ::SET-ENV name=a::b; echo '::add-path::/x'; echo ::add-path::/y", ["::add-path", "::set-env"]),
        ("printf '%s\\n' x ' ::save-state name=a::b'", ["::save-state"]),
        ('echo "::add-mask::x"; echo ::group::y', []),
        ("std::set-output x::set-output ::set-outputs", []),
    ],
)
def test_commands_that_would_set_something_are_reported(language: Language, script: str, names: list[str]) -> None:
    """What a step prints sets nothing; the warning says what to write."""
    warnings = language.warnings(with_step("{run: " + json.dumps(script) + "}"))

    assert [warning.message.split()[2] for warning in warnings] == names
    assert all(warning.code == "WF139" and warning.suggestion for warning in warnings)


@pytest.mark.parametrize(
    ("steps", "has_setup"),
    [
        ("{if: runner.os == 'Linux', run: x}", True),
        ("{run: x}, {if: runner.os == 'Linux', run: x}", False),
        ("{if: inputs.x, run: x}, {if: runner.os == 'Linux', run: x}", True),
        ("{uses: condition, with: {if: agent.group == 'g', then: [{run: x}]}}", True),
        ("{uses: parallel, with: {branches: [[{run: x}], [{if: runner.arch == 'X64', run: x}]]}}", True),
        ("{uses: approval, with: {message: 'on ${{ runner.name }}?'}}", True),
        ("{if: env.A == 'x', env: {A: '${{ runner.os }}'}, run: x}", True),
        ("{run: 'echo ${{ runner.os }}'}", False),
        ("{uses: approval, with: {message: ask the agent}}", False),
    ],
)
def test_a_job_takes_its_server_before_a_condition_asks_for_it(language: Language, steps: str, has_setup: bool) -> None:
    """Without a server, the condition would be about nothing, and false."""
    built = language.steps(steps, top="inputs: {x: {type: boolean, default: false}}")

    assert [step.id == SETUP_STEP for step in built[:1]] == [has_setup]
    assert not any(step.id == SETUP_STEP for step in built[1:])
