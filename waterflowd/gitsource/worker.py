"""A thread for blocking reads, so that a slow or hanging disk delays one repository and never the event loop.

Theory: a thread that hangs in the kernel (a dead network file system) cannot be ended. So it is a daemon thread, which the
process does not wait for; calls time out; and while one hangs, new ones fail at once instead of piling up behind it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from waterflow_agent.errors import Retryable
from waterflowd.reconcile import codes

Result = TypeVar("Result")
_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Worker:
    """Runs one call at a time in its thread, which the first call starts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_busy = False

    async def call(self, function: Callable[[], Result], timeout_s: float) -> Result:
        """The function's result or exception; `Retryable` WF505 if it takes too long or an earlier call still hangs."""
        if self._is_busy:
            raise Retryable(codes.TOO_SLOW, "an earlier read of the repository is still hanging", after_s=5)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._is_busy = True
        self._jobs.put((function, loop, future))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise Retryable(codes.TOO_SLOW, f"reading the repository timed out after {timeout_s:g} s") from error

    def close(self) -> None:
        """Lets the thread end after its current call. Idempotent."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, loop, future = job
            result: Any = None
            failure: BaseException | None = None
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001  It is raised again where the call is awaited.
                failure = error
            try:
                loop.call_soon_threadsafe(self._settle, future, result, failure)
            except RuntimeError:
                # The event loop was closed meanwhile, so nothing waits for the result.
                return
            # A waiting thread must not keep the last result alive.
            del function, future, job, result, failure

    def _settle(self, future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
        self._is_busy = False
        if future.done():
            return
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)
