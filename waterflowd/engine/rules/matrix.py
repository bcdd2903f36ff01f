"""Names of the instances of a job, and numbers of instances computed from sizes. Pure."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd import expr

#: Servers of one job.
SERVERS_MAX = 4_096
KEY_LENGTH_MAX = 60

_UNSAFE = re.compile(r"[^A-Za-z0-9._:@+=-]+")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)%")


def keys(many: list[dict[str, Any]]) -> list[str]:
    """A short name for each instance, made of its values; unique."""
    taken: dict[str, int] = {}
    result: list[str] = []
    for position, values in enumerate(many):
        key = ",".join(_word(value) for value in values.values() if not isinstance(value, dict | list))
        key = key[:KEY_LENGTH_MAX].strip(",-") or str(position)
        count = taken[key] = taken.get(key, 0) + 1
        result.append(key if count == 1 else f"{key}#{count}")
    return result


def _word(value: Any) -> str:
    return _UNSAFE.sub("-", value if isinstance(value, str) else expr.to_text(value)).strip("-")


def label(values: dict[str, Any]) -> str:
    """The values as text for people: `linux, 3`."""
    texts = (value if isinstance(value, str) else expr.to_text(value) for value in values.values())
    return ", ".join(texts)


def size(value: object, total: int, what: str, *, is_rounded_up: bool) -> int:
    """A number, or a share such as `25%` of `total`. Raises `Rejected`."""
    if isinstance(value, str):
        share = _SHARE.fullmatch(value.strip())
        if share is not None:
            exact = total * float(share[1]) / 100
            # Shares are decimal fractions: a floating-point error must not round up to one more.
            return math.ceil(exact - 1e-9) if is_rounded_up else math.floor(exact + 1e-9)
    number = expr.to_number(value)
    if not (number == number and number >= 0 and number == int(min(number, 1e15))):
        rendered = value if isinstance(value, str) else expr.to_text(value)
        raise Rejected("WF111", f"{what} is {rendered!r}; it must be a whole number or a share such as 25%")
    return int(number)


def batches(sizes: list[int], total: int) -> list[int]:
    """The ends of the batches: the sizes one after another, then the last one repeatedly. Raises `Rejected` for a size of 0."""
    if not sizes:
        return [total] if total else []
    if min(sizes) < 1:
        raise Rejected("WF111", "a batch must have at least 1 server")
    ends: list[int] = []
    for size in itertools.chain(sizes, itertools.repeat(sizes[-1])):
        end = (ends[-1] if ends else 0) + size
        ends.append(min(end, total))
        if end >= total:
            return ends
    return ends
