"""Expands a matrix to instances, and computes numbers of instances from sizes. Pure.

The rules are GitHub's: the product of the dimensions in their order, less what `exclude` matches; an entry of `include` adds
its values to each instance whose own values it does not change, and becomes a new instance if it fits none.
Source: the workflow syntax of GitHub Actions, `jobs.<job_id>.strategy.matrix`.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd import expr

#: Same limit as in GitHub Actions.
INSTANCES_MAX = 256
#: Servers of one job.
SERVERS_MAX = 4_096
KEY_LENGTH_MAX = 60

_UNSAFE = re.compile(r"[^A-Za-z0-9._:@+=-]+")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)%")


def instances(dimensions: dict[str, Any], include: Any, exclude: Any) -> list[dict[str, Any]]:
    """The values of each instance. Raises `Rejected` if the matrix is invalid, empty or too large."""
    lists = {name: _list(name, values) for name, values in dimensions.items()}
    size = math.prod(len(values) for values in lists.values()) if lists else 0
    if size > 16 * INSTANCES_MAX:
        raise Rejected("WF112", f"the matrix has {size} instances; the limit is {INSTANCES_MAX}")
    excluded = _mappings("exclude", exclude)
    product = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())] if lists else []
    result = [values for values in product if not any(_matches(values, entry) for entry in excluded)]
    original = [dict(values) for values in result]
    for entry in _mappings("include", include):
        fits = [
            added
            for own, added in zip(original, result, strict=False)
            if all(own[name] == value for name, value in entry.items() if name in own)
        ]
        if fits and lists:
            for added in fits:
                added.update(entry)
        else:
            result.append(dict(entry))
    if not result:
        raise Rejected("WF111", "the matrix has no instances")
    if len(result) > INSTANCES_MAX:
        raise Rejected("WF112", f"the matrix has {len(result)} instances; the limit is {INSTANCES_MAX}")
    return result


def _list(name: str, values: Any) -> list[Any]:
    if not isinstance(values, list | tuple):
        raise Rejected("WF111", f"dimension {name} of the matrix must be a list")
    return list(values)


def _mappings(name: str, entries: Any) -> list[dict[str, Any]]:
    if entries is None:
        return []
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, dict) for entry in entries):
        raise Rejected("WF111", f"{name} of the matrix must be a list of mappings")
    return list(entries)


def _matches(values: dict[str, Any], entry: dict[str, Any]) -> bool:
    return all(name in values and values[name] == value for name, value in entry.items())


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
