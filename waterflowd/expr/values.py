"""The values of expressions and GitHub's coercions between them.

A value is JSON data: None, bool, int or float, str, a list or tuple, a Mapping with string keys. Mappings may
be lazy. Anything else is a bug of the host and raises TypeError.

Numbers are JavaScript's, with one difference: an integer stays exact while it fits into 64 bits, so an id from a
payload reaches a script unchanged, where GitHub would round it past 2**53. A whole float becomes an int (`1.0` is
`1`, `-0` is `0`), larger integers become floats; so every result of an expression can be stored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from waterflowd.model.numbers import Number, normal, number_to_text

Value = object

_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
#: Integers with more digits are out of range and are read as floats, which is fast.
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_PREFIXED = {"x": (16, re.compile(r"[0-9a-fA-F]+")), "o": (8, re.compile(r"[0-7]+")), "b": (2, re.compile(r"[01]+"))}
_INFINITE = {"Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}

#: What JavaScript trims from a string before it reads a number.
_JS_SPACE = "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))

NULL, BOOLEAN, NUMBER, STRING, ARRAY, OBJECT = "null", "a boolean", "a number", "a string", "an array", "an object"

_KINDS: dict[type, str] = {
    type(None): NULL,
    bool: BOOLEAN,
    int: NUMBER,
    float: NUMBER,
    str: STRING,
    list: ARRAY,
    tuple: ARRAY,
    dict: OBJECT,
}


class Filtered(list[object]):
    """The result of a filter: an array whose next index applies to each of its items."""

    __slots__ = ()


def kind_of(value: Value) -> str:
    """Return the kind of a value for error messages; raises TypeError for anything that is not a value."""
    kind = _KINDS.get(type(value))
    if kind is not None:
        return kind
    if isinstance(value, Mapping):
        return OBJECT
    for base, name in ((bool, BOOLEAN), (int, NUMBER), (float, NUMBER), (str, STRING), (list | tuple, ARRAY)):
        if isinstance(value, base):
            return name
    raise TypeError(f"not a value of an expression: {type(value).__name__}")


def number_from_text(text: str) -> Number:
    """Return the number that JavaScript reads from a string: '' is 0, '0x1f' is 31, nonsense is NaN."""
    text = text.strip(_JS_SPACE)
    if not text:
        return 0
    if _INTEGER.fullmatch(text):
        return normal(int(text))
    if _DECIMAL.fullmatch(text):
        return normal(float(text))
    if text in _INFINITE:
        return _INFINITE[text]
    if text[0] == "0" and len(text) > 2 and (prefixed := _PREFIXED.get(text[1].lower())):
        radix, digits = prefixed
        if digits.fullmatch(text, 2):
            return normal(int(text[2:], radix))
    return math.nan


def to_number(value: Value) -> Number:
    """Return a value as a number: null is 0, booleans are 0 and 1, arrays and objects are NaN."""
    kind = kind_of(value)
    if kind is NUMBER:
        assert isinstance(value, int | float)
        return value
    if kind is STRING:
        return number_from_text(str(value))
    if kind is NULL:
        return 0
    if kind is BOOLEAN:
        return 1 if value else 0
    return math.nan


def to_text(value: Value) -> str:
    """Return a value as text: null is '', an array is 'Array', an object is 'Object'."""
    if type(value) is str:
        return value
    kind = kind_of(value)
    if kind is STRING:
        return str(value)
    if kind is NULL:
        return ""
    if kind is BOOLEAN:
        return "true" if value else "false"
    if kind is NUMBER:
        assert isinstance(value, int | float)
        return number_to_text(value)
    return "Array" if kind is ARRAY else "Object"


def is_truthy(value: Value) -> bool:
    """Return whether a value counts as true: not null, false, 0, NaN or ''."""
    if value is None or value is False or value == "":
        return False
    if isinstance(value, int | float):
        return value != 0 and value == value
    kind_of(value)
    return True


def fold(text: str) -> str:
    """Return the form in which strings are compared: upper case, except that a dotless i is kept."""
    if "ı" in text:
        return "ı".join(part.upper() for part in text.split("ı"))
    return text.upper()


def equals(left: Value, right: Value) -> bool:
    """Compare by GitHub's loose equality: strings without case, different primitives as numbers, collections by identity."""
    if type(left) is str and type(right) is str:
        return left == right or fold(left) == fold(right)
    left_kind, right_kind = kind_of(left), kind_of(right)
    if left_kind in (ARRAY, OBJECT) or right_kind in (ARRAY, OBJECT):
        return left is right
    if left_kind is right_kind:
        return fold(str(left)) == fold(str(right)) if left_kind is STRING else left == right
    return to_number(left) == to_number(right)


def is_less(left: Value, right: Value) -> bool:
    """Return whether `left` comes before `right`; false for collections and NaN."""
    left_kind, right_kind = kind_of(left), kind_of(right)
    if left_kind is STRING and right_kind is STRING:
        return _order(fold(str(left))) < _order(fold(str(right)))
    if left_kind in (ARRAY, OBJECT) or right_kind in (ARRAY, OBJECT):
        return False
    return to_number(left) < to_number(right)


def _order(text: str) -> bytes:
    """Return the sort key of strings in JavaScript: their UTF-16 units."""
    return text.encode("utf-16-be", "surrogatepass")


def property_of(value: Any, key: Value) -> Value:
    """Return `value[key]`, or null if it does not exist; keys of objects are case-insensitive, an exact match wins."""
    kind = _KINDS.get(type(value)) or kind_of(value)
    if kind is OBJECT:
        return _member(value, key)
    if kind is ARRAY:
        if isinstance(value, Filtered):
            return _each(value, key)
        position = _position(key)
        return value[position] if position is not None and position < len(value) else None
    return None


_ABSENT = object()


def _member(mapping: Mapping[str, object], key: Value, absent: Value = None) -> Value:
    if type(key) is not str:
        if kind_of(key) in (ARRAY, OBJECT):
            return absent
        key = to_text(key)
    found = mapping.get(key, _ABSENT)
    if found is not _ABSENT:
        return found
    lowered = key.lower()
    for name in mapping:
        if name.lower() == lowered:
            return mapping[name]
    return absent


def _position(key: Value) -> int | None:
    number = to_number(key)
    return math.floor(number) if 0 <= number < math.inf else None


def _each(items: Filtered, key: Value) -> Filtered:
    result = Filtered()
    position: int | None = -1
    item: Any
    for item in items:
        kind = _KINDS.get(type(item)) or kind_of(item)
        if kind is OBJECT:
            found = _member(item, key, _ABSENT)
            if found is not _ABSENT:
                result.append(found)
        elif kind is ARRAY:
            if position == -1:
                # Only here, because parsing a name as a number costs time.
                position = _position(key)
            if position is not None and position < len(item):
                result.append(item[position])
    return result


def all_of(value: Value) -> Filtered:
    """Return `value.*`: the items of an array or object; of a filter's result, the items of each item."""
    if isinstance(value, Filtered):
        return Filtered(inner for item in value for inner in _items(item))
    return Filtered(_items(value))


def _items(value: Any) -> Iterable[object]:
    kind = _KINDS.get(type(value)) or kind_of(value)
    if kind is OBJECT:
        items: Iterable[object] = value.values()
        return items
    return value if kind is ARRAY else ()
