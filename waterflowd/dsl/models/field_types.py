"""The kinds of values that people write, as types for the models of `schema`.

Rules of this file: a type takes what its docstring says and raises one sentence for anything else; numbers keep their
spelling where text is wanted (`1.20` stays `1.20`). Where a type takes expressions, a text with `${{` passes
unchanged and is checked later.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from waterflowd.dsl.reporting.values import EXPRESSION, as_text, describe, has_expression
from waterflowd.model import durations
from waterflowd.model.plan import Json

#: Type of an error whose message is ready to be shown.
READY = "waterflow"

#: Longer names are a pasted script or an attack on whoever shows them.
NAME_CHARACTERS_MAX = 1_000

#: 35 days, GitHub's longest.
MINUTES_MAX = 50_400

#: A year: anything longer is a slip of the pen.
DURATION_MS_MAX = 366 * 86_400_000


def wrong(message: str) -> PydanticCustomError:
    """An error that is shown as it is."""
    return PydanticCustomError(READY, "{message}", {"message": message})


def one_or_more(value: object) -> object:
    """A single value is short for a list of one."""
    return value if isinstance(value, list) else [value]


def _text(value: object) -> str:
    written = as_text(value)
    if not isinstance(written, str):
        raise wrong(f"expected text, not {describe(value)}")
    if not written.strip():
        raise wrong("expected text, not an empty one")
    return written


def _static_text(value: object) -> str:
    written = _text(value)
    if EXPRESSION in written:
        raise wrong("an expression cannot stand here, the value must be known before the run")
    return written


def _name(value: object) -> str:
    written = _text(value)
    if len(written) > NAME_CHARACTERS_MAX:
        raise wrong(f"a name may have {NAME_CHARACTERS_MAX:,} characters, this has {len(written):,}")
    return written


def _static_name(value: object) -> str:
    return _static_text(_name(value))


def _free_text(value: object) -> str:
    written = "" if value is None else as_text(value)
    if not isinstance(written, str):
        raise wrong(f"expected text, not {describe(value)}")
    return written


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


def _duration(value: object) -> int:
    written = as_text(value)
    if not isinstance(written, str) or isinstance(value, bool):
        raise wrong(f"expected a duration such as 30s, not {describe(value)}")
    if EXPRESSION in written:
        raise wrong("an expression cannot stand here, the value must be known before the run")
    try:
        milliseconds = durations.parse(written)
    except ValueError:
        hint = f"; do you mean {written}s?" if written.isdigit() else ""
        raise wrong(f"expected a duration such as 500ms, 30s or 1h30m, not {describe(value)}{hint}") from None
    if milliseconds > DURATION_MS_MAX:
        raise wrong(f"expected a year at most, not {describe(value)}")
    return milliseconds


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong(f"expected a mapping of names to texts, not {describe(value)}")
    return value


def _environment_value(value: object) -> str:
    written = "" if value is None else as_text(value)
    if not isinstance(written, str):
        raise wrong(f"an environment variable is text, not {describe(value)}")
    return written


def _texts(value: object) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [_static_text(item) for item in items]


def _whole_number(least: int, most: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise wrong(f"expected a whole number from {least:,} to {most:,}, not {describe(value)}")
        return int(value)

    return check


def _in_range(least: float, most: float) -> Callable[[object], float]:
    def check(value: object) -> float:
        number = _number(value)
        if not least <= number <= most:
            raise wrong(f"expected a number from {least:g} to {most:g}, not {describe(value)}")
        return number

    return check


_SHARE = re.compile(r"([0-9]{1,3})%")
_BYTES = re.compile(r"([0-9]{1,12})\s*(KiB|MiB|GiB|)")
_BYTES_OF = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

#: Servers of one group that a number may speak of.
SERVERS_MAX = 100_000

#: What is kept of one attempt's output.
OUTPUT_BYTES_LEAST, OUTPUT_BYTES_MAX = 1 << 10, 1 << 30


def _size(least: int) -> Callable[[object], int | str]:
    def check(value: object) -> int | str:
        if has_expression(value):
            return str(value)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= SERVERS_MAX:
            return int(value)
        share = _SHARE.fullmatch(value) if isinstance(value, str) else None
        if share and least <= int(share.group(1)) <= 100:
            return f"{int(share.group(1))}%"
        raise wrong(f"expected a number of servers, or a share such as 25%, not {describe(value)}")

    return check


def _sizes(value: object) -> list[int | str]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise wrong("expected at least one size, such as 1 or 25%")
    return [_size(1)(item) for item in items]


def _count_or_expression(least: int, most: int) -> Callable[[object], int | str]:
    whole = _whole_number(least, most)
    return lambda value: str(value) if has_expression(value) else whole(value)


def _duration_or_expression(value: object) -> str:
    """The text as it was written, since the engine reads it when its turn comes."""
    if not has_expression(value):
        _duration(value)
    return str(as_text(value))


def _bytes(value: object) -> int:
    found = _BYTES.fullmatch(written) if isinstance(written := as_text(value), str) else None
    number = int(found.group(1)) * _BYTES_OF[found.group(2)] if found and not isinstance(value, bool) else 0
    if not OUTPUT_BYTES_LEAST <= number <= OUTPUT_BYTES_MAX:
        raise wrong(f"expected bytes from 1KiB to 1GiB, such as 16MiB, not {describe(value)}")
    return number


def _patterns_or_boolean(value: object) -> bool | list[str]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list) or not value:
        raise wrong(f"expected true, false, or a list of path patterns, not {describe(value)}")
    return [_static_text(item) for item in value]


def _label_values(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong(f"expected a mapping such as {{arch: arm64}}, not {describe(value)}")
    return {name: _text(item) for name, item in value.items()}


#: What a schema says of a value that may be a number or boolean in the file and is text for us.
_TEXT_INPUT = str | int | float | bool

#: Text with expressions.
Text = Annotated[str, PlainValidator(_text, json_schema_input_type=_TEXT_INPUT)]
#: Text that is known before the run.
StaticText = Annotated[str, PlainValidator(_static_text, json_schema_input_type=_TEXT_INPUT)]
#: A shown name with expressions.
Name = Annotated[str, PlainValidator(_name, json_schema_input_type=_TEXT_INPUT)]
#: A shown name without.
StaticName = Annotated[str, PlainValidator(_static_name, json_schema_input_type=_TEXT_INPUT)]
#: A description; may be empty.
FreeText = Annotated[str, PlainValidator(_free_text, json_schema_input_type=_TEXT_INPUT | None)]
#: More than no minutes, 35 days at most.
Minutes = Annotated[float, PlainValidator(_minutes, json_schema_input_type=float)]
#: The same, or an expression.
MinutesOrExpression = Annotated[float | str, PlainValidator(_minutes_or_expression, json_schema_input_type=float | str)]
#: `true` or `false`.
Boolean = Annotated[bool, PlainValidator(_boolean, json_schema_input_type=bool)]
#: The same, or an expression.
BooleanOrExpression = Annotated[bool | str, PlainValidator(_boolean_or_expression, json_schema_input_type=bool | str)]
#: `30s` and the like; milliseconds for us.
Duration = Annotated[int, PlainValidator(_duration, json_schema_input_type=str)]
#: One text or a list of them; static.
Texts = Annotated[list[str], PlainValidator(_texts, json_schema_input_type=str | list[str])]
#: Names to texts with expressions.
EnvironmentVariables = Annotated[
    dict[str, Annotated[str, PlainValidator(_environment_value, json_schema_input_type=_TEXT_INPUT | None)]],
    BeforeValidator(_environment),
]
#: Tries of a step in all.
Attempts = Annotated[int, PlainValidator(_whole_number(1, 1_000), json_schema_input_type=int), Field(ge=1, le=1_000)]
#: The factor between two intervals.
Coefficient = Annotated[float, PlainValidator(_in_range(1, 100), json_schema_input_type=float)]
#: A share.
Share = Annotated[float, PlainValidator(_in_range(0, 1), json_schema_input_type=float)]
#: A number of servers, a share of them, or an expression.
Size = Annotated[int | str, PlainValidator(_size(1), json_schema_input_type=int | str)]
#: The same, none allowed.
SizeOrNone = Annotated[int | str, PlainValidator(_size(0), json_schema_input_type=int | str)]
#: One size or a growing list.
Sizes = Annotated[list[int | str], PlainValidator(_sizes, json_schema_input_type=int | str | list[int | str])]
#: How many at a time.
CountOrExpression = Annotated[
    int | str, PlainValidator(_count_or_expression(1, 10_000), json_schema_input_type=int | str)
]
#: How many people must approve.
ApprovalsOrExpression = Annotated[
    int | str, PlainValidator(_count_or_expression(1, 20), json_schema_input_type=int | str)
]
#: The same, known before the run.
Approvals = Annotated[int, PlainValidator(_whole_number(1, 20), json_schema_input_type=int)]
#: How many at a time, known before the run.
Count = Annotated[int, PlainValidator(_whole_number(1, 10_000), json_schema_input_type=int)]
#: A duration as it was written, or an expression.
DurationOrExpression = Annotated[str, PlainValidator(_duration_or_expression, json_schema_input_type=str)]
#: Bytes, as a number or such as `16MiB`.
Bytes = Annotated[int, PlainValidator(_bytes, json_schema_input_type=int | str)]
#: Everything, nothing, or the paths that match.
PatternsOrBoolean = Annotated[
    bool | list[str], PlainValidator(_patterns_or_boolean, json_schema_input_type=bool | list[str])
]
#: Names of labels to values with expressions.
Labels = Annotated[dict[str, str], PlainValidator(_label_values, json_schema_input_type=dict[str, str])]
#: One text or a list of them, with expressions.
TextsOrExpressions = Annotated[
    list[str],
    PlainValidator(
        lambda value: [_text(item) for item in (value if isinstance(value, list) else [value])],
        json_schema_input_type=str | list[str],
    ),
]
#: Any value that JSON can hold, expressions in its texts.
JsonValue = Annotated[Json, Field()]
