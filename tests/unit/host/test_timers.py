"""Timers: each fires once, at its time; a cancelled one never fires."""

from __future__ import annotations

import random

from waterflowd.engine.inputs import Timer, TimerKind
from waterflowd.host.timers import Timers
from waterflowd.model.ids import JobId, RunId

RUN = RunId("run")
OTHER = RunId("other")


def timer(due_at: int, job: str = "a") -> Timer:
    return Timer(kind=TimerKind.JOB_TIMEOUT, due_at=due_at, job=JobId(job))


def test_timers_fire_in_the_order_of_their_times() -> None:
    """The order in which they were armed does not matter, and none fires early."""
    timers = Timers()
    for due_at in (30, 10, 20):
        timers.arm(RUN, timer(due_at))
    assert timers.due(9) == []
    assert [item.due_at for _, item in timers.due(20)] == [10, 20]
    assert [item.due_at for _, item in timers.due(1_000)] == [30]
    assert timers.due(2_000) == []
    assert len(timers) == 0


def test_equal_times_fire_in_the_order_of_arming() -> None:
    """The order in the log is therefore deterministic."""
    timers = Timers()
    for job in "cab":
        timers.arm(RUN, timer(10, job))
    assert [item.job for _, item in timers.due(10)] == ["c", "a", "b"]


def test_arming_twice_has_the_effect_of_once() -> None:
    """Recovery may repeat what the live path has done."""
    timers = Timers()
    timers.arm(RUN, timer(10))
    timers.arm(RUN, timer(10))
    assert len(timers) == 1
    assert len(timers.due(10)) == 1


def test_a_dropped_timer_does_not_fire() -> None:
    """Timers can be dropped one by one or by run; dropping an unknown timer has no effect."""
    timers = Timers()
    timers.arm(RUN, timer(10))
    timers.arm(RUN, timer(20))
    timers.arm(OTHER, timer(10))
    timers.drop(RUN, timer(10))
    timers.drop(RUN, timer(10))
    assert timers.due(10) == [(OTHER, timer(10))]
    timers.drop_run(RUN)
    timers.drop_run(RUN)
    assert timers.due(100) == []
    assert timers.next_at is None


def test_a_timer_armed_again_after_its_drop_fires_once() -> None:
    """The old entry does not count for the new timer."""
    timers = Timers()
    timers.arm(RUN, timer(10))
    timers.drop(RUN, timer(10))
    timers.arm(RUN, timer(10))
    assert timers.due(10) == [(RUN, timer(10))]
    assert timers.due(10) == []


def test_next_at_is_never_later_than_the_next_timer() -> None:
    """The driver sleeps until then, so it may be early but must not be late."""
    timers = Timers()
    timers.arm(RUN, timer(10))
    timers.arm(RUN, timer(20))
    timers.drop(RUN, timer(10))
    next_at = timers.next_at
    assert next_at is not None
    assert next_at <= 20


def test_one_call_returns_at_most_the_requested_number() -> None:
    """Thousands of timers that are due at once are returned in several calls, and none is lost."""
    timers = Timers()
    for number in range(25):
        timers.arm(RunId(str(number)), timer(10))
    parts = []
    while part := timers.due(10, 10):
        parts.append(len(part))
        assert timers.next_at is None or timers.next_at <= 10
    assert parts == [10, 10, 5]


def test_dropped_timers_do_not_fill_the_memory() -> None:
    """Long timeouts of short jobs leave the heap soon, not after hours; the remaining ones still fire."""
    timers = Timers()
    timers.arm(OTHER, timer(5))
    for number in range(20_000):
        run = RunId(f"run-{number}")
        timers.arm(run, timer(1_000_000))
        timers.drop_run(run) if number % 2 else timers.drop(run, timer(1_000_000))
        assert len(timers._heap) < 3_000
    assert timers.due(5) == [(OTHER, timer(5))]


def test_any_sequence_fires_what_is_armed_and_due() -> None:
    """Compares random arming, dropping and firing with a set, over several compactions."""
    dice = random.Random(7)
    timers, now = Timers(), 0
    armed: set[tuple[RunId, Timer]] = set()
    for _ in range(30_000):
        run, item = RunId(str(dice.randrange(50))), timer(now + dice.randrange(1, 200), dice.choice("ab"))
        match dice.randrange(10):
            case 0:
                now += dice.randrange(3)
                fired = set(timers.due(now))
                assert fired == {entry for entry in armed if entry[1].due_at <= now}
                armed -= fired
            case 1:
                timers.drop_run(run)
                armed = {entry for entry in armed if entry[0] != run}
            case 2 | 3:
                if armed:
                    entry = next(iter(armed))
                    timers.drop(*entry)
                    armed.discard(entry)
            case _:
                timers.arm(run, item)
                armed.add((run, item))
        assert len(timers) == len(armed)
