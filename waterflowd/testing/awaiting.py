"""Helpers for asynchronous tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

from waterflow_agent.errors import WaterflowError

Result = TypeVar("Result")


class Immediate(Awaitable[Result], Generic[Result]):
    """Returns `result`, or raises `error`; needs no event loop."""

    def __init__(self, result: Result, error: WaterflowError | None = None) -> None:
        self._result = result
        self._error = error

    def __await__(self) -> Generator[Any, None, Result]:
        if self._error is not None:
            raise self._error
        return self._result
        yield


async def until(is_true: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until a condition is true; fails after `seconds`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not is_true():
        assert loop.time() < end, "timed out waiting for the condition"
        await asyncio.sleep(0.001)
