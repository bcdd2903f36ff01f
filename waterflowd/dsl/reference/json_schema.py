"""The JSON Schema of workflow files and of composite steps' files, for editors: completion, hover, and errors while typing.

Rules of this file: draft 7 and nothing newer, because that is what editors read; so no `unevaluatedProperties`, and what
depends on another key is `if` and `then`. The schema is made of the models (`shapes`) and the texts (`reference`), is the
same bytes each time, and never refuses what the compiler takes. It cannot know expressions, names and other files;
`waterflowctl validate` does.

`patternErrorMessage` and `errorMessage` are words of the YAML language server; other readers pass over them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from waterflow_agent.nodes import schema as node_schema
from waterflowd.dsl import models
from waterflowd.dsl.models.model import LanguageModel
from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import plain, to_json
from waterflowd.dsl.reference import SECTIONS, Key, shapes
from waterflowd.dsl.reference.entries import PLACES
from waterflowd.dsl.reference.nodes import NODES
from waterflowd.dsl.reference.shapes import ID_NAMES, VARIABLE_NAMES, JsonSchema
from waterflowd.dsl.reporting.report import Report

#: What a schema can be had of: the kind, and the concept that a file is.
KINDS: dict[str, type[LanguageModel]] = {"workflow": models.Workflow, "step": models.CompositeStep}

_DRAFT = "http://json-schema.org/draft-07/schema#"
_TITLES = {"workflow": "Waterflow workflow", "step": "Waterflow composite step"}
#: Mappings whose keys are ids, and those whose keys are names of variables.
_WITH_IDS = {("Workflow", "jobs"), ("Workflow", "vars"), ("Job", "outputs"), ("CompositeStep", "outputs")}
_WITH_VARIABLES = {("Workflow", "env"), ("Job", "env"), ("Step", "env")}
_LOCAL = r"^\./"
_ACTIONS = "actions/"


def document(kind: str = "workflow") -> JsonSchema:
    """The schema of the files of a kind, a key of `KINDS`."""
    root = KINDS[kind]
    definitions: dict[str, JsonSchema] = {}
    _collect(root, definitions)
    for name, node in node_schema.BUILT_IN.items():
        model = models.CONTROL_FLOW.get(name)
        if model is not None:
            _collect(model, definitions)
        else:
            definitions[_with_name(name)] = _parameters(node)
    top = definitions.pop(root.__name__)
    return {
        "$schema": _DRAFT,
        "title": _TITLES[kind],
        **top,
        "definitions": {name: definitions[name] for name in sorted(definitions)},
    }


def schema_text(kind: str = "workflow") -> str:
    """The same as text that ends with a line end: the same bytes each time."""
    return json.dumps(document(kind), indent=2, ensure_ascii=False) + "\n"


def _collect(concept: type[LanguageModel], definitions: dict[str, JsonSchema]) -> None:
    """Puts the definition of a concept, and of all that it needs, into `definitions`."""
    if concept.__name__ in definitions:
        return
    definitions[concept.__name__] = {}
    definitions[concept.__name__] = made = _concept(concept)
    for name in _references(made):
        if name not in definitions and (inner := CONCEPTS.get(name)) is not None:
            _collect(inner, definitions)


def _all_concepts(concept: type[LanguageModel] = LanguageModel) -> Iterator[type[LanguageModel]]:
    for inner in concept.__subclasses__():
        if inner.__module__.startswith("waterflowd."):
            yield inner
            yield from _all_concepts(inner)


#: Every concept of the language by the name of its model.
CONCEPTS: dict[str, type[LanguageModel]] = {concept.__name__: concept for concept in _all_concepts()}


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def _concept(concept: type[LanguageModel]) -> JsonSchema:
    section = SECTIONS.get(concept.__name__) or NODES[concept.TITLE]
    properties = {
        str(field.alias): _described(
            _named(concept, str(field.alias), shapes.of_field(field).schema), section.keys[str(field.alias)], field
        )
        for field in concept.model_fields.values()
    }
    required = [str(field.alias) for field in concept.model_fields.values() if field.is_required()]
    made: JsonSchema = {
        "description": plain_text(section.what),
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }
    return {**made, **_RULES[concept.__name__]()} if concept.__name__ in _RULES else made


def _named(concept: type[LanguageModel], key: str, found: JsonSchema) -> JsonSchema:
    """A key's schema with what is known of its names."""
    place = (concept.__name__, key)
    if place == ("Step", "uses"):
        nodes = [spelled for node in node_schema.BUILT_IN.values() for spelled in _spellings(node)]
        local = {"type": "string", "pattern": _LOCAL, "patternErrorMessage": "expected a node, or ./ and a path"}
        own = {"type": "string", "pattern": f"^(?!{_ACTIONS}){node_schema.OWN_NAME.pattern}$"}
        return {"anyOf": [{"enum": nodes}, local, own]}
    if place in _WITH_IDS or key == "inputs" or place[0] == "WorkflowCall":
        return {**found, "propertyNames": ID_NAMES} if "type" in found else found
    return {**found, "propertyNames": VARIABLE_NAMES} if place in _WITH_VARIABLES else found


def _described(found: JsonSchema, key: Key, field: Any = None) -> JsonSchema:
    """A key's schema with what people are told about it, its default and its example."""
    lines = [plain_text(key.what)]
    if key.default:
        lines.append(f"Default: {plain_text(key.default)}.")
    lines += [plain_text(pitfall) for pitfall in key.pitfalls]
    if key.place:
        lines.append("Expressions may use " + ", ".join(PLACES[key.place].contexts) + ".")
    made: JsonSchema = {"description": "\n\n".join(lines)}
    default = default_value(field)
    if default is not None:
        made["default"] = default
    if (example := _example_value(key, field)) is not None:
        made["examples"] = [example]
    # Beside `$ref` draft 7 reads nothing else.
    return {**made, "allOf": [found]} if "$ref" in found else {**made, **found}


def default_value(field: Any) -> Any:
    """The default of a field of a concept as a file would write it; None where it says nothing."""
    default = getattr(field, "default", None)
    if isinstance(default, bool | str) and default != "":
        return default
    if isinstance(default, int | float):
        return _written_default(field, default)
    return default if isinstance(default, list) and default else None


def _written_default(field: Any, default: float) -> Any:
    """Durations are milliseconds in the models; everything else is written as it is."""
    if shapes.of_field(field).words.startswith("a duration"):
        return f"{default / 1000:g}s" if default else None
    return int(default) if float(default).is_integer() else default


def _example_value(key: Key, field: Any) -> Any:
    alias = getattr(field, "alias", None)
    if alias is None or key.example.startswith("jobs:"):
        return None
    read = reader.read(key.example + "\n", Report())
    content = plain(to_json(read.root))
    return content.get(alias) if isinstance(content, dict) else None


def plain_text(text: str) -> str:
    """A text of the reference without the marks of Markdown."""
    return text.replace("`", "").replace("](../", "](").replace("[schedules](schedules.md)", "docs/schedules.md")


# What depends on other keys -----------------------------------------------------------------------------------------------


def _with_name(node: str) -> str:
    model = models.CONTROL_FLOW.get(node)
    return model.__name__ if model is not None else f"{node.replace('/', '-')}-with"


def _parameters(node: node_schema.NodeSchema) -> JsonSchema:
    """The `with` of a node that is no concept."""
    _, components = msgspec.json.schema_components([node.parameters])
    (record,) = components.values()
    section = NODES.get(node.name)
    keys = section.keys if section is not None else {}
    made: JsonSchema = {
        "description": plain_text(section.what if section is not None else node.summary),
        "type": "object" if _needs_parameters(node) else ["object", "null"],
        "properties": {
            name: _described(shapes.of_parameter(found).schema, keys.get(name) or Key(found.get("description", ""), ""))
            | ({"default": found["default"]} if found.get("default") else {})
            for name, found in record["properties"].items()
        },
        "additionalProperties": False,
    }
    if record.get("required"):
        made["required"] = list(record["required"])
    if node.name == "sleep":
        made |= {"minProperties": 1, "maxProperties": 1}
    elif node.name == "script":
        made["oneOf"] = [{"required": ["path"]}, {"required": ["content"]}]
    return made


def _spellings(node: node_schema.NodeSchema) -> list[str]:
    """How a step may name a node."""
    return [spelled for name in (node.name, *node.aliases) for spelled in (name, f"{name}@v1")]


def _only(section: Mapping[str, Key], *kinds: str) -> dict[str, bool]:
    """The keys that go with one of these kinds alone, each refused."""
    return {name: False for name, key in section.items() if key.only in kinds}


def _is_used(*nodes: node_schema.NodeSchema) -> JsonSchema:
    names = [name for node in nodes for name in _spellings(node)]
    return _has("uses", {"enum": names})


def _has(key: str, value: JsonSchema | None = None) -> JsonSchema:
    """Whether a mapping has a key, with a value like this. Without the type, editors offer what follows to nothing at all."""
    return {"type": "object", "required": [key], **({"properties": {key: value}} if value is not None else {})}


def _needs_parameters(node: node_schema.NodeSchema) -> bool:
    """Whether a node cannot do without `with`."""
    model = models.CONTROL_FLOW.get(node.name)
    if model is not None:
        return any(field.is_required() for field in model.model_fields.values())
    return node.name == "sleep" or any(field.required for field in msgspec.structs.fields(node.parameters))


def _step_rules() -> JsonSchema:
    keys = SECTIONS["Step"].keys
    nodes = node_schema.BUILT_IN.values()
    of_engine = [node for node in nodes if node.runs_in is node_schema.RunsIn.ENGINE]
    once = [node for node in of_engine if not node.has_attempts]
    others = [node for node in nodes if node.name != "shell"]
    rules: list[JsonSchema] = [
        {"anyOf": [{"required": ["run"]}, {"required": ["uses"]}], "errorMessage": "a step needs run or uses"},
        {"if": _has("run"), "then": {"properties": {"uses": False, "with": False}}},
        {"if": _is_used(*filter(_needs_parameters, nodes)), "then": {"required": ["with"]}},
        {"if": _is_used(*others), "then": {"properties": _only(keys, "script")}},
        {"if": _is_used(*of_engine), "then": {"properties": _only(keys, "process")}},
        {"if": _is_used(*once), "then": {"properties": _only(keys, "attempts")}},
    ]
    for node in nodes:
        parameters = {"$ref": f"#/definitions/{_with_name(node.name)}"}
        rules.append({"if": _is_used(node), "then": {"properties": {"with": parameters}}})
    local = {"type": "string", "pattern": _LOCAL}
    rules.append({"if": _has("uses", local), "then": {"properties": _only(keys, "process", "attempts", "script")}})
    return {"allOf": rules}


def _job_rules() -> JsonSchema:
    keys = SECTIONS["Job"].keys
    called, with_steps = {"properties": _only(keys, "steps")}, {"properties": _only(keys, "call")}
    rule = {"if": _has("uses"), "then": called, "else": {"required": ["runs-on", "steps"], **with_steps}}
    return {"allOf": [rule]}


def _composite_rules() -> JsonSchema:
    either = [{"required": ["steps"]}, {"required": ["runs"]}]
    return {"allOf": [{"anyOf": either, "errorMessage": "a composite step needs steps"}]}


_RULES = {"Step": _step_rules, "Job": _job_rules, "CompositeStep": _composite_rules}
