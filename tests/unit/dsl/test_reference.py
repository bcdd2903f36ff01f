"""Claims about the reference: it speaks of everything, its examples work, and what it says of expressions is true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from waterflow_agent.nodes import schema as node_schema
from waterflowd import expr
from waterflowd.dsl import compile_workflow, models
from waterflowd.dsl.building.contexts import FIXED, KNOWN, NEED_FIELDS, STEP_FIELDS
from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import plain, to_json
from waterflowd.dsl.reference import SECTIONS, Key, Section, json_schema
from waterflowd.dsl.reference.diagnostics import EXAMPLES, NOT_OF_A_FILE
from waterflowd.dsl.reference.entries import PLACES
from waterflowd.dsl.reference.expressions import CONTEXTS, FUNCTIONS
from waterflowd.dsl.reference.nodes import NODES
from waterflowd.dsl.reporting.codes import CODES
from waterflowd.dsl.reporting.report import Report

#: What examples use by path.
FILES = {
    "workflows/library.yml": b"""on: {workflow_call: {inputs: {target: {}}, secrets: {TOKEN: }}}
jobs: {build: {runs-on: web-servers, steps: [{run: make}]}}
""",
    "workflows/other.yml": b"""on: {workflow_dispatch: {inputs: {version: {}}}}
jobs: {build: {runs-on: web-servers, steps: [{run: make}]}}
""",
}
BUILT = list(node_schema.BUILT_IN.values())


def _compiled(text: str, files: dict[str, bytes] = FILES) -> list[str]:
    compiled = compile_workflow("workflows/example.yml", text.encode(), files)
    return [f"{found.line}: {found.code} {found.message}" for found in (*compiled.diagnostics, *compiled.warnings)]


def _examples() -> Iterator[Any]:
    for name, section in {**SECTIONS, **NODES}.items():
        if name in SECTIONS or name in node_schema.BUILT_IN:
            for key, entry in section.keys.items():
                yield pytest.param(name, section, entry, id=f"{name}.{key}")


# Everything that exists -------------------------------------------------------------------------------------------------------


def test_every_key_of_every_concept_has_an_entry_and_no_other_has() -> None:
    """In the order of the models, so that a page reads as the file is written."""
    with_nodes = {model.__name__ for model in models.CONTROL_FLOW.values()}
    assert set(SECTIONS) == set(json_schema.CONCEPTS) - with_nodes
    for name, section in SECTIONS.items():
        keys = [str(field.alias) for field in json_schema.CONCEPTS[name].model_fields.values()]
        assert sorted(section.keys) == sorted(keys), name


@pytest.mark.parametrize("node", BUILT, ids=lambda node: node.name)
def test_every_parameter_of_a_node_has_an_entry(node: node_schema.NodeSchema) -> None:
    """Those of its record, and no other; the models of nodes with steps inside have the same."""
    fields = {field.encode_name for field in msgspec.structs.fields(node.parameters)}
    assert set(NODES[node.name].keys) == fields
    model = models.CONTROL_FLOW.get(node.name)
    assert model is None or {str(field.alias) for field in model.model_fields.values()} == fields


def test_every_context_function_and_code_has_an_entry() -> None:
    """And those with fixed fields name each of them."""
    assert set(CONTEXTS) == set(KNOWN)
    assert set(FUNCTIONS) == {function.name for function in expr.FUNCTIONS.values()}
    assert set(EXAMPLES) | NOT_OF_A_FILE == set(CODES)
    assert not set(EXAMPLES) & NOT_OF_A_FILE
    fixed = {**FIXED, "steps": STEP_FIELDS, "needs": NEED_FIELDS}
    for name, fields in fixed.items():
        assert fields is None or tuple(CONTEXTS[name].fields) == tuple(fields), name


def test_every_kind_of_place_is_used() -> None:
    """A kind that no key has any more leaves the table."""
    used = {entry.place for section in (*SECTIONS.values(), *NODES.values()) for entry in section.keys.values()}
    assert used - {""} == set(PLACES)


# Examples -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "section", "entry"), list(_examples()))
def test_the_example_of_a_key_compiles_without_a_warning(name: str, section: Section, entry: Key) -> None:
    """What a reader copies works as it is; the file of a composite step when a step uses it."""
    text = section.framed(entry.example)
    if not name.startswith("Composite"):
        assert _compiled(text) == []
        return
    user = "jobs: {j: {runs-on: web-servers, steps: [{uses: ./steps/deploy, with: %s}]}}"
    given = "{to: staging}" if "inputs:" in text else "{}"
    assert _compiled(user % given, {"steps/deploy/step.yml": text.encode()}) == []


@pytest.mark.parametrize(("name", "section", "entry"), list(_examples()))
def test_the_example_of_a_key_shows_the_key(name: str, section: Section, entry: Key) -> None:
    """Each key has one of its own."""
    key = next(key for key, candidate in section.keys.items() if candidate is entry)
    assert f"{key}:" in entry.example


@pytest.mark.parametrize("code", sorted(EXAMPLES))
def test_the_example_of_a_code_gives_it(code: str) -> None:
    """And nothing else, but for examples of what comes with others."""
    example = EXAMPLES[code]
    compiled = compile_workflow("workflows/example.yml", example.content or example.text.encode(), example.files)
    found = {one.code for one in (*compiled.diagnostics, *compiled.warnings)}
    assert code in found
    assert code == "WF119" or found == {code}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_examples_of_a_function_have_values(name: str) -> None:
    """They call the function; those that ask for the status, the clock or files have none."""
    for example in FUNCTIONS[name].examples:
        assert f"{name}(" in example
        json.dumps(expr.evaluate(expr.parse(example), expr.Env()))
    has_none = name in {*expr.STATUS_FUNCTIONS, "now", "hashFiles"}
    assert bool(FUNCTIONS[name].examples) != has_none


def test_the_example_of_a_context_is_an_expression_over_it() -> None:
    """It can be parsed and names the context."""
    for name, context in CONTEXTS.items():
        assert {path[0] for path, _ in expr.references(expr.parse(context.example))} == {name}


# Expressions --------------------------------------------------------------------------------------------------------------

#: Where a key stands in the file below, by its concept; and what else must stand beside it.
_AT: dict[str, tuple[Any, ...]] = {
    "Workflow": (),
    "RunDefaults": ("defaults", "run"),
    "Concurrency": ("concurrency",),
    "CallOutput": ("on", "workflow_call", "outputs", "o"),
    "WorkflowCall": ("on", "workflow_call"),
    "Job": ("jobs", "b"),
    "RunsOn": ("jobs", "b", "runs-on"),
    "Strategy": ("jobs", "b", "strategy"),
    "DeploymentEnvironment": ("jobs", "b", "environment"),
    "Step": ("jobs", "b", "steps", 1),
}
_BESIDE: dict[str, dict[str, Any]] = {
    "CallOutput": {"value": "x"},
    "Concurrency": {"group": "x"},
    "DeploymentEnvironment": {"name": "x"},
    "Strategy": {"matrix": {"m": [1, 2]}},
}
#: Keys that take more than a text: how the expression is put there.
_PUT: dict[tuple[str, str], Any] = {
    ("Workflow", "vars"): lambda text: {"a": 1, "x": text},
    ("Workflow", "env"): lambda text: {"X": text},
    ("WorkflowCall", "outputs"): lambda text: {"x": text},
    ("Job", "strategy"): lambda text: {"matrix": {"m": text}},
    ("Job", "outputs"): lambda text: {"x": text},
    ("Job", "env"): lambda text: {"X": text},
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
    second = json.loads(json.dumps({**job, "needs": ["a"], "strategy": {"matrix": {"m": [1, 2]}}}))
    return {
        "on": {"workflow_call": {"outputs": {"o": {"value": "x"}}}, "push": {}},
        "inputs": {"i": {}},
        "vars": {"a": 1},
        "jobs": {"a": job, "b": second},
    }


def _with_expression(concept: str, key: str, expression: str) -> dict[str, Any]:
    """The file with an expression in the key."""
    file, text = _file(), f"${{{{ {expression} }}}}"
    if concept in NODES:
        section = NODES[concept]
        place = _example_of(section, key)
        place[key] = _PUT.get((concept, key), str)(text)
        file["jobs"]["b"]["steps"][1] = {"uses": concept, "with": place}
        return file
    at: Any = file
    for part in _AT[concept]:
        at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
    at.update({name: value for name, value in _BESIDE.get(concept, {}).items() if name not in at})
    at[key] = _PUT.get((concept, key), str)(text)
    if concept == "Job" and key == "with":
        file["jobs"]["b"] = {name: at[name] for name in ("needs", "strategy", "with")} | {
            "uses": "./workflows/library.yml"
        }
    if concept == "Step" and key == "with":
        file["jobs"]["b"]["steps"][1] = {"uses": "log", "with": at["with"]}
    if concept == "RunsOn" and key not in ("group", "labels", "target"):
        at["target"] = "each"
    return file


def _example_of(section: Section, key: str) -> dict[str, Any]:
    content = plain(to_json(reader.read(section.keys[key].example + "\n", Report()).root))
    assert isinstance(content, dict)
    return content


def _keys_with_a_place() -> Iterator[Any]:
    for name, section in {**SECTIONS, **NODES}.items():
        for key, entry in section.keys.items():
            if (name in SECTIONS or name in node_schema.BUILT_IN) and entry.place:
                yield pytest.param(name, key, entry, id=f"{name}.{key}")


#: What is wrong with an expression because of its context, and not because of its value.
_OUT_OF_SIGHT = {"WF122", "WF129", "WF136", "WF123"}


@pytest.mark.parametrize(("concept", "key", "entry"), list(_keys_with_a_place()))
def test_a_key_sees_the_contexts_that_its_entry_names_and_no_others(concept: str, key: str, entry: Key) -> None:
    """Every context is tried in every key; and whether an expression may ask for the status."""
    seen = set()
    for context, expression in _OVER.items():
        text = json.dumps(_with_expression(concept, key, expression))
        compiled = compile_workflow("workflows/example.yml", text.encode(), FILES)
        codes = {found.code for found in compiled.diagnostics}
        assert codes <= _OUT_OF_SIGHT, (expression, [found.message for found in compiled.diagnostics])
        if not codes:
            seen.add(context)
    assert seen == set(PLACES[entry.place].contexts)
    text = json.dumps(_with_expression(concept, key, "success()"))
    refused = {one.code for one in compile_workflow("workflows/example.yml", text.encode(), FILES).diagnostics}
    assert (not refused) == PLACES[entry.place].has_status


def _keys_without_a_place() -> Iterator[Any]:
    for name, section in SECTIONS.items():
        for key, entry in section.keys.items():
            # A description is shown as it is, whatever stands in it.
            if not entry.place and name in _AT and key != "description":
                yield pytest.param(name, key, id=f"{name}.{key}")


@pytest.mark.parametrize(("concept", "key"), list(_keys_without_a_place()))
def test_a_key_without_a_place_takes_no_expression(concept: str, key: str) -> None:
    """What an editor says of the key is what the compiler does with it."""
    text = json.dumps(_with_expression(concept, key, "git.sha"))
    assert compile_workflow("workflows/example.yml", text.encode(), FILES).diagnostics
