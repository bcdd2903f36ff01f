"""The stream `notices` as one writer and its readers see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from waterflowd.model.ids import NOTICES
from waterflowd.notices import events, state
from waterflowd.ports import Clock, History, Runs

#: A fact that stands for all others is recorded after so many, so that a start reads at most about twice as many.
_SNAPSHOT_EVERY = 500


class NoticeLog:
    """Records facts, and folds them. Everything is called on the event loop's thread."""

    def __init__(self, runs: Runs, history: History, clock: Clock) -> None:
        self._runs = runs
        self._history = history
        self.clock = clock
        self.state = state.NoticeState()
        #: Set whenever something was recorded; a reader clears it before it looks.
        self.changed = asyncio.Event()
        #: Set once what was recorded before is known.
        self.opened = asyncio.Event()
        self._since_snapshot = 0
        self._one_at_a_time = asyncio.Lock()

    async def open(self) -> None:
        """Reads what was recorded before."""
        records: list[events.Fact] = []
        end = await self._history.head(NOTICES) + 1
        while end > 1 and not any(isinstance(fact, events.StateRecorded) for fact in records):
            first = max(1, end - _SNAPSHOT_EVERY)
            page = await self._history.read(NOTICES, first, end - first)
            records = [*(record.event for record in page), *records]
            end = first
        self.state = state.fold(records)
        self._since_snapshot = len(records)
        self.opened.set()

    async def record(self, decide: Callable[[], Sequence[events.Fact]]) -> None:
        """Records the facts that `decide` returns by the state as it is then, in one transaction; nothing for none."""
        # A cancelled caller must not separate what is durable from what is folded.
        await asyncio.shield(asyncio.ensure_future(self._record(decide)))

    async def _record(self, decide: Callable[[], Sequence[events.Fact]]) -> None:
        async with self._one_at_a_time:
            facts = list(decide())
            if not facts:
                return
            await self._runs.record(NOTICES, facts)
            for fact in facts:
                state.evolve(self.state, fact)
            self._since_snapshot += len(facts)
            if self._since_snapshot >= _SNAPSHOT_EVERY:
                self._since_snapshot = 0
                await self._runs.record(NOTICES, [state.recorded(self.state, self.clock.now())])
            self.changed.set()
