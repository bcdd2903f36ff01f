"""Background tasks and timers whose errors stop the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class BackgroundTasks:
    """A set of background tasks and timers. The first error is set in `failure`, and the agent has to stop."""

    def __init__(self) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Runs a coroutine. Cancelling its task is not an error."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Calls a function once, after `delay_s` seconds."""

        def guarded() -> None:
            try:
                call()
            # asyncio would log the error and continue, although the journal may be wrong: the agent has to stop.
            except Exception as error:  # noqa: BLE001
                self._fail(error)

        asyncio.get_running_loop().call_later(delay_s, guarded)

    async def close(self) -> None:
        """Waits for all tasks."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)
