"""Expands a matrix to the values of its instances. Pure.

The rules are GitHub's: the product of the dimensions in their order, less what `exclude` matches; an entry of `include` adds
its values to each instance whose own values it does not change, and becomes a new instance if it fits none.
Source: the workflow syntax of GitHub Actions, `jobs.<job_id>.strategy.matrix`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from waterflow_agent.errors import Rejected

#: Same limit as in GitHub Actions.
INSTANCES_MAX = 256


def instances(dimensions: dict[str, Any], include: Any, exclude: Any) -> list[dict[str, Any]]:
    """The values of each instance. Raises `Rejected` if the matrix is invalid, empty or too large."""
    lists = {name: _list(name, values) for name, values in dimensions.items()}
    size = math.prod(len(values) for values in lists.values()) if lists else 0
    if size > 16 * INSTANCES_MAX:
        raise Rejected("WF112", f"the matrix has {size} instances; the limit is {INSTANCES_MAX}")
    names = {name.lower(): name for name in lists}
    excluded = _mappings("exclude", exclude, names)
    product = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())] if lists else []
    result = [values for values in product if not any(_matches(values, entry) for entry in excluded)]
    original = [dict(values) for values in result]
    for entry in _mappings("include", include, names):
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


def _mappings(name: str, entries: Any, names: dict[str, str]) -> list[dict[str, Any]]:
    """The entries, with the dimensions as they are written there; case does not matter."""
    if entries is None:
        return []
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, dict) for entry in entries):
        raise Rejected("WF111", f"{name} of the matrix must be a list of mappings")
    return [{names.get(key.lower(), key): value for key, value in entry.items()} for entry in entries]


def _matches(values: dict[str, Any], entry: dict[str, Any]) -> bool:
    return all(name in values and values[name] == value for name, value in entry.items())
