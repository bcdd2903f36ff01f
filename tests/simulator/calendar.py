"""The calendar of a simulation's schedules: stands in for cron expressions, with seconds instead of minutes.

Rules of this file: a simulation lasts half a minute, so its calendar is finer, and what the product measures in minutes is
scaled accordingly (`BOUNDS`, `WAKE_S_MAX`); the real expressions have their own tests. An expression is `every N`, in
milliseconds. Instants occur only in the first half minute of each hour. A wall clock that jumps by an hour therefore
finds the same instants again, an hour older or newer, and a simulation has an end.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

#: The log's clock when the simulation starts.
BEGAN_AT = 1_700_000_000_000
HOUR_MS = 3_600_000
#: The part of each hour that has instants; a simulation is healed before it ends.
SEASON_MS = 30_000
#: Names in `reconcile.schedules`, and their values while a simulation runs.
BOUNDS = {"LATE_MS": 1_500, "CATCH_UP_MAX": 5, "QUEUE_MAX": 3, "CLOCK_BACK_MAX_MS": 20_000}
WAKE_S_MAX = 3.0
#: The same for `reconcile.hooks`: how long a signature with a timestamp is valid.
HOOK_WINDOW_S = 5


def instants(expression: str, after: int) -> Iterator[int]:
    """Yields the instants after `after` in ascending order, without end."""
    every_ms = int(expression.removeprefix("every "))
    hour = (after - BEGAN_AT) // HOUR_MS
    while True:
        begin = BEGAN_AT + hour * HOUR_MS
        for at in range(begin, begin + SEASON_MS, every_ms):
            if at > after:
                yield at
        hour += 1


def between(expression: str, after: int, until: int) -> list[int]:
    """Returns the instants after `after`, up to and including `until`."""
    found = []
    for at in instants(expression, after):
        if at > until:
            break
        found.append(at)
    return found


def newest_instants(expression: str, zone: str, after: int, until: int, limit: int) -> tuple[list[int], bool]:
    """Replaces the function of the same name in `dsl.cron`."""
    del zone
    found = between(expression, after, until)
    return found[-limit:], len(found) > limit


def upcoming(expression: str, zone: str, after: int, count: int) -> list[int]:
    """Replaces the function of the same name in `dsl.cron`."""
    del zone
    return list(islice(instants(expression, after), count))


def read(text: str) -> int:
    """Returns the instant that a text such as `2023-11-14T22:13:20Z` denotes."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000
