"""Blocks of transfers are spaced while steps are in progress, and not otherwise."""

from __future__ import annotations

import pytest

from waterflowd.artifacts.pacing import ACTIVE_S, GAP_S, Pacing


class Daemon:
    """The time, and the number of events."""

    def __init__(self) -> None:
        self.now, self.events = 100.0, 7
        self.pacing = Pacing(lambda: self.events, lambda: self.now)


def test_without_steps_nothing_waits() -> None:
    """Events before the first block do not count."""
    daemon = Daemon()
    assert [daemon.pacing.delay_s() for _ in range(3)] == [0, 0, 0]


def test_while_steps_are_in_progress_blocks_take_turns() -> None:
    """Each waits for the one before, and a block that comes later than its turn does not wait."""
    daemon = Daemon()
    daemon.events += 1
    delays = [daemon.pacing.delay_s() for _ in range(4)]
    assert delays == pytest.approx([0, GAP_S, 2 * GAP_S, 3 * GAP_S])
    daemon.now += 5 * GAP_S
    daemon.events += 1
    assert daemon.pacing.delay_s() == 0


def test_after_the_last_event_transfers_are_fast_again() -> None:
    """Also the one whose turn was far ahead."""
    daemon = Daemon()
    daemon.events += 1
    for _ in range(100):
        daemon.pacing.delay_s()
    daemon.now += ACTIVE_S
    assert daemon.pacing.delay_s() == 0
