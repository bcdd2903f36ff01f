"""Durations as people write them: `500ms`, `30s`, `5m`, `1h30m`, `2d`."""

from __future__ import annotations

import re

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|d|h|m|s)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


def parse(text: str) -> int:
    """Returns a duration in milliseconds. Raises `ValueError` with the reason for any other text."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f'"{text[:40]}" is not a duration; write 500ms, 30s, 5m, 1h30m or 2d')
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text)))
