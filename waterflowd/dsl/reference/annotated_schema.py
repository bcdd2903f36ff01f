"""The whole language as one JSON Schema with annotations, made from the models and from the nodes' parameter records.

Rules of this file: every definition has the same form, whether it comes from pydantic or msgspec. Each property holds its
`description`, one example as YAML, its `default`, and under names with `x-` what JSON Schema has no word for: see `key` in
`dsl.models.model` and `about` in `waterflow_agent.nodes.schema`. `json_schema` renders it for editors, `entries` for the
pages; nothing here is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from waterflow_agent.nodes import schema as node_schema
from waterflow_agent.nodes.schema.records import BOOLEAN_TEXTS
from waterflowd.dsl import models
from waterflowd.dsl.models.field_types import EXPRESSION_PATTERN, TEXT_SCHEMA, JsonSchema, matching, or_null

#: The mapping that each kind of file is.
FILES: dict[str, type[models.LanguageModel]] = {"workflow": models.Workflow, "step": models.CompositeStep}

_ANYTHING: JsonSchema = {"x-takes": "any value"}
_TYPE_NAMES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
    "array": "a list",
    "object": "a mapping",
}


@cache
def definitions() -> dict[str, JsonSchema]:
    """The mappings of the language: a model under its name, the parameters of a node under `definition_of`."""
    roots = [*FILES.values(), *models.CONTROL_FLOW.values()]
    _, document = models_json_schema(
        [(root, "validation") for root in roots],
        ref_template="#/definitions/{model}",
        schema_generator=_Generator,
    )
    made: dict[str, JsonSchema] = dict(document["$defs"])
    for node in node_schema.BUILT_IN.values():
        if node.name not in models.CONTROL_FLOW:
            made[definition_of(node.name)] = _parameters(node)
        made[definition_of(node.name)]["description"] = _joined(node.parameters.__doc__)
    return dict(sorted(made.items()))


def definition_of(node: str) -> str:
    """The name of the definition for the parameters of a node."""
    model = models.CONTROL_FLOW.get(node)
    return model.__name__ if model is not None else f"{node.replace('/', '-')}-with"


def references(part: Any) -> Iterator[str]:
    """The names of the definitions that a schema refers to, in order."""
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def words(schema: JsonSchema) -> str:
    """Which values a schema takes, as a phrase."""
    if "x-takes" in schema:
        return str(schema["x-takes"])
    if "anyOf" in schema:
        found = [option for option in schema["anyOf"] if option != {"type": "null"}]
        if len(found) == 2 and found[1] == {**found[1], "type": "array", "items": found[0]}:
            return f"{words(found[0])}, or a list of them"
        return "; or ".join(words(option) for option in found)
    if "enum" in schema:
        names = [f"`{name}`" for name in schema["enum"] if name is not None]
        return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
    if "patternErrorMessage" in schema:
        return str(schema["patternErrorMessage"]).removeprefix("expected ")
    if "array" in _types(schema):
        return f"a list: {words(schema['items'])}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"a mapping of names to {words(values)}"
    if "$ref" in schema or "object" in _types(schema):
        return "a mapping"
    return "any value"


def _types(schema: JsonSchema) -> list[str]:
    types = schema.get("type", [])
    return types if isinstance(types, list) else [types]


def _joined(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


class _Generator(GenerateJsonSchema):
    """Pydantic's schema in the form that editors read best: no titles, nulls within a type, defaults as in a file."""

    def sort(self, value: JsonSchema, parent_key: str | None = None) -> JsonSchema:
        """Keys stay in the order of the models."""
        return value

    def field_title_should_be_set(self, schema: Any) -> bool:
        """A key needs no title."""
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchema:
        """A mapping, described by the docstring of its model."""
        made = super().model_schema(schema)
        del made["title"]
        return {"description": _joined(made.pop("description")), **made}

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchema:
        """One word or several, the same way."""
        return {"enum": list(schema["expected"])}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchema:
        """The same values, or null."""
        return or_null(self.generate_inner(schema["schema"]))

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchema:
        """A mapping; the pattern of its keys says what a key may be, and not which keys have values like this."""
        made = super().dict_schema(schema)
        for pattern, values in made.pop("patternProperties", {}).items():
            made = {**made, "additionalProperties": values or True, "propertyNames": {"pattern": pattern}}
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchema:
        """The default as a file has it; left out where it is an empty or a whole mapping."""
        made = self.generate_inner(schema["schema"])
        default = schema.get("default")
        if isinstance(default, bool) or (isinstance(default, str | list) and default):
            return {**made, "default": default}
        if isinstance(default, int | float) and default and made.get("type") == "string":
            return {**made, "default": f"{default / 1000:g}s"}
        if isinstance(default, int | float) and default:
            return {**made, "default": int(default) if float(default).is_integer() else default}
        return made


# The nodes' parameter records ---------------------------------------------------------------------------------------------


def needs_parameters(node: node_schema.NodeSchema) -> bool:
    """Whether a step with this node must have `with`."""
    model = models.CONTROL_FLOW.get(node.name)
    if model is not None:
        return any(field.is_required() for field in model.model_fields.values())
    return node.name == "sleep" or any(field.required for field in msgspec.structs.fields(node.parameters))


def _parameters(node: node_schema.NodeSchema) -> JsonSchema:
    _, components = msgspec.json.schema_components([node.parameters])
    (record,) = components.values()
    own = node.parameters.__annotations__
    # Those that it has in common with other nodes come last.
    shared = {field.encode_name for field in msgspec.structs.fields(node.parameters) if field.name not in own}
    properties = sorted(record["properties"].items(), key=lambda item: item[0] in shared)
    scope = "step" if node.runs_in is node_schema.RunsIn.ENGINE else "step-secrets"
    made: JsonSchema = {
        "description": "",
        "type": "object" if needs_parameters(node) else ["object", "null"],
        "properties": {name: _parameter(found, scope) for name, found in properties},
        "additionalProperties": False,
    }
    if record.get("required"):
        made["required"] = list(record["required"])
    return made


def _parameter(found: JsonSchema, scope: str) -> JsonSchema:
    """A parameter: what its record says about it, and values that may be expressions."""
    about = {name: value for name, value in found.items() if name in ("description", "examples") or name[:2] == "x-"}
    if found.get("default"):
        about["default"] = found["default"]
    if not about.pop("x-static", False):
        about["x-expressions"] = scope
    return {**_with_expressions(found), **about}


def _with_expressions(found: JsonSchema) -> JsonSchema:
    """The values of a parameter, or text with an expression; a number is accepted as text."""
    alternatives = [option for option in found.get("anyOf", [found]) if option.get("type") != "null"]
    if any(not {"type", "enum"} & set(option) for option in alternatives):
        return _ANYTHING
    types = list(dict.fromkeys(option["type"] for option in alternatives if "enum" not in option))
    # They say nothing beside the boolean that they mean.
    meant = BOOLEAN_TEXTS if "boolean" in types else ()
    names = [f"`{name}`" for option in alternatives for name in option.get("enum", ()) if name not in meant]
    takes = [*([f"one of {', '.join(names)}"] if names else []), *(_TYPE_NAMES[name] for name in types)]
    composed = [
        _composed(option) for option in alternatives if "enum" in option or option["type"] in ("array", "object")
    ]
    scalars = [option for option in alternatives if "enum" not in option and option["type"] not in ("array", "object")]
    scalar = _scalar(scalars, " or ".join(takes).replace("`", ""))
    return {**({"anyOf": [*composed, scalar]} if composed else scalar), "x-takes": " or ".join(takes)}


def _scalar(alternatives: list[JsonSchema], takes: str) -> JsonSchema:
    types = {option["type"] for option in alternatives}
    bounds: JsonSchema = {
        name: option[name] for option in alternatives for name in ("minimum", "maximum") if name in option
    }
    if "string" in types:
        least = {"minLength": 1} if any(option.get("minLength") for option in alternatives) else {}
        return {"type": TEXT_SCHEMA["type"], **least, **bounds}
    return matching(EXPRESSION_PATTERN, f"{takes}, or an expression", *sorted(types), "string", **bounds)


def _composed(option: JsonSchema) -> JsonSchema:
    if "enum" in option:
        return {"enum": list(option["enum"])}
    if option["type"] == "array":
        return {"type": "array", "items": _with_expressions(option["items"]) if option.get("items") else {}}
    values = option.get("additionalProperties")
    return {"type": "object", "additionalProperties": _with_expressions(values) if values else True}
