"""Durations, and the instants at which sleeps end."""

from __future__ import annotations

from typing import Any

import pytest

from waterflowd.engine.rules import sleep
from waterflowd.model import durations

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("parameters", "wait_ms"),
    [
        ({"duration": "1h30m"}, 5_400_000),
        ({"duration": 1.5}, 1_500),
        ({"duration": 0}, 0),
        ({"duration": -5}, 0),
        ({"until": NOW + 7}, 7),
        ({"until": NOW - 7}, 0),
        ({"until": "2023-11-14T22:13:21Z"}, 1_000),
        ({"until": None, "duration": "1s"}, 1_000),
        ({"duration": "366d"}, sleep.SLEEP_MS_MAX),
    ],
)
def test_a_sleep_ends_at_its_instant_and_never_before_now(parameters: dict[str, Any], wait_ms: int) -> None:
    """Durations count from now, and instants in the past become now."""
    assert sleep.due_at(parameters, NOW) == NOW + wait_ms


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"duration": "1s", "until": NOW},
        {"duration": "soon"},
        {"duration": True},
        {"duration": []},
        {"duration": float("inf")},
        {"duration": float("nan")},
        {"duration": 10**400},
        {"duration": "367d"},
        {"until": "tomorrow"},
        {"until": "2030-01-01T00:00:00"},
        {"until": 1.5},
        {"until": 10**30},
        {"other": 1},
    ],
)
def test_an_invalid_sleep_has_a_clear_error(parameters: dict[str, Any]) -> None:
    """For any value of an expression, the result is an instant or a `ValueError`."""
    with pytest.raises(ValueError):
        sleep.due_at(parameters, NOW)


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (90_000, "1 m 30 s"),
        (3_600_000, "1 h"),
        (90_061_000, "1 d 1 h 1 m 1 s"),
    ],
)
def test_displayed_durations_can_be_parsed(milliseconds: int, expected: str) -> None:
    """After removing spaces, a displayed duration parses to the same value."""
    assert durations.text(milliseconds) == expected
    assert durations.parse(expected.replace(" ", "")) == milliseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1w", "1h 30m", "-1s", "1e3s", "١s", "9" * 13 + "s", "1h\n"])
def test_invalid_durations_are_refused(text: str) -> None:
    """Bare numbers and digits of other alphabets are refused."""
    with pytest.raises(ValueError, match="is not a duration"):
        durations.parse(text)
