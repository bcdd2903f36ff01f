"""The values of inputs: the only module that checks and converts them, wherever they come from.

Inputs of a run come from the API and the CLI; inputs of a called workflow and of a composite step come from `with`. The
compiler checks the values that it knows, the engine those that come from expressions; both call this module, so they agree
on what a value means.

Rules of this file:

- `convert` converts one value to its declared type, or reports what was expected and what was found. Text is parsed according
  to the type, since the CLI and most expressions yield text.
- Null means that the input is not set, except for `json`, where it is a value.
- Patterns match the whole value. They run on a linear-time engine (Rust's, as shipped in pydantic-core), since everyone
  who may push can write one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache

from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected
from waterflowd.model.numbers import INTEGER_MAX, INTEGER_MIN, normal, number_to_text
from waterflowd.model.plan import InputSpec, InputType, Json
from waterflowd.model.wording import describe, did_you_mean

#: The code of every error about a value or a declaration.
WRONG_INPUT = "WF110"

#: Limit of all inputs of a start as JSON, as in GitHub Actions.
INPUTS_BYTES_MAX = 65_535
#: Nesting of a JSON input; every later reader recurses over it.
JSON_LEVELS_MAX = 64
#: Characters of a text that is read as a number.
_NUMBER_CHARACTERS_MAX = 64

#: The value of an input that is not set and has no default, as in GitHub Actions.
_EMPTY: dict[InputType, Json] = {
    InputType.STRING: "",
    InputType.NUMBER: 0,
    InputType.BOOLEAN: False,
    InputType.JSON: None,
}


def check_start(specs: Sequence[InputSpec], arguments: Mapping[str, Json]) -> dict[str, Json]:
    """Resolves the inputs of a new run: like `resolve`, with a limit on their size."""
    values = resolve(specs, arguments)
    if len(json.dumps(values).encode()) > INPUTS_BYTES_MAX:
        raise Rejected(WRONG_INPUT, f"the inputs have more than {INPUTS_BYTES_MAX:,} bytes", status=422)
    return values


def resolve(specs: Sequence[InputSpec], arguments: Mapping[str, Json], callee: str = "") -> dict[str, Json]:
    """A value for each declared input, in the order of the declarations: the converted argument, or the default.

    Raises `Rejected` WF110, with the input's name in `where`, for an input that is unknown, missing or of the wrong kind.
    `callee` names the declaring workflow or step, if the error must mention it.
    """
    names = {spec.name.lower(): spec.name for spec in specs}
    passed: dict[str, Json] = {}
    for name, value in arguments.items():
        known = names.get(name.lower())
        if known is None:
            hint = did_you_mean(name, names.values()) or known_inputs(specs)
            raise _rejected(name, f"{callee or 'the workflow'} has no input {quote(name)}; {hint}")
        if known in passed:
            raise _rejected(name, f"input {quote(known)} is given twice; upper and lower case are the same")
        passed[known] = value
    return {spec.name: _value(spec, passed, f" of {callee}" if callee else "") for spec in specs}


def known_inputs(specs: Sequence[InputSpec]) -> str:
    """The suggestion for an unknown input whose name resembles no known one."""
    return f"known inputs: {', '.join(spec.name for spec in specs)}" if specs else "it takes no inputs"


def _value(spec: InputSpec, arguments: Mapping[str, Json], of: str) -> Json:
    value = arguments.get(spec.name)
    if value is not None or (spec.type is InputType.JSON and spec.name in arguments):
        try:
            return convert(spec, value)
        except ValueError as error:
            raise _rejected(spec.name, f"input {quote(spec.name)}{of}: {error}") from None
    if spec.required and spec.default is None:
        null_hint = "; it was passed as null" if spec.name in arguments else ""
        raise _rejected(spec.name, f"input {quote(spec.name)}{of} is required{null_hint}")
    return default_of(spec)


def default_of(spec: InputSpec) -> Json:
    """The value of an input that is not set."""
    if spec.default is not None:
        return spec.default
    return spec.options[0] if spec.type is InputType.CHOICE else _EMPTY[spec.type]


def _rejected(name: str, text: str) -> Rejected:
    return Rejected(WRONG_INPUT, text, where=name, status=422)


def convert(spec: InputSpec, value: Json) -> Json:
    """Converts the value to its declared type; raises ValueError with what was expected and what was found."""
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


def check_secret(spec: InputSpec, value: Json) -> None:
    """Checks a value with a secret in it; raises ValueError when the input needs a value that can be checked.

    The value of a secret is only known on the server, so only text without a pattern, and secrets inside JSON, are accepted.
    """
    is_free_text = spec.type is InputType.STRING and spec.pattern is None
    if not is_free_text and not (spec.type is InputType.JSON and not isinstance(value, str)):
        kind = "with a pattern" if spec.pattern is not None else f"of type {spec.type.value}"
        raise ValueError(
            f"an input {kind} cannot take a secret, whose value cannot be checked; "
            "declare it as type string, without a pattern"
        )


def _text(value: Json) -> Json:
    """Converts numbers and booleans to text, as expressions do; returns everything else unchanged."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return number_to_text(value) if isinstance(value, int | float) else value


def _string(spec: InputSpec, value: Json) -> str:
    text = _text(value)
    if not isinstance(text, str):
        raise ValueError(f"expected text, found {describe(value)}")
    if "\0" in text:
        raise ValueError("text must not contain NUL characters")
    if spec.pattern is not None and not matches(spec.pattern, text):
        raise ValueError(f"expected text that matches {spec.pattern}, found {quote(text)}")
    return text


def _choice(spec: InputSpec, value: Json) -> str:
    text = _text(value)
    if not isinstance(text, str) or text not in spec.options:
        hint = did_you_mean(text, spec.options) if isinstance(text, str) else ""
        raise ValueError(
            f"expected one of {', '.join(spec.options)}; found {describe(value)}{'; ' + hint if hint else ''}"
        )
    return text


def _number(value: Json) -> Json:
    number = value
    if isinstance(value, str) and len(value) <= _NUMBER_CHARACTERS_MAX:
        is_whole = value.strip().lstrip("+-").isdecimal()
        with suppress(ValueError):
            number = int(value) if is_whole else float(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"expected a number, found {describe(value)}")
    return normal(_bounded_number(number))


def _bounded_number(number: int | float) -> int | float:
    if isinstance(number, int):
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise ValueError("expected a number of at most 64 bits")
    elif not math.isfinite(number):
        raise ValueError(f"expected a number, found {number}")
    return number


def _boolean(value: Json) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"expected true or false, found {describe(value)}")


def _json(value: Json) -> Json:
    if not isinstance(value, str):
        return _bounded(value)
    try:
        parsed = json.loads(value, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"the JSON is nested more than {JSON_LEVELS_MAX} levels deep") from None
    except ValueError:
        raise ValueError(f"expected JSON, found {quote(value)}; write text in double quotes") from None
    return _bounded(parsed)


def _refuse_constant(name: str) -> Json:
    raise ValueError(name)


def _bounded(value: Json, levels: int = JSON_LEVELS_MAX) -> Json:
    if levels == 0:
        raise ValueError(f"the JSON is nested more than {JSON_LEVELS_MAX} levels deep")
    match value:
        case dict():
            return {key: _bounded(item, levels - 1) for key, item in value.items()}
        case list():
            return [_bounded(item, levels - 1) for item in value]
        case bool() | str() | None:
            return value
    return _bounded_number(value)


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of `text` matches; raises ValueError for a pattern that is not a regular expression."""
    return _matcher(pattern)(text)


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> Callable[[str], bool]:
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        validator = SchemaValidator(core_schema.str_schema(pattern=rf"\A(?:{pattern})\z", regex_engine="rust-regex"))
    except SchemaError:
        hint = "look-around and back-references are not supported"
        raise ValueError(f"{quote(pattern)} is not a valid regular expression ({hint})") from None
    return validator.isinstance_python
