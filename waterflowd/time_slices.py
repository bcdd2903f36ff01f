"""Time slices: work that grows with the size of a run is interrupted, so that everything else on the loop continues.

Rules of this file: work is a generator that yields where it may be interrupted. It is resumed for one time slice.
All divided work together gets one slice in each iteration of the loop, one piece of work after the other, so that it does not
matter how much of it there is. What the work reads may change between its slices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import TypeAlias, TypeVar

#: Length in seconds: as long as a few steps' messages, and much longer than changing from one task to another.
SLICE_S = 0.002

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

#: Divided work with a result.
Work: TypeAlias = Generator[None, None, _Result]


def finish(work: Work[_Result]) -> _Result:
    """Does all of the work now, for callers that cannot wait."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _Result = end.value
            return result


class TimeSlices:
    """The divided work of one event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def do(self, work: Work[_Result]) -> _Result:
        """Does the work. The caller continues in the slice in which it ended, so the result is still current."""
        while True:
            async with self._lock:
                deadline = time.perf_counter() + SLICE_S
                try:
                    next(work)
                    while time.perf_counter() < deadline:
                        next(work)
                except StopIteration as end:
                    result: _Result = end.value
                    return result
                # Still with the lock: the next slice belongs to the next iteration of the loop.
                await asyncio.sleep(0)

    async def collect(self, items: Iterator[_Item | None]) -> AsyncGenerator[list[_Item], None]:
        """The items, one list for each slice that has any. A None among them only marks where the work may be interrupted."""
        is_done = False
        while not is_done:
            found: list[_Item] = []
            async with self._lock:
                deadline = time.perf_counter() + SLICE_S
                for item in items:
                    if item is not None:
                        found.append(item)
                    if time.perf_counter() >= deadline:
                        break
                else:
                    is_done = True
                await asyncio.sleep(0)
            if found:
                yield found
