"""Durations as people write them, for nodes: `500ms`, `30s`, `5m`, `1h30m`, `2d`, or a number of seconds."""

from __future__ import annotations

import re

from waterflow_agent.nodes.node import NodeFailure

_UNITS_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|d|h|m|s)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


def seconds(value: str | int | float, name: str) -> float:
    """The duration that the parameter `name` gives. Raises `NodeFailure`."""
    if isinstance(value, int | float):
        if value > 0:
            return float(value)
    elif _WHOLE.fullmatch(value):
        return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(value))
    raise NodeFailure(f"{name}: expected a duration such as 30s or a number of seconds, not {value!r}")
