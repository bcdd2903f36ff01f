"""Timers of all open runs: a heap with lazy removal, in memory only. After a restart they are rebuilt from the log."""

from __future__ import annotations

import heapq
from itertools import count

from waterflowd.engine.inputs import Timer
from waterflowd.model.ids import RunId


class Timers:
    """When to wake which run. All times are the log's clock in ms."""

    def __init__(self) -> None:
        self._armed: dict[RunId, dict[Timer, int]] = {}
        self._heap: list[tuple[int, int, RunId, Timer]] = []
        self._numbers = count()
        self._dropped = 0

    def arm(self, run: RunId, timer: Timer) -> None:
        """The timer fires once at its `due_at`. Idempotent."""
        armed = self._armed.setdefault(run, {})
        if timer not in armed:
            number = armed[timer] = next(self._numbers)
            heapq.heappush(self._heap, (timer.due_at, number, run, timer))

    def drop(self, run: RunId, timer: Timer) -> None:
        """Cancels the timer."""
        armed = self._armed.get(run)
        if armed is not None and armed.pop(timer, None) is not None:
            self._dropped += 1
            if not armed:
                del self._armed[run]
            self._compact()

    def drop_run(self, run: RunId) -> None:
        """Cancels all timers of the run."""
        self._dropped += len(self._armed.pop(run, {}))
        self._compact()

    def _compact(self) -> None:
        # Cancelled long timeouts of short jobs would fill the heap for hours: rebuild it when most entries are cancelled.
        if self._dropped > 1000 and self._dropped * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if self._is_armed(entry)]
            heapq.heapify(self._heap)
            self._dropped = 0

    def _is_armed(self, entry: tuple[int, int, RunId, Timer]) -> bool:
        _, number, run, timer = entry
        return self._armed.get(run, {}).get(timer) == number

    def due(self, now: int, limit: int = 1 << 30) -> list[tuple[RunId, Timer]]:
        """Removes and returns the timers that are due, oldest first, at most `limit`."""
        fired: list[tuple[RunId, Timer]] = []
        while self._heap and self._heap[0][0] <= now and len(fired) < limit:
            entry = heapq.heappop(self._heap)
            if self._is_armed(entry):
                _, _, run, timer = entry
                fired.append((run, timer))
                del self._armed[run][timer]
                if not self._armed[run]:
                    del self._armed[run]
            else:
                self._dropped -= 1
        return fired

    @property
    def next_at(self) -> int | None:
        """A lower bound for the next timer's time; None without timers."""
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return sum(len(armed) for armed in self._armed.values())
