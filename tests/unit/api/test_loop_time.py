"""The API's share of the event loop: what its clients do is measured, charged, and waits for its turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from waterflowd.api.loop_time import REST_S, LoopShare, Meter, Timed
from waterflowd.rates import BucketPerName
from waterflowd.testing.awaiting import until


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def charged(times: BucketPerName) -> Meter:
    """Returns a meter of the client `a`, whose clock stands still."""
    meter = Meter(LoopShare())
    meter.charge_to(times, "a", lambda: 0)
    return meter


def spent_ms(times: BucketPerName, burst_ms: float) -> float:
    """Returns what the client `a` has used of its budget."""
    left, bucket = 0.0, times.bucket("a", 0)
    while not bucket.is_spent(0):
        bucket.spend(1)
        left += 1
    return burst_ms - left


async def test_waiting_and_other_tasks_do_not_count() -> None:
    """The coroutine works twice for a moment, and waits for a task that works for much longer."""

    async def other() -> None:
        work(0.2)

    async def measured() -> int:
        work(0.01)
        await asyncio.create_task(other())
        work(0.01)
        return 7

    times = BucketPerName(0.001, 1_000, 10)
    assert await Timed(measured(), charged(times)) == 7
    assert 20 <= spent_ms(times, 1_000) < 150


async def test_work_is_charged_while_it_continues() -> None:
    """Not only at its end, because a stream has none."""
    times = BucketPerName(0.001, 100, 10)

    async def endless() -> None:
        while True:
            work(0.005)
            await asyncio.sleep(0)

    task = asyncio.ensure_future(Timed(endless(), charged(times)))
    await until(lambda: times.bucket("a", 0).is_spent(0))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_stream_rests_when_its_client_has_no_time_left() -> None:
    """It takes one step, of which its client has to recover for hours. It can be cancelled meanwhile."""
    times = BucketPerName(0.001, 10, 10)
    pieces = 0

    async def stream() -> None:
        nonlocal pieces
        while True:
            work(0.02)
            pieces += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(Timed(stream(), charged(times), rests=True))
    await until(lambda: pieces > 0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert pieces == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_and_cancellations_pass_through() -> None:
    """As if the coroutine had been awaited itself, also while it waits for its turn."""
    ended: list[str] = []

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def waiting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waiting")

    async def await_timed(coroutine: Awaitable[Any], share: LoopShare) -> None:
        await Timed(coroutine, Meter(share))

    with pytest.raises(ValueError, match="no"):
        await Timed(failing(), Meter(LoopShare()))
    task = asyncio.create_task(await_timed(waiting(), LoopShare()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["waiting"]

    share = LoopShare()
    share.spend(1)
    task = asyncio.create_task(await_timed(failing(), share))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(share.wait(), 10)


async def test_all_clients_together_get_one_slice_in_an_iteration_of_the_loop() -> None:
    """Sixty requests arrive at once: meanwhile, everything else is delayed by one of them at a time, and all are served."""
    share = LoopShare(slice_s=0.001)
    served: list[int] = []

    async def request(number: int) -> None:
        work(0.002)
        served.append(number)
        await asyncio.sleep(0)
        work(0.002)

    tasks = [asyncio.ensure_future(Timed(request(number), Meter(share))) for number in range(60)]
    longest = 0
    while not all(task.done() for task in tasks):
        before = len(served)
        await asyncio.sleep(0)
        longest = max(longest, len(served) - before)
    # The first guess of what a request takes allows a few at once.
    assert longest <= 6
    assert served == list(range(60))


async def test_one_that_arrives_later_does_not_overtake() -> None:
    """There is time left, but others wait for it."""
    share = LoopShare()
    share.spend(1)
    turns = [share.wait() for _ in range(100)]
    await turns[0]
    assert not share.is_free
    turns[50].cancel()
    last = share.wait()
    await last
    assert all(turn.done() for turn in turns)


async def test_clients_rest_between_their_slices_while_the_daemon_has_work() -> None:
    """They still go on, but not in each iteration of the loop, of which a step of a run needs several."""
    is_busy = False
    share = LoopShare(lambda: is_busy)
    share.spend(1)
    turn = share.wait()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turn.done()

    is_busy = True
    began = time.monotonic()
    for _ in range(5):
        share.spend(1)
        await share.wait()
    # A little less, because a timer may fire within the clock's resolution.
    assert time.monotonic() - began >= 5 * REST_S * 0.9
