"""The workflow that a step starts: how it is named, its inputs, and the errors when it cannot be started."""

from __future__ import annotations

import pytest

from waterflowd.dsl import compile_workflow
from waterflowd.dsl.building.uses.child_workflows import child_workflow_path
from waterflowd.model import plan as plans

OTHER = """
on:
  workflow_dispatch:
    inputs:
      version: {required: true}
      count: {type: number, default: 1}
jobs: {b: {runs-on: web, steps: [{run: work}]}}
"""
CALLED = """
on:
  workflow_call:
    inputs: {who: {required: true}}
    outputs: {url: {value: "${{ jobs.b.outputs.url }}"}}
jobs: {b: {runs-on: web, outputs: {url: x}, steps: [{run: work}]}}
"""
FILES = {
    "workflows/other.yml": OTHER,
    "workflows/called.yml": CALLED,
    "ops/far.yaml": "jobs: {b: {runs-on: web, steps: [{run: work}]}}",
    "workflows/broken.yml": "jobs:\n  b: {runs-on: 1, steps: []}\n",
    "workflows/no-yaml.yml": "jobs: {",
}


def found(target: str, files: dict[str, str] | None = None, key: str = "") -> list[tuple[int, str, str]]:
    """Returns line, code and message of each error of a step that starts a run."""
    text = f"jobs:\n  a:\n    runs-on: web\n    steps:\n      - uses: workflow/run\n        with: {target}\n{key}"
    others = {path: content.encode() for path, content in (FILES if files is None else files).items()}
    others["workflows/main.yml"] = text.encode()
    compiled = compile_workflow("workflows/main.yml", text.encode(), others)
    assert (compiled.plan is None) == bool(compiled.diagnostics)
    return [(one.line, one.code, one.message) for one in compiled.diagnostics]


@pytest.mark.parametrize(
    ("workflow", "path"),
    [
        ("b.yml", "workflows/sub/b.yml"),
        ("./b.yml", "b.yml"),
        ("workflows/b.yaml", "workflows/b.yaml"),
        ("./workflows/b.yml", "workflows/b.yml"),
        ("../b.yml", None),
        ("/etc/b.yml", "etc/b.yml"),
        ("workflows/../../b.yml", None),
        ("b", None),
        ("", None),
        ("b.yml@main", None),
        ("a\\b.yml", None),
        ("x" * 500 + ".yml", None),
    ],
)
def test_a_target_is_a_path_from_the_root_or_a_name_beside_the_workflow(workflow: str, path: str | None) -> None:
    """A path must not lead outside of the repository."""
    assert child_workflow_path("workflows/sub/a.yml", workflow) == path


@pytest.mark.parametrize(
    "target",
    [
        "{workflow: other.yml, inputs: {version: 1}}",
        "{workflow: ./workflows/other.yml, inputs: {Version: '1', count: '2'}, wait: false}",
        "{workflow: called.yml, inputs: {who: ann}}",
        "{workflow: ops/far.yaml}",
        "{workflow: main.yml}",
        '{workflow: "${{ git.branch }}.yml", inputs: {anything: 1}}',
        "{workflow: other.yml, inputs: \"${{ fromJSON('{}') }}\"}",
        '{workflow: other.yml, inputs: {version: "${{ git.sha }}"}, wait: "${{ git.branch == \'main\' }}"}',
    ],
)
def test_a_step_may_start_any_workflow_of_its_revision(target: str) -> None:
    """A workflow may even start itself; a target with expressions is checked when its value is known."""
    assert found(target) == []


@pytest.mark.parametrize(
    ("target", "code", "expected_message"),
    [
        ("{workflow: nowhere.yml}", "WF135", 'the file "workflows/nowhere.yml" does not exist in this revision'),
        ("{workflow: ../x.yml}", "WF135", "not a workflow of this repository"),
        ("{workflow: other}", "WF135", "not a workflow of this repository"),
        ("{workflow: broken.yml}", "WF135", 'the workflow "workflows/broken.yml" cannot be started: line 2:'),
        ("{workflow: no-yaml.yml}", "WF135", "cannot be started: "),
        ("{workflow: other.yml}", "WF110", 'the workflow "other.yml" requires the input "version"'),
        ("{workflow: other.yml, inputs: {version: 1, verison: 2}}", "WF110", 'has no input "verison"'),
        ("{workflow: other.yml, inputs: {version: 1, count: many}}", "WF110", "expected a number"),
        ("{workflow: called.yml, inputs: {version: 1}}", "WF110", 'has no input "version"'),
        ("{workflow: other.yml, inputs: [1]}", "WF115", "inputs: "),
        ("{workflow: other.yml, inputs: {version: 1}, wait: perhaps}", "WF115", "wait: "),
        ("{inputs: {version: 1}}", "WF115", "requires the parameter"),
        ('{workflow: other.yml, inputs: {version: "${{ secrets.X }}"}}', "WF129", "secrets cannot be used here"),
    ],
)
def test_an_invalid_target_is_an_error_at_the_step(target: str, code: str, expected_message: str) -> None:
    """The error points into this file, whichever file contains the mistake."""
    errors = found(target)
    assert [error for error in errors if error[0] == 6 and error[1] == code and expected_message in error[2]], errors


def test_a_step_that_starts_a_run_supports_retry_and_timeout() -> None:
    """The step supports the keys that it shares with steps on agents; those of a process are refused."""
    retry = "        retry: {max-attempts: 2}\n        timeout-minutes: 5\n"
    assert found("{workflow: ops/far.yaml}", key=retry) == []
    for key in ("on-lost: retry", "shell: bash", "working-directory: x", "stop: {grace: 1s}"):
        errors = found("{workflow: ops/far.yaml}", key=f"        {key}\n")
        assert [code for _, code, _ in errors] == ["WF116"], errors


def test_a_file_without_a_repository_cannot_start_child_runs() -> None:
    """This applies whether the target is known or not, because the run has no repository."""
    for workflow in ("other.yml", '"${{ git.branch }}"'):
        text = f"jobs: {{a: {{runs-on: web, steps: [{{uses: workflow/run, with: {{workflow: {workflow}}}}}]}}}}"
        compiled = compile_workflow("w.yml", text.encode())
        assert [one.code for one in compiled.diagnostics] == ["WF135"]


def test_the_plan_depends_on_the_file_that_its_step_starts() -> None:
    """A new version of that file is checked again."""
    text = "jobs: {a: {runs-on: web, steps: [{uses: workflow/run, with: {workflow: ops/far.yaml}}]}}"
    compiled = compile_workflow("workflows/main.yml", text.encode(), {"ops/far.yaml": FILES["ops/far.yaml"].encode()})
    assert "ops/far.yaml" in compiled.files


@pytest.mark.parametrize(
    ("on", "names", "outputs"),
    [
        (CALLED, ["who"], {"url": "${{ jobs.b.outputs.url }}"}),
        (OTHER, ["version", "count"], {}),
        (
            CALLED.replace("\non:", "\n" + "on:\n  workflow_dispatch: {inputs: {by-hand: {}}}"),
            ["by-hand"],
            {"url": "${{ jobs.b.outputs.url }}"},
        ),
        (CALLED.replace("\non:", "\n" + "on:\n  push:"), ["who"], {"url": "${{ jobs.b.outputs.url }}"}),
    ],
)
def test_a_child_run_has_manual_inputs_or_else_call_inputs(on: str, names: list[str], outputs: dict[str, str]) -> None:
    """The run also has the outputs of a call, however it was started."""
    compiled = compile_workflow("w.yml", on.encode())
    assert compiled.plan is not None, compiled.diagnostics
    plan = plans.decode(compiled.plan)
    assert [spec.name for spec in plan.inputs] == names
    assert plan.outputs == outputs
