"""The reference is complete, its examples compile, and its statements about expressions are true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from waterflow_agent.nodes import schema as node_schema
from waterflowd import expr
from waterflowd.dsl import compile_workflow, models
from waterflowd.dsl.building.contexts import KNOWN
from waterflowd.dsl.models.expression_scopes import CONTEXTS, SCOPES
from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import plain, to_json
from waterflowd.dsl.reference.diagnostics import EXAMPLES, RUNTIME_CODES
from waterflowd.dsl.reference.entries import NODES, SECTIONS, Key, Section
from waterflowd.dsl.reporting.codes import CODES
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.expr.functions import Function

#: Files that examples use by path.
FILES = {
    "workflows/library.yml": b"""on: {workflow_call: {inputs: {target: {}}, secrets: {TOKEN: }}}
jobs: {build: {runs-on: web-servers, steps: [{run: make}]}}
""",
    "workflows/other.yml": b"""on: {workflow_dispatch: {inputs: {version: {}}}}
jobs: {build: {runs-on: web-servers, steps: [{run: make}]}}
""",
}


def _compiled(text: str, files: dict[str, bytes] = FILES) -> list[str]:
    compiled = compile_workflow("workflows/example.yml", text.encode(), files)
    return [f"{found.line}: {found.code} {found.message}" for found in (*compiled.diagnostics, *compiled.warnings)]


def _examples() -> Iterator[Any]:
    for name, section in {**SECTIONS, **NODES}.items():
        for key, entry in section.keys.items():
            yield pytest.param(name, section, entry, id=f"{name}.{key}")


# Everything that exists -------------------------------------------------------------------------------------------------------


def test_every_model_and_node_has_an_entry_for_each_key() -> None:
    """The order is that of the models, so that a page reads as the file is written."""
    every = {model.__name__: model for model in models.LanguageModel.__subclasses__()}
    assert {name for name, model in every.items() if model.PAGE is not None} == set(SECTIONS)
    assert set(every) - set(SECTIONS) == {model.__name__ for model in models.CONTROL_FLOW.values()}
    for name, section in SECTIONS.items():
        assert list(section.keys) == models.keys(every[name])
    assert set(NODES) == set(node_schema.BUILT_IN)


@pytest.mark.parametrize("name", sorted(models.CONTROL_FLOW))
def test_the_model_and_the_record_of_a_control_flow_node_have_the_same_keys(name: str) -> None:
    """The record serves clients that list the nodes, the model checks the steps inside."""
    fields = {field.encode_name for field in msgspec.structs.fields(node_schema.BUILT_IN[name].parameters)}
    assert set(models.keys(models.CONTROL_FLOW[name])) == fields == set(NODES[name].keys)


@pytest.mark.parametrize("section", [*SECTIONS.values(), *NODES.values()], ids=lambda section: section.page.name)
def test_every_description_is_a_sentence(section: Section) -> None:
    """It starts with a capital letter or code, and ends with a full stop."""
    for text in (section.description, *(key.description for key in section.keys.values())):
        assert text.endswith("."), text
        assert text[0].isupper() or text[0] in "`#", text


def test_every_context_function_and_code_has_an_entry() -> None:
    """Contexts and codes have one; a function cannot exist without."""
    assert set(CONTEXTS) == set(KNOWN)
    assert set(EXAMPLES) | RUNTIME_CODES == set(CODES)
    assert not set(EXAMPLES) & RUNTIME_CODES


def test_every_scope_is_used() -> None:
    """A scope that no key uses any longer must be removed from the table."""
    used = {key.expressions for section in (*SECTIONS.values(), *NODES.values()) for key in section.keys.values()}
    assert used - {""} == set(SCOPES)


# Examples -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "section", "entry"), list(_examples()))
def test_the_example_of_a_key_compiles_without_a_warning(name: str, section: Section, entry: Key) -> None:
    """A reader can copy it as it is. The file of a composite step compiles when a step uses it."""
    text = section.framed(entry.example)
    if not name.startswith("Composite"):
        assert _compiled(text) == []
        return
    user = "jobs: {j: {runs-on: web-servers, steps: [{uses: ./steps/deploy, with: %s}]}}"
    inputs = "{to: staging}" if "inputs:" in text else "{}"
    assert _compiled(user % inputs, {"steps/deploy/step.yml": text.encode()}) == []


@pytest.mark.parametrize(("name", "section", "entry"), list(_examples()))
def test_the_example_of_a_key_shows_the_key(name: str, section: Section, entry: Key) -> None:
    """Every key has its own example."""
    key = next(key for key, candidate in section.keys.items() if candidate is entry)
    assert f"{key}:" in entry.example


@pytest.mark.parametrize("code", sorted(EXAMPLES))
def test_the_example_of_a_code_causes_it(code: str) -> None:
    """It causes no other code, except in the example of too many errors."""
    example = EXAMPLES[code]
    compiled = compile_workflow("workflows/example.yml", example.content or example.text.encode(), example.files)
    found = {one.code for one in (*compiled.diagnostics, *compiled.warnings)}
    assert code in found
    assert code == "WF119" or found == {code}


@pytest.mark.parametrize("function", expr.FUNCTIONS.values(), ids=lambda function: function.name)
def test_the_examples_of_a_function_have_values(function: Function) -> None:
    """They call the function; functions that need a run (status, clock, files) have none."""
    for example in function.examples:
        assert f"{function.name}(" in example
        json.dumps(expr.evaluate(expr.parse(example), expr.Env()))
    needs_run = function.name in {*expr.STATUS_FUNCTIONS, "now", "hashFiles"}
    assert bool(function.examples) != needs_run
    assert f"{function.name}(" in function.usage


def test_the_example_of_a_context_is_an_expression_over_it() -> None:
    """It can be parsed and names the context."""
    for name, context in CONTEXTS.items():
        assert {path[0] for path, _ in expr.references(expr.parse(context.example))} == {name}


# Expressions --------------------------------------------------------------------------------------------------------------

#: The path of a model in the file below, and which other keys it needs.
_AT: dict[str, tuple[Any, ...]] = {
    "Workflow": (),
    "RunDefaults": ("defaults", "run"),
    "Concurrency": ("concurrency",),
    "CallOutput": ("on", "workflow_call", "outputs", "o"),
    "WorkflowCall": ("on", "workflow_call"),
    "Job": ("jobs", "b"),
    "RunsOn": ("jobs", "b", "runs-on"),
    "Checkout": ("jobs", "b", "checkout"),
    "Strategy": ("jobs", "b", "strategy"),
    "DeploymentEnvironment": ("jobs", "b", "environment"),
    "Report": ("jobs", "b", "report"),
    "Container": ("jobs", "b", "container"),
    "Credentials": ("jobs", "b", "container", "credentials"),
    "Step": ("jobs", "b", "steps", 1),
}
_BESIDE: dict[str, dict[str, Any]] = {
    "CallOutput": {"value": "x"},
    "Concurrency": {"group": "x"},
    "DeploymentEnvironment": {"name": "x"},
    "Report": {"columns": {"X": "x"}},
    "Container": {"image": "x"},
    "Credentials": {"username": "x", "password": "x"},
    "Strategy": {"matrix": {"m": [1, 2]}},
}
#: Keys that do not take plain text, and how an expression is inserted into them.
_PUT: dict[tuple[str, str], Any] = {
    ("Workflow", "vars"): lambda text: {"a": 1, "x": text},
    ("Workflow", "env"): lambda text: {"X": text},
    ("WorkflowCall", "outputs"): lambda text: {"x": text},
    ("Job", "strategy"): lambda text: {"matrix": {"m": text}},
    ("Job", "outputs"): lambda text: {"x": text},
    ("Report", "columns"): lambda text: {"X": text},
    ("Job", "env"): lambda text: {"X": text},
    ("Container", "env"): lambda text: {"X": text},
    ("Job", "with"): lambda text: {"target": text},
    ("RunsOn", "labels"): lambda text: {"arch": text},
    ("Strategy", "matrix"): lambda text: {"m": text},
    ("Step", "env"): lambda text: {"X": text},
    ("Step", "with"): lambda text: {"message": text},
    ("set-outputs", "outputs"): lambda text: {"x": text},
    ("shell", "args"): lambda text: [text],
    ("approval", "approvers"): lambda text: [text],
}
#: An expression over each context that exists wherever the context does.
_OVER: dict[str, str] = {
    "inputs": "inputs.i",
    "vars": "vars.a",
    "git": "git.sha",
    "event": "event.x",
    "run": "run.id",
    "github": "github.sha",
    "needs": "needs.a.result",
    "jobs": "jobs.a.result",
    "matrix": "matrix.m",
    "strategy": "strategy.job-index",
    "env": "env.X",
    "steps": "steps.s.outcome",
    "job": "job.id",
    "agent": "agent.os",
    "runner": "runner.os",
    "secrets": "secrets.X",
}


def _file() -> dict[str, Any]:
    job = {"runs-on": {"group": "g"}, "steps": [{"id": "s", "run": "x"}, {"run": "x"}]}
    second = json.loads(json.dumps({**job, "needs": ["a"], "strategy": {"matrix": {"m": ["bash", "sh"]}}}))
    return {
        "on": {"workflow_call": {"outputs": {"o": {"value": "x"}}}, "push": {}},
        "inputs": {"i": {}},
        "vars": {"a": 1},
        "jobs": {"a": job, "b": second},
    }


def _with_expression(name: str, key: str, expression: str) -> dict[str, Any]:
    """Returns the file with an expression in the key."""
    file, text = _file(), f"${{{{ {expression} }}}}"
    if name in NODES:
        section = NODES[name]
        parameters = _example_of(section, key)
        parameters[key] = _PUT.get((name, key), str)(text)
        file["jobs"]["b"]["steps"][1] = {"uses": name, "with": parameters}
        return file
    if name == "Credentials":
        file["jobs"]["b"]["container"] = {"image": "x"}
    at: Any = file
    for part in _AT[name]:
        at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
    at.update({beside: value for beside, value in _BESIDE.get(name, {}).items() if beside not in at})
    at[key] = _PUT.get((name, key), str)(text)
    if name == "Job" and key == "with":
        file["jobs"]["b"] = {part: at[part] for part in ("needs", "strategy", "with")} | {
            "uses": "./workflows/library.yml"
        }
    if name == "Step" and key == "with":
        file["jobs"]["b"]["steps"][1] = {"uses": "log", "with": at["with"]}
    if name == "RunsOn" and key not in ("group", "labels", "target"):
        at["target"] = "each"
    return file


def _example_of(section: Section, key: str) -> dict[str, Any]:
    content = plain(to_json(reader.read(section.keys[key].example + "\n", DiagnosticReport()).root))
    assert isinstance(content, dict)
    return content


def _keys_with_expressions() -> Iterator[Any]:
    for name, section in {**SECTIONS, **NODES}.items():
        for key, entry in section.keys.items():
            if entry.expressions:
                yield pytest.param(name, key, entry, id=f"{name}.{key}")


#: Codes for an expression that uses an unknown name, as opposed to a wrong value.
_UNKNOWN_NAMES = {"WF122", "WF129", "WF136", "WF123"}


@pytest.mark.parametrize(("name", "key", "entry"), list(_keys_with_expressions()))
def test_a_key_sees_exactly_the_contexts_that_its_entry_lists(name: str, key: str, entry: Key) -> None:
    """Every context is tried in every key, and so are the status functions."""
    seen = set()
    for context, expression in _OVER.items():
        text = json.dumps(_with_expression(name, key, expression))
        compiled = compile_workflow("workflows/example.yml", text.encode(), FILES)
        codes = {found.code for found in compiled.diagnostics}
        assert codes <= _UNKNOWN_NAMES, (expression, [found.message for found in compiled.diagnostics])
        if not codes:
            seen.add(context)
    assert seen == set(SCOPES[entry.expressions].contexts)
    text = json.dumps(_with_expression(name, key, "success()"))
    refused = {one.code for one in compile_workflow("workflows/example.yml", text.encode(), FILES).diagnostics}
    assert (not refused) == SCOPES[entry.expressions].has_status


def _keys_without_expressions() -> Iterator[Any]:
    for name, section in SECTIONS.items():
        for key, entry in section.keys.items():
            # A description is shown unchanged, even if it contains an expression.
            if not entry.expressions and name in _AT and key != "description":
                yield pytest.param(name, key, id=f"{name}.{key}")


@pytest.mark.parametrize(("name", "key"), list(_keys_without_expressions()))
def test_a_key_without_a_scope_accepts_no_expression(name: str, key: str) -> None:
    """The editor's description of the key says the same as the compiler."""
    text = json.dumps(_with_expression(name, key, "git.sha"))
    assert compile_workflow("workflows/example.yml", text.encode(), FILES).diagnostics
