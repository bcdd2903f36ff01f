"""Blocks of transfers are spaced while steps are in progress, and not otherwise."""

from __future__ import annotations

import time

import pytest

from waterflowd.pacing import ACTIVE_S, INTERVAL_MAX_S, INTERVAL_MIN_S, SHARE, Pacing


class Daemon:
    """The time, and the number of events."""

    def __init__(self) -> None:
        self.now, self.events = 100.0, 7
        self.pacing = Pacing(lambda: self.events, lambda: self.now)

    def delay_s(self, took_s: float = 0.0) -> float:
        """Of a block that took so long."""
        return self.pacing.delay_s(self.now - took_s)


def test_without_steps_nothing_waits() -> None:
    """Events before the first block do not count."""
    daemon = Daemon()
    assert [daemon.delay_s() for _ in range(3)] == [0, 0, 0]


def test_while_steps_are_in_progress_blocks_take_turns() -> None:
    """Each waits for the one before, and a block that comes later than its turn does not wait."""
    daemon = Daemon()
    daemon.events += 1
    delays = [daemon.delay_s() for _ in range(4)]
    assert delays == pytest.approx([0, INTERVAL_MIN_S, 2 * INTERVAL_MIN_S, 3 * INTERVAL_MIN_S])
    daemon.now += 5 * INTERVAL_MIN_S
    daemon.events += 1
    assert daemon.delay_s() == 0


@pytest.mark.parametrize(
    ("took_s", "interval_s"), [(0.003, SHARE * 0.003), (INTERVAL_MAX_S, INTERVAL_MAX_S), (0.0001, INTERVAL_MIN_S)]
)
def test_turns_are_longer_where_blocks_take_longer(took_s: float, interval_s: float) -> None:
    """Within limits: blocks that took so long before there were steps are enough to know it."""
    daemon = Daemon()
    for _ in range(100):
        daemon.delay_s(took_s)
    daemon.events += 1
    delays = [daemon.delay_s(took_s) for _ in range(3)]
    assert delays == pytest.approx([0, interval_s, 2 * interval_s], rel=0.01)


async def test_the_result_of_a_block_is_there_at_its_turn() -> None:
    """The first one at once, the second one not before its turn."""
    events = iter(range(1_000))
    pacing = Pacing(lambda: next(events))
    began = time.monotonic()

    async def block() -> str:
        return "stored"

    assert [await pacing.spaced(block()) for _ in range(2)] == ["stored"] * 2
    assert time.monotonic() - began >= INTERVAL_MIN_S


def test_after_the_last_event_transfers_are_fast_again() -> None:
    """Also the one whose turn was far ahead."""
    daemon = Daemon()
    daemon.events += 1
    for _ in range(100):
        daemon.delay_s()
    daemon.now += ACTIVE_S
    assert daemon.delay_s() == 0
