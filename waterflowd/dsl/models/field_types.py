"""The field types of the models: which values a key takes, how they are checked, and their JSON Schema.

Rules of this file: a type accepts what its comment says and raises one sentence for anything else. Where text is expected,
numbers keep their spelling (`1.20` stays `1.20`). Where a type takes expressions, a text with `${{` passes unchanged and
is checked later. A schema may accept more than the check (editors cannot read a cron expression), never less; its name
`x-takes` is what the reference calls the values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError

from waterflowd.dsl.reporting.values import EXPRESSION, as_text, describe, has_expression
from waterflowd.model import durations
from waterflowd.model.plan import ALL_VARIABLES, Json

JsonSchema = dict[str, Any]

#: The type of an error whose message needs no further words.
READY = "waterflow"

#: A longer name is a pasted script, or an attack on the pages that show it.
NAME_CHARACTERS_MAX = 1_000

#: 35 days, GitHub's limit.
MINUTES_MAX = 50_400

#: A year: anything longer is a typing error.
DURATION_MS_MAX = 366 * 86_400_000

#: The largest number of servers in one group that a key can give.
SERVERS_MAX = 100_000

#: The part of one attempt's output that is kept.
OUTPUT_BYTES_MIN, OUTPUT_BYTES_MAX = 1 << 10, 1 << 30
#: Less memory than this is not enough for any shell.
MEMORY_BYTES_MIN, MEMORY_BYTES_MAX = 4 << 20, 64 << 40
#: 1024 processors.
CPU_PERCENT_MAX = 102_400

_NO_EXPRESSION = "an expression is not allowed here: the value must be known before the run"

#: A `.git` with one commit.
SHALLOW = "shallow"

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGKILL")


def wrong(message: str) -> PydanticCustomError:
    """An error whose message is shown as it is."""
    return PydanticCustomError(READY, "{message}", {"message": message})


# Checks -------------------------------------------------------------------------------------------------------------------


def empty_is_all(value: object) -> object:
    """A key without a value, such as `push:`, takes every default below it."""
    return {} if value is None else value


def one_or_more(value: object) -> object:
    """A single value is short for a list of one."""
    return value if isinstance(value, list) else [value]


def _text(value: object) -> str:
    text = as_text(value)
    if not isinstance(text, str):
        raise wrong(f"expected text, not {describe(value)}")
    if not text.strip():
        raise wrong("expected text, but it is empty")
    return text


def _static_text(value: object) -> str:
    text = _text(value)
    if EXPRESSION in text:
        raise wrong(_NO_EXPRESSION)
    return text


def _name(value: object) -> str:
    text = _text(value)
    if len(text) > NAME_CHARACTERS_MAX:
        raise wrong(f"a name has at most {NAME_CHARACTERS_MAX:,} characters, this one has {len(text):,}")
    return text


def _static_name(value: object) -> str:
    return _static_text(_name(value))


def _free_text(value: object) -> str:
    text = "" if value is None else as_text(value)
    if not isinstance(text, str):
        raise wrong(f"expected text, not {describe(value)}")
    return text


def _condition(value: object) -> str:
    text = as_text(value)
    if not isinstance(text, str) or not text.strip():
        raise wrong(f"expected a condition, not {describe(value)}")
    return text


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(f"expected a number, not {describe(value)}")
    return float(value)


def _minutes(value: object) -> float:
    number = _number(value)
    if not 0 < number <= MINUTES_MAX:
        raise wrong(f"expected minutes, more than 0 and at most {MINUTES_MAX:,} (35 days), not {describe(value)}")
    return number


def _minutes_or_expression(value: object) -> float | str:
    return str(value) if has_expression(value) else _minutes(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise wrong(f"expected true or false, not {describe(value)}")
    return value


def _boolean_or_expression(value: object) -> bool | str:
    return str(value) if has_expression(value) else _boolean(value)


def _history(value: object) -> bool | str:
    if isinstance(value, bool):
        return value
    if value == SHALLOW:
        return SHALLOW
    raise wrong(f"expected true, false or {SHALLOW}, not {describe(value)}")


def _duration(value: object) -> int:
    text = as_text(value)
    if not isinstance(text, str) or isinstance(value, bool):
        raise wrong(f"expected a duration such as 30s, not {describe(value)}")
    if EXPRESSION in text:
        raise wrong(_NO_EXPRESSION)
    try:
        milliseconds = durations.parse(text)
    except ValueError:
        hint = f"; did you mean {text}s?" if text.isdigit() else ""
        raise wrong(f"expected a duration such as 500ms, 30s or 1h30m, not {describe(value)}{hint}") from None
    if milliseconds > DURATION_MS_MAX:
        raise wrong(f"expected at most a year, not {describe(value)}")
    return milliseconds


def _duration_or_expression(value: object) -> str:
    """The text itself, since the engine parses it when it evaluates the step."""
    if not has_expression(value):
        _duration(value)
    return str(as_text(value))


def _variables_or_expression(value: object) -> object:
    """A single expression stands for all variables."""
    if isinstance(value, str) and value.strip().startswith("${{") and value.strip().endswith("}}"):
        return {ALL_VARIABLES: value.strip()}
    return _mapping_of_texts(value)


def _mapping_of_texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong(f"expected a mapping of names to text, not {describe(value)}")
    return value


def _variable(value: object) -> str:
    text = "" if value is None else as_text(value)
    if not isinstance(text, str):
        raise wrong(f"an environment variable is text, not {describe(value)}")
    return text


def _texts(value: object) -> list[str]:
    return [_static_text(item) for item in _text_or_list(value)]


def _texts_or_expressions(value: object) -> list[str]:
    return [_text(item) for item in _text_or_list(value)]


def _text_or_list(value: object) -> list[object]:
    if isinstance(value, dict):
        raise wrong("expected text or a list, not a mapping")
    return value if isinstance(value, list) else [value]


def _job_or_list(value: object) -> object:
    if isinstance(value, dict):
        raise wrong("expected the id of a job or a list of ids, not a mapping")
    return value


def _whole_number(least: int, most: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise wrong(f"expected a whole number from {least:,} to {most:,}, not {describe(value)}")
        return int(value)

    return check


def _whole_number_or_expression(least: int, most: int) -> Callable[[object], int | str]:
    check = _whole_number(least, most)
    return lambda value: str(value) if has_expression(value) else check(value)


def _in_range(least: float, most: float) -> Callable[[object], float]:
    def check(value: object) -> float:
        number = _number(value)
        if not least <= number <= most:
            raise wrong(f"expected a number from {least:g} to {most:g}, not {describe(value)}")
        return number

    return check


_PERCENTAGE = re.compile(r"([0-9]{1,3})%")
_BYTES = re.compile(r"([0-9]{1,12})\s*(KiB|MiB|GiB|TiB|)")
_BYTES_PER_UNIT = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_PERCENTAGE = re.compile(r"([0-9]{1,6})\s*%")


def _server_count(least: int) -> Callable[[object], int | str]:
    def check(value: object) -> int | str:
        if has_expression(value):
            return str(value)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= SERVERS_MAX:
            return int(value)
        percentage = _PERCENTAGE.fullmatch(value) if isinstance(value, str) else None
        if percentage and least <= int(percentage.group(1)) <= 100:
            return f"{int(percentage.group(1))}%"
        raise wrong(f"expected a number of servers, or a percentage such as 25%, not {describe(value)}")

    return check


def _server_counts(value: object) -> list[int | str]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise wrong("expected at least one size, such as 1 or 25%")
    return [_server_count(1)(item) for item in items]


def _bytes(value: object) -> int:
    number = _size(value)
    if not OUTPUT_BYTES_MIN <= number <= OUTPUT_BYTES_MAX:
        raise wrong(f"expected bytes from 1KiB to 1GiB, such as 16MiB, not {describe(value)}")
    return number


def _memory(value: object) -> int:
    number = _size(value)
    if not MEMORY_BYTES_MIN <= number <= MEMORY_BYTES_MAX:
        raise wrong(f"expected bytes from 4MiB to 64TiB, such as 2GiB, not {describe(value)}")
    return number


def _size(value: object) -> int:
    """The number of bytes, 0 for anything else."""
    text = as_text(value)
    found = _BYTES.fullmatch(text) if isinstance(text, str) and not isinstance(value, bool) else None
    return int(found.group(1)) * _BYTES_PER_UNIT[found.group(2)] if found else 0


def _percentage(value: object) -> int:
    text = as_text(value)
    found = _PERCENTAGE.fullmatch(text) if isinstance(text, str) and not isinstance(value, bool) else None
    number = int(found.group(1)) if found else 0
    if not 1 <= number <= CPU_PERCENT_MAX:
        raise wrong(f"expected a percentage of one processor from 1% to 102400%, such as 200%, not {describe(value)}")
    return number


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong(f"expected a mapping such as {{arch: arm64}}, not {describe(value)}")
    return {name: _text(item) for name, item in value.items()}


def _retry_reason(value: object) -> str:
    text = as_text(value)
    if isinstance(text, str):
        name, colon, number = text.partition(":")
        if not colon and name in ("failure", "timeout", "lost"):
            return text
        if colon and name == "exit" and number.isascii() and number.isdigit() and int(number[:4]) <= 255:
            return f"exit:{int(number)}"
    raise wrong(f"expected failure, timeout, lost or exit:N (N up to 255), not {describe(value)}")


def _retry_reasons(value: object) -> list[str]:
    return [_retry_reason(item) for item in (value if isinstance(value, list) else [value])]


def _signal(value: object) -> str:
    text = str(value).upper() if isinstance(value, str) else ""
    name = text if text.startswith("SIG") else f"SIG{text}"
    if name not in SIGNALS:
        raise wrong(f"expected one of {', '.join(SIGNALS)}, not {describe(value)}")
    return name


# JSON Schema --------------------------------------------------------------------------------------------------------------

_SCALAR = ["string", "number", "boolean"]
_NULL = {"type": "null"}
EXPRESSION_PATTERN = r"\$\{\{"
_DURATION_PATTERN = r"([0-9]{1,12}(\.[0-9]{1,6})?(ms|d|h|m|s))+"


def matching(pattern: str, expected: str, *types: str, **more: Any) -> JsonSchema:
    """A value whose text, where it is one, matches; an editor says `expected` where it does not."""
    kind: Any = list(types) if len(types) > 1 else types[0]
    return {"type": kind, "pattern": pattern, "patternErrorMessage": f"expected {expected}", **more}


def or_expression(schema: JsonSchema) -> JsonSchema:
    """The same values, or text with an expression."""
    expected = f"{schema['x-takes'].replace('`', '')}, or an expression"
    return {**schema, **matching(EXPRESSION_PATTERN, expected, schema["type"], "string")}


def _number_schema(least: float, most: float, takes: str = "") -> JsonSchema:
    return {
        "type": "number",
        "minimum": least,
        "maximum": most,
        "x-takes": takes or f"a number from {least:,} to {most:,}",
    }


def _whole_number_schema(least: int, most: int) -> JsonSchema:
    takes = f"a whole number from {least:,} to {most:,}"
    return {**_number_schema(least, most, takes), "type": "integer"}


def _server_count_schema(least: int) -> JsonSchema:
    expected = "a number, or a percentage such as 25%"
    pattern = rf"^[0-9]{{1,3}}%$|{EXPRESSION_PATTERN}"
    schema = matching(pattern, expected, "integer", "string", maximum=SERVERS_MAX, minimum=least)
    return {**schema, "x-takes": "a number of servers, or a percentage such as `25%`"}


def _signal_pattern() -> str:
    def in_any_case(word: str) -> str:
        return "".join(f"[{letter}{letter.lower()}]" if letter.isalpha() else letter for letter in word)

    return f"^({in_any_case('SIG')})?({'|'.join(in_any_case(name[3:]) for name in SIGNALS)})$"


TEXT_SCHEMA = {**matching(r"\S", "text that is not empty", *_SCALAR), "x-takes": "text"}
_STATIC_TEXT_SCHEMA = {
    **matching(r"^(?![\s\S]*\$\{\{)[\s\S]*\S", "text without an expression", *_SCALAR),
    "x-takes": "text",
}
_FREE_TEXT_SCHEMA = {"type": [*_SCALAR, "null"], "x-takes": "text, may be empty"}
_BOOLEAN_SCHEMA = {"type": "boolean", "x-takes": "`true` or `false`"}
_MINUTES_SCHEMA = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": MINUTES_MAX,
    "x-takes": "minutes, more than 0 and at most 50,400 (35 days)",
}
_DURATION_SCHEMA = {
    **matching(f"^{_DURATION_PATTERN}$", "a duration such as 500ms, 30s or 1h30m", "string"),
    "x-takes": "a duration such as `30s`",
}
_DURATION_OR_EXPRESSION_SCHEMA = {
    **matching(f"^{_DURATION_PATTERN}$|{EXPRESSION_PATTERN}", "a duration such as 30s, or an expression", "string"),
    "x-takes": "a duration such as `30s`",
}
_RETRY_REASON_SCHEMA = {
    "anyOf": [
        {"enum": ["failure", "timeout", "lost"]},
        matching("^(failure|timeout|lost|exit:[0-9]{1,3})$", "failure, timeout, lost or exit:N", "string"),
    ],
    "x-takes": "`failure`, `timeout`, `lost` or `exit:N`",
}
_SIGNAL_SCHEMA = {
    **matching(_signal_pattern(), f"one of {', '.join(SIGNALS)}", "string"),
    "x-takes": f"one of {', '.join(f'`{name}`' for name in SIGNALS)}; the prefix `SIG` is optional",
}
_BYTES_SCHEMA = {
    **matching(r"^[0-9]{1,12}\s*(KiB|MiB|GiB|)$", "bytes, such as 16MiB", "integer", "string"),
    "minimum": OUTPUT_BYTES_MIN,
    "maximum": OUTPUT_BYTES_MAX,
    "x-takes": "bytes, such as `16MiB`, from 1 KiB to 1 GiB",
}
_MEMORY_SCHEMA = {
    **matching(r"^[0-9]{1,12}\s*(KiB|MiB|GiB|TiB|)$", "bytes, such as 2GiB", "integer", "string"),
    "minimum": MEMORY_BYTES_MIN,
    "maximum": MEMORY_BYTES_MAX,
    "x-takes": "bytes, such as `2GiB`, from 4 MiB to 64 TiB",
}
_HISTORY_SCHEMA: JsonSchema = {"enum": [True, False, SHALLOW], "x-takes": f"`true`, `false` or `{SHALLOW}`"}
_PERCENTAGE_SCHEMA = {
    **matching(r"^[0-9]{1,6}\s*%$", "a percentage, such as 200%", "string"),
    "x-takes": "a percentage of one processor, such as `200%`",
}


def options(schema: JsonSchema) -> list[JsonSchema]:
    """The alternatives of a schema, or the schema itself."""
    return list(schema["anyOf"]) if set(schema) <= {"anyOf", "x-takes"} and schema else [schema]


def or_null(schema: JsonSchema) -> JsonSchema:
    """The same values, or null: within a type or an enumeration where there is one, which editors read best."""
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": types if "null" in types else [*types, "null"]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], *([] if None in schema["enum"] else [None])]}
    if not schema:
        return schema
    takes = {"x-takes": schema["x-takes"]} if "x-takes" in schema else {}
    return {"anyOf": [*(option for option in options(schema) if option != _NULL), _NULL], **takes}


def one_or_more_of(schema: JsonSchema, least: int = 0) -> JsonSchema:
    """A value, or a list of them."""
    items = {"type": "array", "items": schema, **({"minItems": least} if least else {})}
    return {"anyOf": [*options(schema), items], "x-takes": f"{schema['x-takes']}, or a list of them"}


@dataclass(frozen=True)
class Accepts:
    """Adds an alternative spelling, which a validator normalizes, to the JSON Schema of a type."""

    schema: JsonSchema
    #: Where no alternative matches, editors describe the first.
    is_first: bool = False

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """The schema of the type, or this one."""
        others = options(handler(core))
        return {"anyOf": [self.schema, *others] if self.is_first else [*others, self.schema]}


def short_for(key: str) -> Accepts:
    """A text that is short for a mapping with one key."""
    return Accepts({**TEXT_SCHEMA, "x-takes": f"text, which is short for `{key}`"})


class AcceptsNull:
    """Adds null to the JSON Schema of a type."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """The schema of the type, or null."""
        return or_null(handler(core))


class AcceptsOne:
    """Adds a single item to the JSON Schema of a list."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """One item, or the list."""
        items = handler(core)
        return {"anyOf": [*options(items["items"]), items]}


# Types --------------------------------------------------------------------------------------------------------------------

Value = TypeVar("Value")

#: A mapping that may be left empty: `push:`.
OrEmpty = Annotated[Value, BeforeValidator(empty_is_all), AcceptsNull()]
#: A list, or a single item.
OneOrMore = Annotated[list[Value], BeforeValidator(one_or_more), AcceptsOne()]

#: Text with expressions.
Text = Annotated[str, PlainValidator(_text), WithJsonSchema(TEXT_SCHEMA)]
#: Text that is known before the run.
StaticText = Annotated[str, PlainValidator(_static_text), WithJsonSchema(_STATIC_TEXT_SCHEMA)]
#: A name for people, with expressions.
Name = Annotated[str, PlainValidator(_name), WithJsonSchema(TEXT_SCHEMA)]
#: A name for people, without expressions.
StaticName = Annotated[str, PlainValidator(_static_name), WithJsonSchema(_STATIC_TEXT_SCHEMA)]
#: A description; may be empty.
FreeText = Annotated[str, PlainValidator(_free_text), WithJsonSchema(_FREE_TEXT_SCHEMA)]
#: The condition of an `if`, with or without `${{ }}`.
Condition = Annotated[
    str,
    PlainValidator(_condition),
    WithJsonSchema({**matching(r"\S", "a condition", *_SCALAR), "x-takes": "a condition"}),
]
#: More than 0 minutes, at most 35 days.
Minutes = Annotated[float, PlainValidator(_minutes), WithJsonSchema(_MINUTES_SCHEMA)]
MinutesOrExpression = Annotated[
    float | str, PlainValidator(_minutes_or_expression), WithJsonSchema(or_expression(_MINUTES_SCHEMA))
]
#: `true` or `false`.
Boolean = Annotated[bool, PlainValidator(_boolean), WithJsonSchema(_BOOLEAN_SCHEMA)]
BooleanOrExpression = Annotated[
    bool | str, PlainValidator(_boolean_or_expression), WithJsonSchema(or_expression(_BOOLEAN_SCHEMA))
]
#: `30s` and the like, in milliseconds.
Duration = Annotated[int, PlainValidator(_duration), WithJsonSchema(_DURATION_SCHEMA)]
#: A duration as text, or an expression.
DurationOrExpression = Annotated[
    str, PlainValidator(_duration_or_expression), WithJsonSchema(_DURATION_OR_EXPRESSION_SCHEMA)
]
#: Static text, or a list of it.
Texts = Annotated[list[str], PlainValidator(_texts), WithJsonSchema(one_or_more_of(_STATIC_TEXT_SCHEMA))]
#: The id of a job, or a list of ids.
JobIds = Annotated[OneOrMore[StaticText], BeforeValidator(_job_or_list)]
#: Text with expressions, or a list of it.
TextsOrExpressions = Annotated[
    list[str], PlainValidator(_texts_or_expressions), WithJsonSchema(one_or_more_of(TEXT_SCHEMA))
]
#: The name of a job, an input, an output and the like; `ids` checks it.
IdName = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_-]*$"})]
#: The name of an environment variable, which is checked where the environment is built.
_VariableName = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"})]
_Variable = Annotated[str, PlainValidator(_variable), WithJsonSchema({**_FREE_TEXT_SCHEMA, "x-takes": "text"})]
#: Names to text with expressions.
EnvironmentVariables = Annotated[
    dict[_VariableName, _Variable],
    BeforeValidator(_variables_or_expression),
    Accepts(
        {
            "type": "string",
            "pattern": r"^\s*\$\{\{[\s\S]*\}\}\s*$",
            "x-takes": "an expression that yields such a mapping",
        }
    ),
]
#: The same, without the form of a single expression.
VariableTexts = Annotated[dict[_VariableName, _Variable], BeforeValidator(_mapping_of_texts)]
#: The same for names that are ids.
OutputTexts = Annotated[dict[IdName, _Variable], BeforeValidator(_mapping_of_texts)]
#: The number of tries, the first one included.
Attempts = Annotated[int, PlainValidator(_whole_number(1, 1_000)), WithJsonSchema(_whole_number_schema(1, 1_000))]
#: The factor between two intervals.
Coefficient = Annotated[float, PlainValidator(_in_range(1, 100)), WithJsonSchema(_number_schema(1, 100))]
#: A fraction.
Fraction = Annotated[float, PlainValidator(_in_range(0, 1)), WithJsonSchema(_number_schema(0, 1))]
#: A number of servers, a percentage of them, or an expression.
ServerCount = Annotated[int | str, PlainValidator(_server_count(1)), WithJsonSchema(_server_count_schema(1))]
#: The same, and 0 is allowed.
ServerCountOrNone = Annotated[int | str, PlainValidator(_server_count(0)), WithJsonSchema(_server_count_schema(0))]
#: One server count, or a growing list of them.
ServerCounts = Annotated[
    list[int | str],
    PlainValidator(_server_counts),
    WithJsonSchema(
        {
            **one_or_more_of(_server_count_schema(1), least=1),
            "x-takes": "a number of servers, a percentage such as `25%`, or a growing list of them",
        }
    ),
]
#: How many at a time.
Count = Annotated[int, PlainValidator(_whole_number(1, 10_000)), WithJsonSchema(_whole_number_schema(1, 10_000))]
CountOrExpression = Annotated[
    int | str,
    PlainValidator(_whole_number_or_expression(1, 10_000)),
    WithJsonSchema(or_expression(_whole_number_schema(1, 10_000))),
]
#: How many people must approve.
Approvals = Annotated[int, PlainValidator(_whole_number(1, 20)), WithJsonSchema(_whole_number_schema(1, 20))]
ApprovalsOrExpression = Annotated[
    int | str,
    PlainValidator(_whole_number_or_expression(1, 20)),
    WithJsonSchema(or_expression(_whole_number_schema(1, 20))),
]
#: A size such as `16MiB`, or a number of bytes.
Bytes = Annotated[int, PlainValidator(_bytes), WithJsonSchema(_BYTES_SCHEMA)]
#: The same for memory: `2GiB`.
Memory = Annotated[int, PlainValidator(_memory), WithJsonSchema(_MEMORY_SCHEMA)]
#: Processor time in percent of one processor, such as `200%`.
Percentage = Annotated[int, PlainValidator(_percentage), WithJsonSchema(_PERCENTAGE_SCHEMA)]
#: A number of processes.
Processes = Annotated[
    int, PlainValidator(_whole_number(1, 4_000_000)), WithJsonSchema(_whole_number_schema(1, 4_000_000))
]
#: All commits, none, or one.
History = Annotated[bool | str, PlainValidator(_history), WithJsonSchema(_HISTORY_SCHEMA)]
#: Everything, nothing, or the paths that match, in place of a mapping.
BOOLEAN_OR_PATTERNS = Accepts(
    {
        "anyOf": [_BOOLEAN_SCHEMA, {"type": "array", "items": _STATIC_TEXT_SCHEMA, "minItems": 1}],
        "x-takes": "`true`, `false`, or a list of path patterns",
    },
    is_first=True,
)
#: Names of labels to values with expressions.
Labels = Annotated[
    dict[str, str],
    PlainValidator(_labels),
    WithJsonSchema({"type": "object", "additionalProperties": TEXT_SCHEMA}),
]
#: What `retry` reacts to.
RetryReasons = Annotated[
    list[str], PlainValidator(_retry_reasons), WithJsonSchema(one_or_more_of(_RETRY_REASON_SCHEMA))
]
#: A signal, with or without `SIG`.
Signal = Annotated[str, PlainValidator(_signal), WithJsonSchema(_SIGNAL_SCHEMA)]
#: Any JSON value, with expressions in its texts.
JsonValue = Annotated[Json, Field(), WithJsonSchema({})]
#: Names to such values.
JsonValues = OrEmpty[dict[IdName, JsonValue]]
