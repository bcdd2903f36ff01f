"""Cron expressions in time zones: both changes of the clocks, leap days, and invalid expressions."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from waterflowd.dsl import cron

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


def millis(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1_000)


def in_utc(instants: list[int]) -> list[str]:
    return [datetime.fromtimestamp(instant / 1_000, UTC).strftime("%m-%d %H:%M") for instant in instants]


def after(expression: str, zone: str, start: str, count: int) -> list[str]:
    """Returns the next instants in UTC after a local time."""
    return in_utc(cron.upcoming(expression, zone, millis(start, zone), count))


@pytest.mark.parametrize(
    ("zone", "expression", "start", "expected"),
    [
        # 02:00 becomes 03:00, at 01:00 in UTC.
        (BERLIN, "30 2 * * *", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:30"]),
        (BERLIN, "0,30 2 * * *", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00", "03-30 00:30"]),
        (BERLIN, "0 2,3 * * *", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00"]),
        (BERLIN, "0 4 * * *", "2026-03-28T12:00", ["03-29 02:00", "03-30 02:00"]),
        # 02:00 becomes 03:00, at 07:00 in UTC.
        (NEW_YORK, "30 2 * * *", "2026-03-07T12:00", ["03-08 07:00", "03-09 06:30"]),
        # 02:00 becomes 02:30, at 15:30 in UTC the day before.
        (LORD_HOWE, "15 2 * * *", "2026-10-03T12:00", ["10-03 15:30", "10-04 15:15"]),
        (LORD_HOWE, "45 2 * * *", "2026-10-03T12:00", ["10-03 15:45", "10-04 15:45"]),
        # Midnight becomes one o'clock.
        ("Africa/Cairo", "0 0 * * *", "2026-04-23T12:00", ["04-23 22:00", "04-24 21:00"]),
        # The whole day is skipped.
        ("Pacific/Apia", "0 9 * * *", "2011-12-29T12:00", ["12-30 10:00", "12-30 19:00"]),
    ],
)
def test_a_time_in_a_gap_runs_once_right_after_it(zone: str, expression: str, start: str, expected: list[str]) -> None:
    """No skipped time is lost, and several times within one gap cause one run."""
    assert after(expression, zone, start, len(expected)) == expected


@pytest.mark.parametrize(
    ("zone", "expression", "start", "expected"),
    [
        (BERLIN, "30 2 * * *", "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),
        (NEW_YORK, "30 1 * * *", "2026-10-31T12:00", ["11-01 05:30", "11-02 06:30"]),
        (LORD_HOWE, "45 1 * * *", "2026-04-04T12:00", ["04-04 14:45", "04-05 15:15"]),
        # Half an hour occurs twice, and two o'clock is not part of it.
        (LORD_HOWE, "0 2 * * *", "2026-04-04T12:00", ["04-04 15:30", "04-05 15:30"]),
        ("Africa/Cairo", "30 23 * * *", "2026-10-29T12:00", ["10-29 20:30", "10-30 21:30"]),
    ],
)
def test_a_time_in_a_fold_runs_once_at_its_first_occurrence(
    zone: str, expression: str, start: str, expected: list[str]
) -> None:
    """A nightly job runs once a night."""
    assert after(expression, zone, start, len(expected)) == expected


def test_a_time_in_a_fold_is_not_repeated_when_starting_inside_the_fold() -> None:
    """A daemon that starts between the two occurrences has nothing to run until the next day."""
    second = datetime(2026, 10, 25, 2, 10, tzinfo=ZoneInfo(BERLIN), fold=1)
    assert in_utc(cron.upcoming("30 2 * * *", BERLIN, int(second.timestamp() * 1_000), 1)) == ["10-26 01:30"]


@pytest.mark.parametrize(
    ("zone", "expression", "start", "expected"),
    [
        (BERLIN, "*/30 * * * *", "2026-03-29T01:10", ["03-29 00:30", "03-29 01:00", "03-29 01:30"]),
        (BERLIN, "*/30 * * * *", "2026-10-25T01:40", ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30"]),
        (NEW_YORK, "15 * * * *", "2026-11-01T00:20", ["11-01 05:15", "11-01 06:15", "11-01 07:15"]),
        (LORD_HOWE, "*/30 * * * *", "2026-10-04T01:10", ["10-03 15:00", "10-03 15:30", "10-03 16:00"]),
        (LORD_HOWE, "*/30 * * * *", "2026-04-05T01:10", ["04-04 14:30", "04-04 15:00", "04-04 15:30", "04-04 16:00"]),
        (LORD_HOWE, "*/20 2 * * *", "2026-04-05T00:10", ["04-04 15:30", "04-04 15:50", "04-04 16:10", "04-05 15:30"]),
        (BERLIN, "*/30 2 * * *", "2026-03-28T12:00", ["03-30 00:00", "03-30 00:30"]),
    ],
)
def test_an_interval_follows_real_time(zone: str, expression: str, start: str, expected: list[str]) -> None:
    """An interval of half an hour follows real time, whatever the clocks show."""
    assert after(expression, zone, start, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        ("0 0 29 2 *", "2026-01-01", ["2028-02-29", "2032-02-29"]),
        ("0 0 29 2 *", "2096-03-01", ["2104-02-29", "2108-02-29"]),
        ("0 0 L 2 *", "2027-01-01", ["2027-02-28", "2028-02-29"]),
        ("0 0 31 * *", "2026-01-31", ["2026-03-31", "2026-05-31"]),
        ("0 0 13 * 5", "2026-11-10", ["2026-11-13", "2026-11-20"]),
        ("0 0 * * 7", "2026-11-23", ["2026-11-29", "2026-12-06"]),
        ("@monthly", "2026-12-01", ["2027-01-01", "2027-02-01"]),
        ("@YEARLY", "2026-12-01", ["2027-01-01", "2028-01-01"]),
    ],
)
def test_the_calendar_has_leap_days_and_day_alternatives(expression: str, start: str, expected: list[str]) -> None:
    """The cases are leap days, ends of months, and a day of the month or a day of the week, where either is enough."""
    found = cron.upcoming(expression, "UTC", millis(start), 2)
    assert [datetime.fromtimestamp(instant / 1_000, UTC).strftime("%Y-%m-%d") for instant in found] == expected


def test_due_times_are_after_the_start() -> None:
    """Continuing from an instant therefore never returns the same one again."""
    at = millis("2026-11-24T03:00")
    assert cron.upcoming("0 3 * * *", "UTC", at, 1) == [at + 86_400_000]
    assert cron.upcoming("0 3 * * *", "UTC", at - 1, 1) == [at]


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("", "has five fields"),
        ("* * * *", "has 4 fields"),
        ("0 0 0 * * *", "has 6 fields"),
        ("60 * * * *", 'field 1 of the cron expression (minute) cannot be "60"; expected 0 to 59'),
        ("* 24 * * *", "field 2"),
        ("* * 0 * *", "field 3"),
        ("* * * FOO *", "field 4"),
        ("* * * * 8", "field 5"),
        ("*/0 * * * *", "field 1"),
        ("5-1 * * * *", "field 1"),
        ("1, * * * *", "field 1"),
        ("x" * 100_000, "limit is 200"),
        ("9" * 150 + " * * * *", "field 1"),
        ("0 0 30 2 *", "never matches"),
        ("0 0 31 4,6 *", "never matches"),
        ("@dayly", 'did you mean "@daily"?'),
        ("@reboot", "not supported"),
        ("@every 5m", "write */5 * * * *"),
    ],
)
def test_an_invalid_expression_is_refused_with_a_clear_message(expression: str, sentence: str) -> None:
    """The message names the field, its value and what it accepts."""
    with pytest.raises(cron.CronError) as caught:
        cron.check(expression)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("zone", "sentence"),
    [
        ("europe/berlin", 'did you mean "Europe/Berlin"?'),
        ("Berlin", 'did you mean "Europe/Berlin"?'),
        ("New York", 'did you mean "America/New_York"?'),
        ("Europe/Berlni", 'did you mean "Europe/Berlin"?'),
        ("Europe", "unknown time zone"),
        ("../../etc/passwd", "unknown time zone"),
        ("right/UTC", "unknown time zone"),
        ("localtime", "unknown time zone"),
        ("", "unknown time zone"),
        ("a\0b", "unknown time zone"),
    ],
)
def test_an_unknown_time_zone_is_refused_with_a_suggestion(zone: str, sentence: str) -> None:
    """Zones are those of the IANA database, the same on every machine."""
    with pytest.raises(cron.CronError) as caught:
        cron.zone_of(zone)
    assert sentence in str(caught.value)


def test_the_newest_due_times_of_a_long_period_are_found_quickly() -> None:
    """The case is a schedule for every minute and a daemon that was stopped for thirty years."""
    until = millis("2026-11-24T12:00:30")
    found, has_more = cron.newest_instants("* * * * *", BERLIN, 0, until, 3)
    assert (in_utc(found), has_more) == (["11-24 11:58", "11-24 11:59", "11-24 12:00"], True)


def test_a_short_period_has_all_its_due_times() -> None:
    """No instant before the start or after the end is returned."""
    start, until = millis("2025-11-24T03:00"), millis("2026-11-24T03:00")
    found, has_more = cron.newest_instants("0 3 24 11 *", "UTC", start, until, 3)
    assert (found, has_more) == ([until], False)
    assert cron.newest_instants("0 3 24 11 *", "UTC", until, start, 3) == ([], False)


def test_an_expression_may_have_no_further_due_time() -> None:
    """An expression with no further instants is not an error."""
    assert list(islice(cron.next_instants("0 0 1 1 *", "UTC", 10**15), 5)) == []
