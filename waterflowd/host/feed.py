"""The feed: durable records as they are written, for the streams of the API.

Rules of this file: subscribers pull from the log by position, so history and new records have no gap between them, and a slow
subscriber costs no memory here. Only wake-ups are pushed. A waiting subscriber keeps its event alive, so nothing remains
after a subscriber has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from weakref import WeakValueDictionary

from waterflowd import ports
from waterflowd.model.ids import RunId, StreamName
from waterflowd.model.records import Record

#: Records read from the log at a time, in a millisecond; bounds a subscriber's memory and how long it holds the event loop.
PAGE = 64


class Feed:
    """Implements `ports.Feed` over a log, and the waiting for `ports.History`."""

    def __init__(self, log: ports.Journal) -> None:
        self._log = log
        self._any = asyncio.Event()
        self._streams: WeakValueDictionary[StreamName, asyncio.Event] = WeakValueDictionary()
        self._outputs: WeakValueDictionary[RunId, asyncio.Event] = WeakValueDictionary()
        self._watchers: list[Callable[[StreamName], None]] = []
        self._published_seq = log.last_seq

    def published(self, streams: Iterable[StreamName]) -> None:
        """New records of these streams are durable."""
        # The driver is the only writer, and writes its next batch after this.
        self._published_seq = self._log.last_seq
        self._any.set()
        self._any = asyncio.Event()
        for stream in streams:
            for watcher in self._watchers:
                watcher(stream)
            waiting = self._streams.pop(stream, None)
            if waiting is not None:
                waiting.set()
            if self._outputs and stream.startswith("run/"):
                self.output_published(RunId(stream[4:]))

    def output_published(self, run: RunId) -> None:
        """More output of the run is durable."""
        waiting = self._outputs.pop(run, None)
        if waiting is not None:
            waiting.set()

    @property
    def last_seq(self) -> int:
        """See `ports.Feed`."""
        return self._log.last_seq

    @property
    def published_seq(self) -> int:
        """See `ports.Feed`."""
        return self._published_seq

    def watch(self, watcher: Callable[[StreamName], None]) -> None:
        """See `ports.Feed`."""
        # A new list, because a watcher may leave while it is called.
        self._watchers = [*self._watchers, watcher]

    def unwatch(self, watcher: Callable[[StreamName], None]) -> None:
        """See `ports.Feed`."""
        self._watchers = [other for other in self._watchers if other != watcher]

    def read(self, after: int, limit: int) -> list[Record]:
        """See `ports.Feed`."""
        return self._log.feed(after, limit)

    async def everything(self, after: int) -> AsyncIterator[Record]:
        """See `ports.Feed`."""
        while True:
            # Taken before the read, so that a record that becomes durable in between ends the wait below.
            event = self._any
            page = self._log.feed(after, PAGE)
            for record in page:
                after = record.seq
                yield record
            if not page:
                await event.wait()

    async def follow(self, stream: StreamName, after: int) -> AsyncIterator[Record]:
        """See `ports.History`."""
        while True:
            # Created before the read, for the same reason.
            event = self._streams.setdefault(stream, asyncio.Event())
            page = self._log.read(stream, after + 1, PAGE)
            for record in page:
                after = record.position
                yield record
            if not page:
                await event.wait()

    async def output_grew(self, run: RunId) -> None:
        """See `ports.History`."""
        await self._outputs.setdefault(run, asyncio.Event()).wait()
