"""Spaces the blocks of transfers while steps are in progress, so that steps do not wait for them.

Rules of this file: a block is up to 256 KiB of an artifact, a cache or a large file of a checkout. It takes the daemon, its
disk and the process of its port some milliseconds, and a step passes through all of them several times. So, while events are
committed, the answers to blocks leave at intervals, for all agents together; an agent has few requests in flight, so it sends
no more than that. The interval follows the time that blocks take: transfers use the same share of a slow disk as of a fast
one. Without steps, transfers are as fast as they can be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")

#: Between two blocks of 256 KiB each: from 32 MiB a second to 8.
INTERVAL_MIN_S, INTERVAL_MAX_S = 0.008, 0.032
#: A block takes one part in so many of the time.
SHARE = 6
#: Steps count as in progress for so long after an event.
ACTIVE_S = 0.05
#: Weight of the newest block in the mean time that a block takes.
_NEWEST = 0.125


class Pacing:
    """See the file's docstring."""

    def __init__(self, events: Callable[[], int], now_s: Callable[[], float] = time.monotonic) -> None:
        """`events` returns how many events were committed."""
        self._events = events
        self._now_s = now_s
        self._seen = events()
        self._active_until = 0.0
        self._next_at = 0.0
        self._mean_s = 0.0

    async def spaced(self, block: Awaitable[Result]) -> Result:
        """The result of what a block needs, at its turn."""
        began_s = self._now_s()
        result = await block
        if delay_s := self.delay_s(began_s):
            await asyncio.sleep(delay_s)
        return result

    def delay_s(self, began_s: float) -> float:
        """How long the answer to a block that began at `began_s` has to wait; each call is the turn of one answer."""
        now, events = self._now_s(), self._events()
        self._mean_s += _NEWEST * (now - began_s - self._mean_s)
        if events != self._seen:
            self._seen, self._active_until = events, now + ACTIVE_S
        if now >= self._active_until:
            return 0.0
        at = max(now, self._next_at)
        self._next_at = at + min(max(SHARE * self._mean_s, INTERVAL_MIN_S), INTERVAL_MAX_S)
        return at - now
