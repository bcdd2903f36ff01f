"""Values of plain scalars: the core schema of YAML 1.2, limited to JSON values.

`on`, `yes`, `no`, `off` and `12:30:45` are text, `012` is twelve, `true` is a boolean and `~` is null.
Source: YAML 1.2.2, 10.3.2. Differences: `.inf` and `.nan` are refused because JSON has no such numbers, and an
integer that does not fit into 64 bits is refused because it cannot be stored or sent.
"""

from __future__ import annotations

import math
import re

from waterflowd.dsl.reading.tree import WrittenFloat, WrittenInt
from waterflowd.model.plan import Json

_NULLS = frozenset(["", "~", "null", "Null", "NULL"])
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_FIRST_OF_NUMBER = frozenset("+-.0123456789")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

#: More characters than any 64-bit integer needs, even with leading zeros; converting more costs quadratic time.
_INTEGER_CHARACTERS_MAX = 64

CORE_TAG = "tag:yaml.org,2002:"


class ScalarError(ValueError):
    """A plain scalar that is not a JSON value; the text says what to do."""


class TagError(ScalarError):
    """A tag that does not belong to the core schema."""


def plain_value(text: str) -> Json:
    """The value of a plain scalar; raises ScalarError."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in _FIRST_OF_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return _float(text)
    if _NOT_JSON.fullmatch(text):
        raise ScalarError("JSON has no such number; quote it if it is meant as text")
    return text


def tagged_value(tag: str, text: str) -> Json:
    """The value of a scalar with a tag of the core schema; raises ScalarError for another tag, or a text that does not fit."""
    kind = tag.removeprefix(CORE_TAG)
    if kind == "str" or tag == "!":
        return text
    value = plain_value(text)
    fits = {
        "int": isinstance(value, WrittenInt),
        "float": isinstance(value, WrittenInt | WrittenFloat),
        "bool": isinstance(value, bool),
        "null": value is None,
    }
    if not tag.startswith(CORE_TAG) or kind not in fits:
        raise TagError("workflow files cannot contain YAML tags; remove it")
    if not fits[kind]:
        raise ScalarError(f"the value does not match its tag !!{kind}")
    return value


def _integer(text: str) -> WrittenInt:
    base = 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10
    number = int(text[2:] if base != 10 else text, base) if len(text) <= _INTEGER_CHARACTERS_MAX else None
    if number is None or not -(2**63) <= number < 2**64:
        raise ScalarError("this integer needs more than 64 bits; quote it if it is meant as text")
    written = WrittenInt(number)
    written.text = text
    return written


def _float(text: str) -> WrittenFloat:
    written = WrittenFloat(text)
    if math.isinf(written):
        raise ScalarError("this number is too large; quote it if it is meant as text")
    written.text = text
    return written
