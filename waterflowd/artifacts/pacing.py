"""Spaces the blocks of transfers while steps are in progress, so that steps do not wait for them.

Rules of this file: a block takes the daemon and the process of its port some milliseconds, and a step passes through both
several times. So, while events are committed, the answers to blocks leave at most once in `GAP_S`, for all agents together; an
agent has few requests in flight, so it sends no more than that. Without steps, transfers are as fast as they can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Between two blocks: 256 KiB each, so this is 32 MiB a second.
GAP_S = 0.008
#: Steps count as in progress for so long after an event.
ACTIVE_S = 0.05


class Pacing:
    """See the file's docstring."""

    def __init__(self, events: Callable[[], int], now_s: Callable[[], float] = time.monotonic) -> None:
        """`events` returns how many events were committed."""
        self._events = events
        self._now_s = now_s
        self._seen = events()
        self._active_until = 0.0
        self._next_at = 0.0

    def delay_s(self) -> float:
        """How long the answer to a block has to wait; each call is the turn of one answer."""
        now, events = self._now_s(), self._events()
        if events != self._seen:
            self._seen, self._active_until = events, now + ACTIVE_S
        if now >= self._active_until:
            return 0.0
        at = max(now, self._next_at)
        self._next_at = at + GAP_S
        return at - now
