"""JSON text for `toJSON` and `fromJSON`, and the limits of every result.

Written by hand where the standard library differs from JavaScript: numbers (`1e-7`, not `1e-07`), NaN and infinities
(null), lazy mappings. All sizes are UTF-8 bytes of the compact JSON text, or of the text itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring

from waterflowd.expr.errors import BOUND, WRONG_VALUE
from waterflowd.expr.values import (
    ARRAY,
    NUMBER,
    OBJECT,
    STRING,
    Value,
    kind_of,
    number_from_text,
)
from waterflowd.model.numbers import Number, normal, shortest

#: Larger results belong in a file; this is also the limit of a job's outputs.
RESULT_BYTES_MAX = 1024 * 1024

#: Nesting of values; far below Python's recursion limit, far above what people write.
VALUE_HEIGHT_MAX = 128

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Problem(Exception):
    """A function failed; the caller knows the offset and raises an ExpressionError."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def too_large() -> Problem:
    """Return the problem of a result that exceeds the limit."""
    return Problem(BOUND, f"the result is larger than {RESULT_BYTES_MAX} bytes")


def size_of(text: str) -> int:
    """Return the size of a text in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def bounded(text: str) -> str:
    """Return `text` if it is within the limit; raises Problem otherwise."""
    if len(text) > RESULT_BYTES_MAX or size_of(text) > RESULT_BYTES_MAX:
        raise too_large()
    return text


def joined(parts: Iterable[str], separator: str = "") -> str:
    """Return `separator.join(parts)` without ever building more than the limit."""
    kept: list[str] = []
    total = 0
    for part in parts:
        total += len(part) + len(separator)
        if total - len(separator) > RESULT_BYTES_MAX:
            raise too_large()
        kept.append(part)
    return bounded(separator.join(kept))


def plain(value: Value) -> Value:
    """Return a copy that contains only dicts, lists and scalars; raises Problem if it exceeds the limits."""
    budget = [RESULT_BYTES_MAX]
    return _plain(value, budget, VALUE_HEIGHT_MAX)


def _plain(value: Value, budget: list[int], height: int) -> Value:
    kind = kind_of(value)
    budget[0] -= size_of(str(value)) if kind is STRING else 2
    if budget[0] < 0:
        raise too_large()
    if kind not in (ARRAY, OBJECT):
        return normal(value) if kind is NUMBER and isinstance(value, int | float) else value
    if height == 0:
        raise Problem(BOUND, f"the value is nested more than {VALUE_HEIGHT_MAX} levels deep")
    if isinstance(value, Mapping):
        budget[0] -= sum(size_of(key) + 4 for key in value)
        return {key: _plain(item, budget, height - 1) for key, item in value.items()}
    assert isinstance(value, list | tuple)
    return [_plain(item, budget, height - 1) for item in value]


def to_json(value: Value) -> str:
    """Return a value as JSON with two spaces of indent, as `JSON.stringify(value, null, 2)` does."""
    return bounded("".join(_lines(plain(value), "\n")))


def _lines(value: Value, line: str) -> Iterable[str]:
    """Yield the pieces of the JSON text; `line` is a line break with the current indent."""
    inner = line + "  "
    if isinstance(value, dict):
        if not value:
            yield "{}"
            return
        for number, (key, item) in enumerate(value.items()):
            yield f"{',' if number else '{'}{inner}{encode_basestring(key)}: "
            yield from _lines(item, inner)
        yield line + "}"
    elif isinstance(value, list):
        if not value:
            yield "[]"
            return
        for number, item in enumerate(value):
            yield f"{',' if number else '['}{inner}"
            yield from _lines(item, inner)
        yield line + "]"
    else:
        yield _scalar(value)


def _scalar(value: Value) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    assert isinstance(value, int | float)
    return str(value) if isinstance(value, int) else shortest(value)


def from_json(text: str) -> Value:
    """Return the value of a JSON text; raises Problem when it is not JSON, too large or too deep."""
    bounded(text)
    if text.count("[") + text.count("{") > VALUE_HEIGHT_MAX and _height(text) > VALUE_HEIGHT_MAX:
        raise Problem(BOUND, f"the value is nested more than {VALUE_HEIGHT_MAX} levels deep")
    try:
        value: Value = _DECODER.decode(text)
    except ValueError as error:
        where = f" at character {error.pos}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        raise Problem(WRONG_VALUE, f"fromJSON: the text is not JSON{where}") from None
    if "\\u" in text and _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise Problem(WRONG_VALUE, "fromJSON: the text contains half of a surrogate pair, which is not a character")
    return value


def _refuse_constant(name: str) -> Number:
    raise ValueError(f"{name} is not JSON")


#: Created once: that costs more than decoding a short text.
_DECODER = json.JSONDecoder(parse_int=number_from_text, parse_float=number_from_text, parse_constant=_refuse_constant)


def _height(text: str) -> int:
    height = highest = 0
    for bracket in re.findall(r"[\[\]{}]", _JSON_STRING.sub("", text)):
        height += 1 if bracket in "[{" else -1
        highest = max(highest, height)
    return highest
