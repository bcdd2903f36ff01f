"""Which values a key takes, as JSON Schema and in words: read off the models and the nodes' records.

Rules of this file: the models stay the source. What pydantic cannot know is what a validator of ours takes; that is in the
two tables below, `_VALUES` by the type (`written` and its neighbours) and `_SPELLINGS` by the name of the function that
makes several spellings one. A validator that is in neither table is an error at once, so that no key is without a shape.

A shape may be wider than the compiler (a cron expression is any text here), never narrower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, PlainValidator
from pydantic.fields import FieldInfo

from waterflowd.dsl import models
from waterflowd.dsl.models import field_types, step
from waterflowd.dsl.models.model import LanguageModel

JsonSchema = dict[str, Any]

_SCALAR = ["string", "number", "boolean"]
_EXPRESSION = r"\$\{\{"
_DURATION = r"([0-9]{1,12}(\.[0-9]{1,6})?(ms|d|h|m|s))+"
#: Ids of jobs, inputs, outputs and the like; and names of environment variables.
ID_NAMES: JsonSchema = {"pattern": "^[A-Za-z_][A-Za-z0-9_-]*$"}
VARIABLE_NAMES: JsonSchema = {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}


@dataclass(frozen=True)
class Shape:
    """What a value may look like."""

    schema: JsonSchema
    words: str

    def or_null(self) -> Shape:
        """The same, or nothing."""
        if not self.schema:
            return self
        if isinstance(kinds := self.schema.get("type"), str | list):
            listed = [kinds] if isinstance(kinds, str) else kinds
            return Shape({**self.schema, "type": [*listed, *([] if "null" in listed else ["null"])]}, self.words)
        if "enum" in self.schema:
            return Shape({**self.schema, "enum": [*self.schema["enum"], None]}, self.words)
        options = [option for option in _options(self.schema) if option != {"type": "null"}]
        return Shape({"anyOf": [*options, {"type": "null"}]}, self.words)


def _options(one: JsonSchema) -> list[JsonSchema]:
    return list(one["anyOf"]) if set(one) == {"anyOf"} else [one]


def either(first: Shape, second: Shape) -> Shape:
    """One or the other."""
    return Shape({"anyOf": [*_options(first.schema), *_options(second.schema)]}, f"{first.words}; or {second.words}")


def list_of(item: Shape, *, least: int = 0) -> Shape:
    """A list."""
    schema: JsonSchema = {"type": "array", "items": item.schema, **({"minItems": least} if least else {})}
    return Shape(schema, f"a list: {item.words}")


def _matching(pattern: str, wanted: str, *kinds: str, **more: Any) -> JsonSchema:
    """A scalar whose text, where it is one, matches; `wanted` is what an editor says where it does not."""
    kind: Any = list(kinds) if len(kinds) > 1 else kinds[0]
    return {"type": kind, "pattern": pattern, "patternErrorMessage": f"expected {wanted}", **more}


_ANY = Shape({}, "any value")
_TEXT = Shape(_matching(r"\S", "text, not an empty one", *_SCALAR), "text")
_STATIC = Shape(_matching(r"^(?![\s\S]*\$\{\{)[\s\S]*\S", "text without an expression", *_SCALAR), "text")
_FREE = Shape({"type": [*_SCALAR, "null"]}, "text, may be empty")
_TRUTH = Shape({"type": "boolean"}, "`true` or `false`")
_SIZE = Shape(
    _matching(
        rf"^[0-9]{{1,3}}%$|{_EXPRESSION}", "a number, or a share such as 25%", "integer", "string", maximum=100_000
    ),
    "a number of servers, or a share such as `25%`",
)
_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGKILL")


def _number(least: float, most: float, words: str, *, whole: bool = False, over: bool = False) -> Shape:
    bounds = {"exclusiveMinimum" if over else "minimum": least, "maximum": most}
    return Shape({"type": "integer" if whole else "number", **bounds}, words)


def or_expression(shape: Shape) -> Shape:
    """The same, or a text with an expression."""
    kind = shape.schema["type"]
    text = _matching(_EXPRESSION, f"{shape.words.replace('`', '')}, or an expression", kind, "string")
    return Shape({**shape.schema, **text}, shape.words)


def _atleast(shape: Shape, least: int) -> Shape:
    return Shape({**shape.schema, "minimum": least}, shape.words)


def _whole(least: int, most: int) -> Shape:
    return _number(least, most, f"a whole number from {least:,} to {most:,}", whole=True)


def _without_case(word: str) -> str:
    return "".join(f"[{letter}{letter.lower()}]" if letter.isalpha() else letter for letter in word)


def _texts(item: Shape, words: str) -> Shape:
    return Shape(either(item, list_of(item)).schema, words)


_MINUTES = _number(0, field_types.MINUTES_MAX, "minutes, more than 0 and at most 50,400 (35 days)", over=True)
_REASON = Shape(
    {
        "anyOf": [
            {"enum": ["failure", "timeout", "lost"]},
            _matching("^(failure|timeout|lost|exit:[0-9]{1,3})$", "failure, timeout, lost or exit:N", "string"),
        ]
    },
    "`failure`, `timeout`, `lost` or `exit:N`",
)


def _validator(alias: Any) -> Callable[..., Any]:
    """The function that a type of the language checks values with."""
    validators = [item for item in get_args(alias)[1:] if isinstance(item, PlainValidator | BeforeValidator)]
    function: Callable[..., Any] = validators[0].func
    return function


def _of_field(concept: type[LanguageModel], name: str) -> Callable[..., Any]:
    """The same for a type that has no name of its own."""
    metadata = concept.model_fields[name].metadata
    function: Callable[..., Any] = next(item for item in metadata if isinstance(item, PlainValidator)).func
    return function


_VALUES: dict[Callable[..., Any], Shape] = {
    _validator(field_types.Text): _TEXT,
    _validator(field_types.StaticText): _STATIC,
    _validator(field_types.Name): _TEXT,
    _validator(field_types.StaticName): _STATIC,
    _validator(field_types.FreeText): _FREE,
    _validator(field_types.Minutes): _MINUTES,
    _validator(field_types.MinutesOrExpression): or_expression(_MINUTES),
    _validator(field_types.Boolean): _TRUTH,
    _validator(field_types.BooleanOrExpression): or_expression(_TRUTH),
    _validator(field_types.Duration): Shape(
        _matching(f"^{_DURATION}$", "a duration such as 500ms, 30s or 1h30m", "string"), "a duration such as `30s`"
    ),
    _validator(field_types.DurationOrExpression): Shape(
        _matching(f"^{_DURATION}$|{_EXPRESSION}", "a duration such as 30s, or an expression", "string"),
        "a duration such as `30s`",
    ),
    _validator(field_types.Texts): _texts(_STATIC, "a text or a list of texts"),
    _validator(field_types.TextsOrExpressions): _texts(_TEXT, "a text or a list of texts"),
    _validator(field_types.Attempts): _whole(1, 1_000),
    _validator(field_types.Coefficient): _number(1, 100, "a number from 1 to 100"),
    _validator(field_types.Share): _number(0, 1, "a number from 0 to 1"),
    _validator(field_types.Size): _atleast(_SIZE, 1),
    _validator(field_types.SizeOrNone): _atleast(_SIZE, 0),
    _validator(field_types.Sizes): Shape(
        either(_atleast(_SIZE, 1), list_of(_atleast(_SIZE, 1), least=1)).schema,
        "a number of servers, a share such as `25%`, or a growing list of them",
    ),
    _validator(field_types.CountOrExpression): or_expression(_whole(1, 10_000)),
    _validator(field_types.ApprovalsOrExpression): or_expression(_whole(1, 20)),
    _validator(field_types.Approvals): _whole(1, 20),
    _validator(field_types.Count): _whole(1, 10_000),
    _validator(field_types.Bytes): Shape(
        _matching(
            r"^[0-9]{1,12}\s*(KiB|MiB|GiB|)$",
            "bytes, such as 16MiB",
            "integer",
            "string",
            minimum=field_types.OUTPUT_BYTES_LEAST,
            maximum=field_types.OUTPUT_BYTES_MAX,
        ),
        "bytes, such as `16MiB`; 1 KiB to 1 GiB",
    ),
    _validator(field_types.PatternsOrBoolean): Shape(
        either(_TRUTH, list_of(_STATIC, least=1)).schema, "`true`, `false`, or a list of path patterns"
    ),
    _validator(field_types.Labels): Shape(
        {"type": "object", "additionalProperties": _TEXT.schema}, "a mapping of names to texts"
    ),
    _validator(step.Condition): Shape(_matching(r"\S", "a condition", *_SCALAR), "a condition"),
    _validator(step.RetryReasons): _texts(_REASON, f"{_REASON.words}, or a list of them"),
    _validator(step.Signal): Shape(
        _matching(
            f"^({_without_case('SIG')})?({'|'.join(_without_case(name[3:]) for name in _SIGNALS)})$",
            f"one of {', '.join(_SIGNALS)}",
            "string",
        ),
        f"one of {', '.join(f'`{name}`' for name in _SIGNALS)}; `SIG` may be left out",
    ),
    _of_field(models.Schedule, "cron"): Shape(_matching(r"\S", "a cron expression", "string"), "a cron expression"),
    _of_field(models.Schedule, "timezone"): Shape(_matching(r"\S", "a time zone", "string"), "a time zone"),
    _of_field(models.Job, "secrets"): Shape(
        {"anyOf": [{"enum": ["inherit"]}, {"type": "object", "additionalProperties": {"type": "string"}}]},
        "`inherit`, or a mapping of names to `${{ secrets.NAME }}`",
    ),
    next(
        item.func
        for item in get_args(get_args(get_args(field_types.EnvironmentVariables)[0])[1])[1:]
        if isinstance(item, PlainValidator)
    ): _FREE,
}


def _short(key: str) -> Callable[[Shape], Shape]:
    """A text is short for a mapping with one key."""
    # The mapping comes first: of several that do not fit, editors speak of the first.
    text = Shape(_TEXT.schema, f"a text, which is short for `{key}`")
    return lambda shape: either(shape, text)


def _one_or_more(shape: Shape) -> Shape:
    item = Shape(shape.schema["items"], "one of them")
    return Shape(either(item, shape).schema, f"one, or {shape.words}")


def _events(shape: Shape) -> Shape:
    names: JsonSchema = {"enum": [str(field.alias) for field in models.Triggers.model_fields.values()]}
    options = [names, {"type": "array", "items": names, "minItems": 1}, *_options(shape.schema)]
    return Shape({"anyOf": options}, f"the name of an event, a list of names, or {shape.words}")


def _branches(shape: Shape) -> Shape:
    step = {"$ref": "#/definitions/Step"}
    items = {"anyOf": [shape.schema["items"], step]}
    return Shape({**shape.schema, "items": items}, "a list of branches, each a list of steps, or one step")


_SPELLINGS: dict[str, Callable[[Shape], Shape]] = {
    "empty_is_all": lambda shape: shape.or_null(),
    "group_spelling": _short("group"),
    "concurrency_spelling": _short("group"),
    "environment_spelling": _short("name"),
    "_schedule": _short("cron"),
    "_value_spelling": _short("value"),
    "event_names": _events,
    "one_or_more": _one_or_more,
    "_completed": _one_or_more,
    "_lists": _branches,
    "_environment": lambda shape: Shape(shape.schema, "a mapping of names to texts"),
}


def of_field(field: FieldInfo) -> Shape:
    """What the key that is this field takes."""
    return _of(field.annotation, field.metadata)


def _of(annotation: Any, metadata: list[Any]) -> Shape:
    flat = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    validators = [item for item in flat if isinstance(item, PlainValidator | BeforeValidator)]
    for item in validators:
        if item.func in _VALUES:
            return _VALUES[item.func]
    found = _plain(annotation)
    for item in flat:
        for bound, word in (("min_length", "min"), ("max_length", "max")):
            if (number := getattr(item, bound, None)) is not None:
                what = "Items" if found.schema.get("type") == "array" else "Properties"
                found = Shape({**found.schema, f"{word}{what}": number}, found.words)
    # The validator that stands last is asked first.
    for item in validators:
        found = _SPELLINGS[getattr(item.func, "__name__", "")](found)
    return found


def _plain(annotation: Any) -> Shape:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of(arguments[0], list(arguments[1:]))
    if origin in (Union, UnionType):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return _plain(inner).or_null()
    if origin is Literal:
        names = ", ".join(f"`{name}`" for name in arguments)
        return Shape({"enum": list(arguments)}, f"one of {names}" if len(arguments) > 1 else names)
    if origin is list:
        return list_of(_plain(arguments[0]))
    if origin is dict:
        inner = _plain(arguments[1])
        schema_of: JsonSchema = {"type": "object", "additionalProperties": inner.schema or True}
        return Shape(schema_of, f"a mapping of names to {inner.words}")
    if isinstance(annotation, type) and issubclass(annotation, LanguageModel):
        return Shape({"$ref": f"#/definitions/{annotation.__name__}"}, "a mapping")
    assert annotation is Any, annotation
    return _ANY


_JSON_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
    "array": "a list",
    "object": "a mapping",
}


def of_parameter(found: JsonSchema) -> Shape:
    """What a parameter of a node takes, from the schema of its record: expressions too, and numbers where text is wanted."""
    options = [option for option in found.get("anyOf", [found]) if option.get("type") != "null"]
    if any(not {"type", "enum"} & set(option) for option in options):
        return _ANY
    names = [f"`{name}`" for option in options for name in option.get("enum", ())]
    kinds = list(dict.fromkeys(option["type"] for option in options if "enum" not in option))
    words = " or ".join([*([f"one of {', '.join(names)}"] if names else []), *(_JSON_TYPES[kind] for kind in kinds)])
    widened = [_widened(option) for option in options if option.get("type") in ("array", "object") or "enum" in option]
    scalars = [option for option in options if "enum" not in option and option["type"] not in ("array", "object")]
    return Shape(_one(widened, scalars, words), words)


def _one(widened: list[JsonSchema], scalars: list[JsonSchema], words: str) -> JsonSchema:
    """One schema of several, that also takes an expression."""
    kinds = {option["type"] for option in scalars}
    bounds = {name: value for option in scalars for name, value in option.items() if name in ("minimum", "maximum")}
    least = {"minLength": 1} if any(option.get("minLength") for option in scalars) else {}
    if "string" in kinds:
        scalar: JsonSchema = {"type": _SCALAR, **least, **bounds}
    else:
        wanted = f"{words.replace('`', '')}, or an expression"
        scalar = _matching(_EXPRESSION, wanted, *sorted(kinds), "string", **bounds)
    return {"anyOf": [*widened, scalar]} if widened else scalar


def _widened(option: JsonSchema) -> JsonSchema:
    if "enum" in option:
        return {"enum": list(option["enum"])}
    if option["type"] == "array":
        return {"type": "array", "items": of_parameter(option["items"]).schema if option.get("items") else {}}
    inner = option.get("additionalProperties")
    return {"type": "object", "additionalProperties": of_parameter(inner).schema if inner else True}
