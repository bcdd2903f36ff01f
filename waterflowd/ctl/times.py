"""Times as people type them: `5m`, `2h`, `yesterday`, `2026-11-01`, `2026-11-01T12:00`, RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import click

from waterflow_agent import durations
from waterflow_agent.display import quote

EXAMPLES = "5m, 2h, today, yesterday, 2026-11-01 or 2026-11-01T12:00"


def parse(text: str, now: datetime, *, is_past: bool = True) -> datetime:
    """Return the instant that `text` names; dates and times without an offset are in the time zone of `now`.

    A duration is so long before `now`, or after it unless `is_past`. Raises `ValueError` with the reason.
    """
    word = text.strip()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"today": 0, "yesterday": -1, "tomorrow": 1}.get(word.lower())
    if days is not None:
        return midnight + timedelta(days=days)
    if word.lower() == "now":
        return now
    try:
        span = timedelta(milliseconds=durations.parse(word))
        return now - span if is_past else now + span
    except (ValueError, OverflowError):
        pass
    try:
        time = datetime.fromisoformat(word)
        time = time if time.tzinfo is not None else time.replace(tzinfo=now.tzinfo)
        # Fails for instants outside of the calendar.
        time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"invalid time {quote(text, 60)}; expected a time such as {EXAMPLES}") from error
    return time


def now_here(zone: tzinfo | None = None) -> datetime:
    """Return the current time in a zone, or in that of this machine."""
    return datetime.now(UTC).astimezone(zone)


def rfc3339(time: datetime) -> str:
    """Return a time as the API takes it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Time(click.ParamType[str]):
    """The value of an option that takes a time; the command gets it as the API takes it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the time in RFC 3339; ends the command with a usage error for any other text."""
        try:
            return rfc3339(parse(str(value), now_here()))
        except ValueError as error:
            self.fail(str(error), param, ctx)
