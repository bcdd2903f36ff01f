"""The reading thread: one call at a time, with a timeout."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Retryable
from waterflowd.gitsource.worker import Worker
from waterflowd.reconcile import codes


async def test_results_and_errors_reach_the_caller() -> None:
    """The function's result or exception reaches the caller."""
    worker = Worker("reads")
    assert await worker.call(lambda: threading.current_thread().name, PATIENCE_S) == "reads"
    with pytest.raises(ZeroDivisionError):
        await worker.call(lambda: 1 // 0, PATIENCE_S)
    worker.close()


async def test_a_call_that_hangs_times_out_and_blocks_the_next_one() -> None:
    """Calls do not pile up behind a dead disk, and work again once it is back."""
    worker = Worker("reads")
    disk = threading.Event()
    with pytest.raises(Retryable) as caught:
        await worker.call(disk.wait, 0.01)
    assert caught.value.code == codes.TOO_SLOW
    with pytest.raises(Retryable, match="still hanging"):
        await worker.call(lambda: 1, PATIENCE_S)
    disk.set()
    async with asyncio.timeout(PATIENCE_S):
        # A refused call does not wait, so the event loop gets a turn here to process the thread's report.
        while await is_refused(worker):  # noqa: ASYNC110
            await asyncio.sleep(0)
    worker.close()
    worker.close()


async def is_refused(worker: Worker) -> bool:
    try:
        return await worker.call(lambda: False, PATIENCE_S)
    except Retryable:
        return True
