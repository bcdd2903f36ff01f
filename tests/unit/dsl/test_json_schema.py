"""The JSON Schema is draft 7 and stable; it accepts what compiles, and finds typing errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit.dsl import schemas
from waterflowd.ctl.main import cli
from waterflowd.dsl import compile_workflow
from waterflowd.dsl.reference import json_schema
from waterflowd.dsl.reference.annotated_schema import FILES
from waterflowd.dsl.reference.entries import NODES, SECTIONS

ROOT = Path(__file__).parents[3]
SCENARIOS = sorted((ROOT / "tests" / "golden" / "scenarios").glob("*.txt"))
EXAMPLES = [*sorted(ROOT.glob("examples/*.yml")), *sorted(ROOT.glob("examples/steps/*/step.yml"))]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_example_is_valid(file: Path) -> None:
    """The examples are workflows and the files of composite steps."""
    assert schemas.complaints(file.read_text("utf-8"), "step" if file.name == "step.yml" else "workflow") == []


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_the_workflow_of_a_scenario_is_valid(file: Path) -> None:
    """The files beside it pass too."""
    sections = file.read_text("utf-8").split("\n--- ")
    for section in sections[1:]:
        name, _, text = section.partition("\n")
        if name == "workflow":
            assert schemas.complaints(text + "\n") == []
        elif name.startswith("file "):
            assert schemas.complaints(text + "\n", "step" if "step" in Path(name).stem else "workflow") == []


def _framed() -> Iterator[Any]:
    for name, section in {**SECTIONS, **NODES}.items():
        for key, entry in section.keys.items():
            kind = "step" if name.startswith("Composite") else "workflow"
            yield pytest.param(section.framed(entry.example), key, kind, id=f"{name}.{key}")


@pytest.mark.parametrize(("text", "key", "kind"), list(_framed()))
def test_a_misspelled_key_is_found_at_each_level(text: str, key: str, kind: str) -> None:
    """Every key of every model and node is tested with an extra letter; a required key is then missing as well."""
    assert schemas.complaints(text, kind) == []
    assert f"{key}:" in text
    broken = text.replace(f"{key}:", f"{key}x:", 1)
    assert any(f"{key}x" in complaint for complaint in schemas.complaints(broken, kind)) or key == "on", broken


WRONG = {
    "a list instead of a text": "name: [a]",
    "a text instead of a mapping": "env: a",
    "a number of minutes in words": "timeout-minutes: long",
    "zero minutes": "timeout-minutes: 0",
    "an event that does not exist": "on: puhs",
    "an event in a list": "on: [push, pull_request]",
    "a filter that does not exist": "on: {push: {branch: main}}",
    "an unknown value of overlap": "on: {schedule: [{cron: '@daily', overlap: wait}]}",
    "a type that does not exist": "inputs: {a: {type: text}}",
    "an invalid variable name": "env: {A B: x}",
    "an expression where none is allowed": "name: ${{ git.sha }}",
    "a limit in words": "concurrency: {group: a, limit: two}",
}
WRONG_JOBS = {
    "no steps": "runs-on: g, steps: []",
    "no runs-on": "steps: [{run: x}]",
    "steps beside a call": "uses: ./a.yml, steps: [{run: x}]",
    "secrets without a call": "runs-on: g, secrets: inherit, steps: [{run: x}]",
    "a list of labels": "runs-on: [a, b], steps: [{run: x}]",
    "a target that does not exist": "runs-on: {group: g, target: all}, steps: [{run: x}]",
    "an invalid percentage": "runs-on: {group: g, target: each, batch: a lot}, steps: [{run: x}]",
    "a text instead of a boolean": "runs-on: g, continue-on-error: perhaps, steps: [{run: x}]",
    "a mapping instead of a condition": "runs-on: g, if: {a: b}, steps: [{run: x}]",
    "too many approvals": "runs-on: g, environment: {name: a, minimum: 21}, steps: [{run: x}]",
}
WRONG_STEPS = {
    "neither run nor uses": "name: x",
    "both": "run: x, uses: log, with: {message: m}",
    "with beside run": "run: x, with: {a: b}",
    "a node that does not exist": "uses: sleeep, with: {duration: 1s}",
    "an action of GitHub": "uses: actions/setup-go@v5",
    "an unknown parameter": "uses: log, with: {message: m, level: info}",
    "a missing parameter": "uses: log, with: {}",
    "no parameters at all": "uses: log",
    "a parameter of the wrong type": "uses: fail, with: {exit-code: many}",
    "a parameter out of bounds": "uses: fail, with: {exit-code: 256}",
    "two ways to sleep": "uses: sleep, with: {duration: 1s, until: 1}",
    "a shell for a node that runs no script": "uses: log, shell: sh, with: {message: m}",
    "a retry of a node that the daemon runs": "uses: sleep, with: {duration: 1s}, retry: {max-attempts: 2}",
    "a stop of a composite step": "uses: ./steps/a, stop: {grace: 1s}",
    "a duration without a unit": "run: x, stop: {grace: 5}",
    "a signal that does not exist": "run: x, stop: {signal: SIGNOPE}",
    "a reason that does not exist": "run: x, retry: {max-attempts: 2, on: crash}",
    "too many attempts": "run: x, retry: {max-attempts: 1001}",
    "an invalid inner step": "uses: loop, with: {items: [a], steps: [{runs: x}]}",
    "an invalid inner step of a branch": "uses: parallel, with: {branches: [[{run: x}], [{rnu: x}]]}",
    "an unknown value of on-lost": "run: x, on-lost: ignore",
}
_STEPS = "jobs: {j: {runs-on: g, steps: [{run: x}]}}"


def _wrong() -> Iterator[Any]:
    for name, text in WRONG.items():
        yield pytest.param(f"{text}\n{_STEPS}\n", id=name)
    for name, text in WRONG_JOBS.items():
        yield pytest.param(f"jobs: {{j: {{{text}}}}}\n", id=name)
    for name, text in WRONG_STEPS.items():
        yield pytest.param(f"jobs: {{j: {{runs-on: g, steps: [{{{text}}}]}}}}\n", id=name)


@pytest.mark.parametrize("text", list(_wrong()))
def test_a_mistake_is_found(text: str) -> None:
    """The mistakes are wrong types, values, limits and combinations of keys; the compiler refuses them too."""
    assert schemas.complaints(text)
    assert compile_workflow("workflows/w.yml", text.encode(), {}).diagnostics


def test_a_composite_step_accepts_any_inputs() -> None:
    """Its inputs are declared in a file that the schema cannot see."""
    assert schemas.complaints("jobs: {j: {runs-on: g, steps: [{uses: ./steps/a, with: {x: [1, {y: z}]}}]}}") == []


@pytest.mark.parametrize("kind", sorted(FILES))
def test_the_schema_is_draft_7_and_describes_every_key(kind: str) -> None:
    """It uses nothing that editors do not support, and no key lacks a description."""
    text = json_schema.schema_text(kind)
    assert json_schema.schema_text(kind) == text
    document = json.loads(text)
    assert document["$schema"] == "http://json-schema.org/draft-07/schema#"
    for newer in ("unevaluatedProperties", "$defs", "dependentRequired", "prefixItems"):
        assert newer not in text
    for name, definition in [("", document), *document["definitions"].items()]:
        assert definition["additionalProperties"] is False
        for key, described in definition["properties"].items():
            assert described["description"], (name, key)


@pytest.mark.parametrize("kind", sorted(FILES))
def test_the_command_prints_the_schema(kind: str) -> None:
    """The command works offline and prints the schema byte for byte."""
    done = CliRunner().invoke(cli, ["schema", "--kind", kind])
    assert (done.exit_code, done.output) == (0, json_schema.schema_text(kind))
