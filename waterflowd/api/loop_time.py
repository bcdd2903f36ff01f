"""Measures how much processor time a coroutine takes in the event loop, while it waits for other things in between."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Generator
from typing import Any


class Timed(Awaitable[None]):
    """A coroutine, to be awaited once. `seconds` is the time that it has taken so far, without tasks that it has started."""

    def __init__(self, coroutine: Awaitable[None]) -> None:
        self._coroutine = coroutine
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, Any, None]:
        """Runs the coroutine in the task that awaits it."""
        steps = self._coroutine.__await__()
        error: BaseException | None = None
        while True:
            began = time.thread_time()
            try:
                waiting = steps.send(None) if error is None else steps.throw(error)
            except StopIteration:
                return
            finally:
                self.seconds += time.thread_time() - began
            try:
                yield waiting
                error = None
            except BaseException as thrown:  # noqa: BLE001 - whatever the loop throws, such as a cancellation, is passed on
                error = thrown
