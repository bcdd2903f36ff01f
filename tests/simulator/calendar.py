"""The calendar of schedules in a world: what a cron expression is outside, in seconds instead of minutes.

Rules of this file: a world lives for half a minute, so its calendar is finer, and what the product measures in minutes is
scaled with it (`BOUNDS`, `WAKE_S_MAX`); the real expressions have tests of their own. An expression is `every N`, in
milliseconds. Instants come in the first half minute of each hour alone: so a wall clock that jumps by an hour finds the
same ones again, an hour older or newer, and a world has an end.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

#: The log's clock at the beginning of the world.
BEGAN_AT = 1_700_000_000_000
HOUR_MS = 3_600_000
#: The part of each hour that has instants; a world is healed before it is over.
SEASON_MS = 30_000
#: Names of `reconcile.schedules`, and what stands there while a world runs.
BOUNDS = {"LATE_MS": 1_500, "CATCH_UP_MAX": 5, "QUEUE_MAX": 3, "CLOCK_BACK_MAX_MS": 20_000}
WAKE_S_MAX = 3.0
#: The same of `reconcile.hooks`: how long a signature with a time is good.
HOOK_WINDOW_S = 5


def instants(expression: str, after: int) -> Iterator[int]:
    """The instants after `after`, ascending, without end."""
    every_ms = int(expression.removeprefix("every "))
    hour = (after - BEGAN_AT) // HOUR_MS
    while True:
        begin = BEGAN_AT + hour * HOUR_MS
        for at in range(begin, begin + SEASON_MS, every_ms):
            if at > after:
                yield at
        hour += 1


def between(expression: str, after: int, until: int) -> list[int]:
    """The instants after `after` up to `until`."""
    found = []
    for at in instants(expression, after):
        if at > until:
            break
        found.append(at)
    return found


def newest_instants(expression: str, zone: str, after: int, until: int, limit: int) -> tuple[list[int], bool]:
    """As `dsl.cron`'s."""
    del zone
    found = between(expression, after, until)
    return found[-limit:], len(found) > limit


def upcoming(expression: str, zone: str, after: int, count: int) -> list[int]:
    """As `dsl.cron`'s."""
    del zone
    return list(islice(instants(expression, after), count))


def read(text: str) -> int:
    """The instant of a text such as `2023-11-14T22:13:20Z`."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000
