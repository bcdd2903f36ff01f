"""The JSON Schema of workflow files and of composite steps' files, for editors: completion, hover, and errors while typing.

Rules of this file: draft 7 and nothing newer, because that is what editors support; so no `unevaluatedProperties`, and what
depends on another key uses `if` and `then`. The schema comes from the models and the nodes' records, is the same bytes each
time, and never refuses what the compiler accepts. It cannot check expressions, names and other files; `waterflowctl
validate` does.

`patternErrorMessage` and `errorMessage` belong to the YAML language server; other readers ignore them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from waterflow_agent.nodes import schema as node_schema
from waterflowd.dsl.models.expression_scopes import SCOPES
from waterflowd.dsl.models.field_types import JsonSchema
from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import plain, to_json
from waterflowd.dsl.reference.annotated_schema import (
    FILES,
    definition_of,
    definitions,
    needs_parameters,
    references,
)
from waterflowd.dsl.reporting.report import DiagnosticReport

_DRAFT = "http://json-schema.org/draft-07/schema#"
_TITLES = {"workflow": "Waterflow workflow", "step": "Waterflow composite step"}
_LOCAL = {"type": "string", "pattern": r"^[.$]/"}
_ACTIONS = "actions/"


def document(kind: str = "workflow") -> JsonSchema:
    """The schema of the files of a kind, a key of `FILES`."""
    root = FILES[kind].__name__
    names = sorted(name for name in _needed(root) if name != root)
    return {
        "$schema": _DRAFT,
        "title": _TITLES[kind],
        **_definition(root),
        "definitions": {name: _definition(name) for name in names},
    }


def schema_text(kind: str = "workflow") -> str:
    """The schema as text that ends with a newline: the same bytes each time."""
    return json.dumps(document(kind), indent=2, ensure_ascii=False) + "\n"


def plain_text(text: str) -> str:
    """A text of the reference without Markdown."""
    return text.replace("[Schedules](../schedules.md)", "docs/schedules.md").replace("`", "")


def _needed(root: str) -> set[str]:
    """The definitions that a file of the kind uses: every node, since a step can use any, and what these refer to."""
    found: set[str] = set()
    waiting = [root, *(definition_of(node) for node in node_schema.BUILT_IN)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += references(definitions()[name])
    return found


def _definition(name: str) -> JsonSchema:
    source = definitions()[name]
    properties = {key: _property(key, found) for key, found in source["properties"].items()}
    if name == "Step":
        properties["uses"] = {"description": properties["uses"]["description"], **_uses_schema()}
    made = {**source, "description": plain_text(source["description"]), "properties": properties}
    return {**made, **_RULES[name]()} if name in _RULES else made


def _property(key: str, source: JsonSchema) -> JsonSchema:
    """A key's schema with its description, default and example."""
    lines = [source["description"]]
    if without := source.get("x-without"):
        lines.append(f"Default: {without}.")
    lines += source.get("x-pitfalls", [])
    if scope := source.get("x-expressions"):
        lines.append("Expressions may use " + ", ".join(SCOPES[scope].contexts) + ".")
    made: JsonSchema = {"description": plain_text("\n\n".join(lines))}
    if "default" in source:
        made["default"] = source["default"]
    for example in source["examples"]:
        if (value := _example_value(key, example)) is not None:
            made["examples"] = [value]
    values = _standard(
        {name: value for name, value in source.items() if name not in ("description", "default", "examples")}
    )
    # Draft 7 ignores everything beside `$ref`.
    return {**made, "allOf": [values]} if "$ref" in values else {**made, **values}


def _standard(part: Any) -> Any:
    """A schema without our annotations."""
    match part:
        case dict():
            return {name: _standard(value) for name, value in part.items() if not name.startswith("x-")}
        case list():
            return [_standard(value) for value in part]
    return part


def _example_value(key: str, example: str) -> Any:
    if example.startswith("jobs:") and key != "jobs":
        return None
    content = plain(to_json(reader.read(example + "\n", DiagnosticReport()).root))
    return content.get(key) if isinstance(content, dict) else None


# What depends on other keys -----------------------------------------------------------------------------------------------


def _spellings(node: node_schema.NodeSchema) -> list[str]:
    """How a step may name a node."""
    return [spelling for name in (node.name, *node.aliases) for spelling in (name, f"{name}@v1")]


def _uses_schema() -> JsonSchema:
    nodes = [spelling for node in node_schema.BUILT_IN.values() for spelling in _spellings(node)]
    local = {**_LOCAL, "patternErrorMessage": "expected a node, or ./ and a path"}
    own = {"type": "string", "pattern": f"^(?!{_ACTIONS}){node_schema.OWN_NAME.pattern}$"}
    actions = ["actions/checkout", *(action for node in node_schema.BUILT_IN.values() for action in node.actions)]
    return {"anyOf": [{"enum": nodes}, local, own, _any_version(actions)]}


def _any_version(actions: Iterable[str]) -> JsonSchema:
    return {"type": "string", "pattern": f"^({'|'.join(actions)})@"}


def _refused(model: str, *owners: str) -> JsonSchema:
    """Refuses the keys of a model that belong to one of these only."""
    properties = definitions()[model]["properties"]
    return {"properties": {name: False for name, found in properties.items() if found.get("x-only") in owners}}


def _has(key: str, value: JsonSchema | None = None) -> JsonSchema:
    """Whether a mapping has a key, with a value like this. Without the type, editors would complete keys that do not apply."""
    return {"type": "object", "required": [key], **({"properties": {key: value}} if value is not None else {})}


def _has_node(*nodes: node_schema.NodeSchema) -> JsonSchema:
    spelled: JsonSchema = {"enum": [spelling for node in nodes for spelling in _spellings(node)]}
    actions = [action for node in nodes for action in node.actions]
    return _has("uses", {"anyOf": [spelled, _any_version(actions)]} if actions else spelled)


def _step_rules() -> JsonSchema:
    nodes = node_schema.BUILT_IN.values()
    engine_nodes = [node for node in nodes if node.runs_in is node_schema.RunsIn.ENGINE]
    once = [node for node in engine_nodes if not node.has_attempts]
    rules: list[JsonSchema] = [
        {"anyOf": [{"required": ["run"]}, {"required": ["uses"]}], "errorMessage": "a step needs run or uses"},
        {"if": _has("run"), "then": {"properties": {"uses": False, "with": False}}},
        {"if": _has_node(*filter(needs_parameters, nodes)), "then": {"required": ["with"]}},
        {"if": _has_node(*(node for node in nodes if node.name != "shell")), "then": _refused("Step", "script")},
        {"if": _has_node(*engine_nodes), "then": _refused("Step", "process")},
        {"if": _has_node(*once), "then": _refused("Step", "attempts")},
    ]
    for node in nodes:
        parameters = {"$ref": f"#/definitions/{definition_of(node.name)}"}
        rules.append({"if": _has_node(node), "then": {"properties": {"with": parameters}}})
    rules.append({"if": _has("uses", _LOCAL), "then": _refused("Step", "process", "attempts", "script")})
    return {"allOf": rules}


def _job_rules() -> JsonSchema:
    with_steps = {"required": ["runs-on", "steps"], **_refused("Job", "call")}
    return {"allOf": [{"if": _has("uses"), "then": _refused("Job", "steps"), "else": with_steps}]}


def _composite_rules() -> JsonSchema:
    either = [{"required": ["steps"]}, {"required": ["runs"]}]
    return {"allOf": [{"anyOf": either, "errorMessage": "a composite step needs steps"}]}


def _sleep_rules() -> JsonSchema:
    return {"minProperties": 1, "maxProperties": 1}


def _script_rules() -> JsonSchema:
    return {"oneOf": [{"required": ["path"]}, {"required": ["content"]}]}


_RULES = {
    "Step": _step_rules,
    "Job": _job_rules,
    "CompositeStep": _composite_rules,
    "sleep-with": _sleep_rules,
    "script-with": _script_rules,
}
