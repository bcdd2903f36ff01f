"""The measured time of a coroutine: only what it does itself, whatever happens to it."""

from __future__ import annotations

import asyncio
import time

import pytest

from waterflowd.api.loop_time import Timed


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_waiting_and_other_tasks_do_not_count() -> None:
    """The coroutine works twice for a moment, and waits for a task that works for much longer."""

    async def other() -> None:
        work(0.2)

    async def measured() -> None:
        work(0.01)
        await asyncio.create_task(other())
        work(0.01)

    timed = Timed(measured())
    await timed
    assert 0.02 <= timed.seconds < 0.15


async def test_errors_and_cancellations_pass_through() -> None:
    """As if the coroutine had been awaited itself."""
    ended: list[str] = []

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def waiting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waiting")

    with pytest.raises(ValueError, match="no"):
        await Timed(failing())

    async def await_timed() -> None:
        await Timed(waiting())

    task = asyncio.create_task(await_timed())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["waiting"]
