"""Durations and instants as people write them: `500ms`, `30s`, `5m`, `1h30m`, `2d`; RFC 3339 for instants."""

from __future__ import annotations

from datetime import datetime

from waterflow_agent.durations import parse

__all__ = ["instant", "parse", "text"]


def text(milliseconds: int) -> str:
    """Formats a duration for people: 90 seconds are `1 m 30 s`."""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    seconds = round(milliseconds / 1000)
    parts = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts)


def instant(value: str | int) -> int:
    """Returns an instant in milliseconds since 1970, from RFC 3339 with a zone or from milliseconds. Raises `ValueError`."""
    if isinstance(value, int):
        return value
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise ValueError(f'"{value[:40]}" is not an instant; write 2030-01-31T08:00:00Z')
    return round(parsed.timestamp() * 1000)
