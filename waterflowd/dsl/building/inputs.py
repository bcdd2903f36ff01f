"""Inputs of a start by hand: how a file declares them, and what somebody gives for them.

Rules of this file: `check_inputs` is the one gate between what people and programs send and what expressions see; the
API and the CLI both call it. The CLI sends text, so text is read as the type says. Patterns match the whole value and
run on a linear-time engine (Rust's, as shipped in pydantic-core), since a pattern is written by whoever may push.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected
from waterflowd.dsl.reading.tree import plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import did_you_mean
from waterflowd.dsl.reporting.values import as_text, describe
from waterflowd.model.plan import InputSpec, InputType, Json

#: All inputs of a start as JSON; GitHub's bound.
INPUTS_BYTES_MAX = 65_535

#: What an input that nobody gives and that has no default is, as at GitHub.
_EMPTY: dict[InputType, Json] = {
    InputType.STRING: "",
    InputType.NUMBER: 0,
    InputType.BOOLEAN: False,
    InputType.JSON: None,
}


def check_inputs(specs: Sequence[InputSpec], given: Mapping[str, Json]) -> dict[str, Json]:
    """The inputs of a run, typed and with defaults, in the order of the file.

    Raises `Rejected` WF110, with the input's name in `where`, for one that is unknown, missing or of the wrong kind.
    """
    known = {spec.name: spec for spec in specs}
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or (f"known inputs: {', '.join(known)}" if known else "it takes none")
            raise _rejected(name, f"the workflow has no input {quote(name)}; {hint}")
    values = {name: _value(spec, given) for name, spec in known.items()}
    if len(json.dumps(values).encode()) > INPUTS_BYTES_MAX:
        raise Rejected(codes.WRONG_INPUT, f"the inputs are larger than {INPUTS_BYTES_MAX:,} bytes", status=422)
    return values


def _value(spec: InputSpec, given: Mapping[str, Json]) -> Json:
    if spec.name in given and not (given[spec.name] is None and spec.type is not InputType.JSON):
        try:
            return typed(spec, given[spec.name])
        except ValueError as error:
            raise _rejected(spec.name, f"input {quote(spec.name)}: {error}") from None
    if spec.required and spec.default is None:
        raise _rejected(spec.name, f"input {quote(spec.name)} is required")
    return default_of(spec)


def default_of(spec: InputSpec) -> Json:
    """What an input is that nobody gives."""
    if spec.default is not None:
        return spec.default
    return spec.options[0] if spec.type is InputType.CHOICE else _EMPTY[spec.type]


def _rejected(name: str, text: str) -> Rejected:
    return Rejected(codes.WRONG_INPUT, text, where=name, status=422)


def typed(spec: InputSpec, value: Json) -> Json:
    """The value as the type says; raises ValueError with what was expected."""
    match spec.type:
        case InputType.STRING:
            return _string(spec, value)
        case InputType.CHOICE:
            return _choice(spec, value)
        case InputType.NUMBER:
            return _number(value)
        case InputType.BOOLEAN:
            return _boolean(value)
        case InputType.JSON:
            return _json(value)


def _string(spec: InputSpec, value: Json) -> str:
    text = as_text(value)
    if isinstance(text, int | float):
        text = json.dumps(text)
    if not isinstance(text, str):
        raise ValueError(f"expected text, not {describe(value)}")
    if "\0" in text:
        raise ValueError("a text may not hold NUL")
    if spec.pattern is not None and not matches(spec.pattern, text):
        raise ValueError(f"{quote(text)} does not match the pattern {spec.pattern}")
    return text


def _choice(spec: InputSpec, value: Json) -> str:
    text = as_text(value)
    if isinstance(text, int | float):
        text = json.dumps(text)
    if text not in spec.options:
        hint = did_you_mean(text, spec.options) if isinstance(text, str) else ""
        raise ValueError(
            f"expected one of {', '.join(spec.options)}, not {describe(value)}{'; ' + hint if hint else ''}"
        )
    return str(text)


def _number(value: Json) -> Json:
    number = value
    if isinstance(value, str):
        try:
            number = float(value) if len(value) <= 64 else None
        except ValueError:
            number = None
        else:
            is_whole = number is not None and value.strip().lstrip("+-").isdecimal()
            number = int(value) if is_whole else number
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"expected a number, not {describe(value)}")
    if isinstance(number, int) and not -(2**63) <= number < 2**64:
        raise ValueError("expected a number of 64 bits at most")
    return plain(number)


def _boolean(value: Json) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"expected true or false, not {describe(value)}")


def _json(value: Json) -> Json:
    if not isinstance(value, str):
        return _bounded(value)
    try:
        return _bounded(json.loads(value, parse_constant=_refuse))
    except RecursionError:
        raise ValueError("the JSON nests too deeply") from None
    except ValueError:
        raise ValueError(f"expected JSON, not {quote(value)}; a text is written in double quotes") from None


def _refuse(name: str) -> Json:
    raise ValueError(name)


#: Levels of a JSON input; every later reader recurses over it.
_HEIGHT_MAX = 64


def _bounded(value: Json, height: int = _HEIGHT_MAX) -> Json:
    if height == 0:
        raise ValueError(f"it nests more than {_HEIGHT_MAX} levels")
    match value:
        case dict():
            return {key: _bounded(item, height - 1) for key, item in value.items()}
        case list():
            return [_bounded(item, height - 1) for item in value]
        case bool() | str() | None:
            return value
    return _number(value)


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of `text` matches; raises ValueError for a pattern that is none."""
    return _matcher(pattern)(text)


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> Callable[[str], bool]:
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        validator = SchemaValidator(core_schema.str_schema(pattern=rf"\A(?:{pattern})\z", regex_engine="rust-regex"))
    except SchemaError:
        hint = "look-around and back references are not known"
        raise ValueError(f"{quote(pattern)} is not a regular expression ({hint})") from None
    return validator.isinstance_python
