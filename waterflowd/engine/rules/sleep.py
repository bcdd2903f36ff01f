"""The `sleep` node: computes the time at which the step wakes from its parameters. Pure arithmetic."""

from __future__ import annotations

import math

from waterflowd.model import durations
from waterflowd.model.plan import Json

#: The longest sleep: 366 days. A longer one is a mistake of units.
SLEEP_MS_MAX = 366 * 24 * 3_600_000


def due_at(parameters: Json, now: int) -> int:
    """When a step with these rendered parameters wakes, in ms; not before `now`. Raises `ValueError` with the reason.

    `duration` is text such as `1h30m` or a number of seconds, `until` RFC 3339 or milliseconds; exactly one is set.
    """
    assert isinstance(parameters, dict), "the parameters must be a mapping"
    found = {name: value for name, value in parameters.items() if value is not None}
    if len(found) != 1 or not found.keys() <= {"duration", "until"}:
        raise ValueError("needs either duration or until")
    wait_ms = _milliseconds(found["duration"]) if "duration" in found else _instant(found["until"]) - now
    if wait_ms > SLEEP_MS_MAX:
        raise ValueError("must not be longer than 366 days")
    return now + max(0, wait_ms)


def _milliseconds(duration: Json) -> int:
    if isinstance(duration, str):
        return durations.parse(duration)
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        raise ValueError("duration must be a number of seconds or a duration such as 30s")
    # Integers are not checked: one with hundreds of digits cannot be converted to float.
    if isinstance(duration, float) and not math.isfinite(duration):
        raise ValueError("duration must be a number of seconds or a duration such as 30s")
    return round(duration * 1000)


def _instant(until: Json) -> int:
    if isinstance(until, bool) or not isinstance(until, str | int):
        raise ValueError("until must be a time such as 2030-01-31T08:00:00Z")
    return durations.instant(until)
