"""Times as people type them."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from waterflowd.ctl.times import parse, rfc3339

NOW = datetime(2026, 11, 3, 14, 30, tzinfo=ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("5m", "2026-11-03T13:25:00.000Z"),
        ("2h", "2026-11-03T11:30:00.000Z"),
        ("1d12h", "2026-11-02T01:30:00.000Z"),
        ("now", "2026-11-03T13:30:00.000Z"),
        ("today", "2026-11-02T23:00:00.000Z"),
        ("Yesterday", "2026-11-01T23:00:00.000Z"),
        ("2026-11-01", "2026-10-31T23:00:00.000Z"),
        ("2026-11-01T12:00", "2026-11-01T11:00:00.000Z"),
        ("2026-11-01T12:00:00Z", "2026-11-01T12:00:00.000Z"),
        ("2026-11-01T12:00:00+05:00", "2026-11-01T07:00:00.000Z"),
    ],
)
def test_durations_days_and_times_are_instants(text: str, instant: str) -> None:
    """Without an offset they are in the time zone of the machine; a duration ends now."""
    assert rfc3339(parse(text, NOW)) == instant


@pytest.mark.parametrize("text", ["", "5", "soon", "2026-13-01", "9999999999d", "0001-01-01T00:00+14:00", "5 m ago"])
def test_other_text_is_an_error_with_examples(text: str) -> None:
    """The message shows what can be written."""
    with pytest.raises(ValueError, match="expected a time such as 5m, 2h, today, yesterday"):
        parse(text, NOW)
