"""Work of an agent that goes on beside its turns: tasks and timers, of which none fails in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class BackgroundTasks:
    """All such work of one part. What one of them raises ends up in `failure`, and the agent has to end."""

    def __init__(self) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Runs a coroutine; cancelling its task is no failure."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Calls something once, after `delay_s` seconds."""

        def guarded() -> None:
            try:
                call()
            # A timer of asyncio would log the error and go on with a journal that nobody trusts: the agent has to end.
            except Exception as error:  # noqa: BLE001
                self._fail(error)

        asyncio.get_running_loop().call_later(delay_s, guarded)

    async def close(self) -> None:
        """Waits for the tasks."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)
