"""`waterflowctl cron`: its output without a daemon, and its errors."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from waterflowd.ctl.main import cli


def cron(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["cron", *arguments])


def test_due_times_are_printed_in_utc_and_in_the_zone() -> None:
    """The night without 02:30 is shown with the names of both standard time and summer time."""
    done = cron("30 2 * * *", "--timezone", "Europe/Berlin", "--from", "2026-03-28", "--next", "2")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "UTC                   Europe/Berlin",
        "Sat 2026-03-28 01:30  Sat 2026-03-28 02:30 CET",
        "Sun 2026-03-29 01:00  Sun 2026-03-29 03:00 CEST",
    ]


def test_json_is_an_array_of_both_times() -> None:
    """The times are in RFC 3339 format, in UTC and with the offset of the zone."""
    done = cron("@daily", "--timezone", "America/New_York", "--from", "2026-11-01T00:30", "--next", "1", "--json")
    assert json.loads(done.output) == [{"utc": "2026-11-02T05:00:00.000Z", "local": "2026-11-02T00:00:00-05:00"}]


def test_a_time_without_an_offset_is_in_the_zone() -> None:
    """Midnight in Berlin is the same instant as 23:00 in UTC."""
    arguments = ("0 * * * *", "--timezone", "Europe/Berlin", "--next", "1")
    outputs = {cron(*arguments, "--from", start).output for start in ("2026-01-02T00:00", "2026-01-01T23:00:00Z")}
    assert len(outputs) == 1


def test_without_a_time_due_times_start_now() -> None:
    """Five instants are shown."""
    done = cron("* * * * *")
    assert done.exit_code == 0
    assert len(done.output.splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("0 25 * * *",), '(hour) cannot be "25"'),
        (("@dayly",), 'did you mean "@daily"?'),
        (("@daily", "--timezone", "berlin"), 'did you mean "Europe/Berlin"?'),
        (("@daily", "--from", "some day"), 'invalid time "some day"'),
        (("@daily", "--next", "0"), "0 is not in the range"),
    ],
)
def test_invalid_arguments_are_usage_errors_with_a_message(arguments: tuple[str, ...], sentence: str) -> None:
    """The exit code is 2, and the message says what to write instead."""
    done = cron(*arguments)
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_an_expression_without_due_times_prints_a_message() -> None:
    """Having nothing to show is not an error."""
    done = cron("@yearly", "--from", "9999-06-01", "--next", "3")
    assert (done.exit_code, done.output) == (0, "no further times before the calendar ends\n")
