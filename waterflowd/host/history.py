"""The history and the output logs of the log engine: its journal, feed and files as readers see them.

Rules of this file: the journal is read on the event loop, so what grows with a run or with their number is divided work
(time_slices.py). A small read is done at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from itertools import islice

from waterflowd import ports
from waterflowd.host.feed import Feed
from waterflowd.host.run_index import RunIndex
from waterflowd.model.ids import AttemptId, RunId, StreamName
from waterflowd.model.output_pieces import LineMark
from waterflowd.model.records import OutputAppend, OutputPiece, Record, RunCounts, RunFilter, RunSummary
from waterflowd.time_slices import TimeSlices, Work

#: Records that are read before a reader can be interrupted: a millisecond. Divides the distance between the log's marks.
_RECORDS = 64
#: Calls of `Journal.runs`, each of which examines up to 1,000 rows, for one answer.
_SEARCHES = 20
#: How long output is collected before it is written, in s: more flushes would delay events.
COLLECT_S = 0.025
#: Output that is read on the event loop: a millisecond.
_READ_HERE_BYTES = 256 << 10


class LogHistory:
    """Implements `ports.History`."""

    def __init__(self, journal: ports.Journal, feed: Feed, time_slices: TimeSlices) -> None:
        self._journal = journal
        self._feed = feed
        self._time_slices = time_slices
        self._index = RunIndex(journal, feed)
        self._indexing = asyncio.Lock()

    async def read(self, stream: StreamName, first: int = 1, limit: int | None = None) -> list[Record]:
        """See the port."""
        if limit is not None and limit <= _RECORDS:
            return self._journal.read(stream, first, limit)
        return await self._time_slices.do(self._read(stream, max(first, 1), limit))

    def _read(self, stream: StreamName, first: int, limit: int | None) -> Work[list[Record]]:
        found: list[Record] = []
        while limit is None or len(found) < limit:
            # To the next multiple of `_RECORDS`, so that the log begins to read at one of its marks.
            count = _RECORDS - (first - 1) % _RECORDS
            records = self._journal.read(stream, first, count if limit is None else min(count, limit - len(found)))
            found += records
            first += len(records)
            if len(records) < count:
                break
            yield
        return found

    async def head(self, stream: StreamName) -> int:
        """See the port."""
        return self._journal.head(stream)

    def follow(self, stream: StreamName, after: int) -> AsyncIterator[Record]:
        """See the port."""
        return self._feed.follow(stream, after)

    def output_grew(self, run: RunId) -> Awaitable[None]:
        """See the port."""
        return self._feed.output_grew(run)

    async def plan(self, plan_hash: str) -> bytes | None:
        """See the port."""
        return self._journal.plan(plan_hash)

    async def run(self, run: RunId) -> RunSummary | None:
        """See the port."""
        return self._journal.run(run)

    async def runs(
        self, selected: RunFilter, *, before: RunId | None = None, limit: int
    ) -> tuple[list[RunSummary], RunId | None]:
        """See the port."""
        if selected != RunFilter() and await self._is_indexed(before):
            page, following = await self._time_slices.do(self._index.search(selected, before=before, limit=limit))
            if self._index.is_ready:
                return page, following
        return await self._time_slices.do(self._search(selected, before, limit))

    async def count_runs(self, selected: RunFilter) -> RunCounts:
        """See the port."""
        await self._is_indexed(None)
        return await self._time_slices.do(self._index.count(selected))

    async def _is_indexed(self, before: RunId | None) -> bool:
        """Whether the index knows the runs that are older than `before`; makes the index if there is none."""
        async with self._indexing:
            if not self._index.is_ready:
                await self._time_slices.do(self._index.build())
        oldest = self._index.oldest
        return oldest is None or before is None or before > oldest

    def _search(
        self, selected: RunFilter, before: RunId | None, limit: int
    ) -> Work[tuple[list[RunSummary], RunId | None]]:
        found: list[RunSummary] = []
        for _ in range(_SEARCHES):
            rows, before = self._journal.runs(selected, before=before, limit=limit - len(found))
            found += rows
            if before is not None and self._is_before(before, selected.since_at):
                # All older runs were created before the time, too.
                before = None
            if before is None or len(found) == limit:
                break
            yield
        return found, before

    def _is_before(self, run: RunId, at: int | None) -> bool:
        """Whether the run was created before the time, if there is one."""
        if at is None:
            return False
        row = self._journal.run(run)
        return row is not None and row.created_at < at

    async def open_runs(self, limit: int) -> list[RunSummary]:
        """See the port."""
        return [row for run in islice(self._journal.open_runs(), limit) if (row := self._journal.run(run)) is not None]

    async def runs_by_prefix(self, prefix: str, limit: int) -> list[RunId]:
        """See the port."""
        return self._journal.runs_by_prefix(prefix, limit)

    async def run_for_key(self, key: str, repository: str | None) -> RunId | None:
        """See the port."""
        return self._journal.run_for_key(key)


class LogOutputs:
    """Implements `ports.OutputLogs` over the daemon's own output logs. Large reads are done in a thread."""

    def __init__(self, logs: ports.LocalOutputLogs) -> None:
        self._logs = logs

    @property
    def collect_s(self) -> float:
        """See the port."""
        return COLLECT_S

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """See the port."""
        return self._logs.append(pieces)

    async def size(self, name: AttemptId) -> int:
        """See the port."""
        return self._logs.size(name)

    async def read(self, name: AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
        """See the port."""
        if bytes_max > _READ_HERE_BYTES:
            return await asyncio.to_thread(self._logs.read, name, offset, bytes_max)
        return self._logs.read(name, offset, bytes_max)

    async def line_marks(self, name: AttemptId) -> list[LineMark]:
        """See the port."""
        return await asyncio.to_thread(self._logs.line_marks, name)
