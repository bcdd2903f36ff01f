"""The virtual loop: time is a number, and a killed process stops exactly where it is."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulator.loop import Killed, Process, VirtualLoop


@pytest.fixture
def loop() -> VirtualLoop:
    """Returns a new loop."""
    return VirtualLoop()


def test_time_jumps_to_the_next_timer(loop: VirtualLoop) -> None:
    """Waiting for a year takes no longer than an instant, and timers of one instant fire in order."""
    fired: list[tuple[float, str]] = []
    for delay_s, name in ((5.0, "b"), (31_536_000.0, "c"), (5.0, "b2"), (0.0, "a")):
        loop.outside(delay_s, lambda name=name: fired.append((loop.time(), name)))

    loop.advance(10.0)
    assert fired == [(0.0, "a"), (5.0, "b"), (5.0, "b2")]
    assert loop.time() == 10.0

    loop.advance(40_000_000.0)
    assert fired[-1] == (31_536_000.0, "c")
    loop.close()


def test_killed_process_runs_nothing(loop: VirtualLoop) -> None:
    """Neither its timers nor its tasks run, and what its `finally` schedules is dropped too."""
    process, seen = Process("p"), []

    async def work() -> None:
        try:
            await asyncio.sleep(1.0)
            seen.append("slept")
        finally:
            seen.append("closed")
            asyncio.get_running_loop().call_soon(seen.append, "scheduled in a finally")
            await asyncio.sleep(0)

    loop.spawn(process, work(), "work")
    process.run(loop.call_later, 2.0, seen.append, "timer")
    loop.outside(0.5, loop.kill, process)

    loop.advance(5.0)
    assert seen == ["closed"]
    assert loop.failures == []
    loop.close()


def test_process_that_kills_itself_stops_at_once(loop: VirtualLoop) -> None:
    """A process that kills itself is interrupted at once, and this does not count as a failure."""
    process, seen = Process("p"), []

    def end() -> None:
        loop.kill(process)
        raise Killed

    def work() -> None:
        seen.append("before")
        end()
        seen.append("after")

    process.run(loop.call_soon, work)
    process.run(loop.call_soon, seen.append, "next")

    loop.advance(1.0)
    assert seen == ["before"]
    assert loop.failures == []
    loop.close()


def test_paused_process_catches_up_in_order(loop: VirtualLoop) -> None:
    """Time continues while it is paused; what became due runs when it resumes."""
    process, seen = Process("p"), []
    for delay_s in (1.0, 2.0, 9.0):
        process.run(loop.call_later, delay_s, lambda delay_s=delay_s: seen.append((delay_s, loop.time())))
    loop.outside(0.5, loop.pause, process)
    loop.outside(5.0, loop.resume, process)

    loop.advance(10.0)
    assert seen == [(1.0, 5.0), (2.0, 5.0), (9.0, 9.0)]
    loop.close()


def test_uncaught_errors_are_recorded(loop: VirtualLoop) -> None:
    """An uncaught error in a callback is recorded, so that it fails the simulation instead of vanishing in a log."""
    loop.outside(0.0, lambda: 1 / 0)

    loop.advance(1.0)
    assert [type(error) for _, error in loop.failures] == [ZeroDivisionError]
    loop.close()
