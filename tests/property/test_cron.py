"""Cron expressions in zones, compared with an oracle that checks every minute."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from waterflowd.dsl import cron

#: Days around clock changes: by an hour, by half an hour, at midnight, by a whole day; and a day without a change.
_PLACES = [
    ("Europe/Berlin", datetime(2026, 3, 28, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 24, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 10, 31, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 3, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 2, tzinfo=UTC)),
    ("Africa/Cairo", datetime(2026, 4, 23, tzinfo=UTC)),
    ("Africa/Cairo", datetime(2026, 10, 29, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 29, tzinfo=UTC)),
    ("America/St_Johns", datetime(2010, 11, 6, tzinfo=UTC)),
    ("UTC", datetime(2026, 6, 1, tzinfo=UTC)),
]
_MINUTES = st.sampled_from(["*", "*/7", "*/30", "0", "15", "45", "0,30", "1-59/20"])
_HOURS = st.sampled_from(["*", "*/2", "0", "1", "2", "23", "1,2,3", "0-3"])
_SPAN = timedelta(days=2)


def _oracle(expression: str, zone: ZoneInfo, start: datetime) -> list[int]:
    """Returns the instants of two days by checking every minute."""
    minute, hour = expression.split()[:2]
    is_interval = minute.startswith("*") or hour.startswith("*")
    minutes, hours = _named(expression)
    instants: set[datetime] = set()
    seen: set[datetime] = set()
    before = (start - timedelta(minutes=1)).astimezone(zone).replace(tzinfo=None)
    at = start
    while at <= start + _SPAN:
        local = at.astimezone(zone).replace(tzinfo=None)
        is_new = local not in seen
        seen.add(local)
        if local.minute in minutes and local.hour in hours and (is_new or is_interval):
            instants.add(at)
        # The minutes that the clock has skipped since the previous minute.
        skipped = before + timedelta(minutes=1)
        while skipped < local and not is_interval:
            if skipped.minute in minutes and skipped.hour in hours:
                instants.add(at)
            skipped += timedelta(minutes=1)
        before = local
        at += timedelta(minutes=1)
    return sorted(int(instant.timestamp() * 1_000) for instant in instants if instant > start)


def _named(expression: str) -> tuple[set[int], set[int]]:
    read = CronSim(expression, datetime(2000, 1, 1))
    return read.minutes, read.hours


@given(st.sampled_from(_PLACES), _MINUTES, _HOURS)
def test_instants_match_a_check_of_every_minute(case: tuple[str, datetime], minute: str, hour: str) -> None:
    """Each time occurs once and in order, and none is lost, at every kind of clock change."""
    name, start = case
    expression = f"{minute} {hour} * * *"
    until = int((start + _SPAN).timestamp() * 1_000)
    found: list[int] = []
    for instant in cron.next_instants(expression, name, int(start.timestamp() * 1_000)):
        if instant > until:
            break
        found.append(instant)
    assert found == _oracle(expression, ZoneInfo(name), start)


@given(st.sampled_from(_PLACES), _MINUTES, _HOURS, st.integers(0, 2_880), st.integers(1, 5))
def test_instants_do_not_depend_on_the_starting_moment(
    case: tuple[str, datetime], minute: str, hour: str, minutes: int, count: int
) -> None:
    """Continuing from any moment gives the remaining instants."""
    name, start = case
    expression = f"{minute} {hour} * * *"
    middle = int((start + timedelta(minutes=minutes)).timestamp() * 1_000)
    whole: list[int] = []
    for instant in cron.next_instants(expression, name, int(start.timestamp() * 1_000)):
        if instant > middle and sum(one > middle for one in whole) == count:
            break
        whole.append(instant)
    assert cron.upcoming(expression, name, middle, count) == [one for one in whole if one > middle]


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_an_expression_or_a_clear_error(expression: str, zone: str) -> None:
    """Any text is either an expression and a zone, or an error with a message."""
    for check, text in ((cron.check, expression), (cron.zone_of, zone)):
        with contextlib.suppress(cron.CronError):
            assert check(text)
