"""The feed: durable records as they are written, for the streams of the API.

Rules of this file: subscribers pull from the log by position, so history and new records have no gap between them, and a slow
subscriber costs no memory here. Only wake-ups are pushed. A waiting subscriber keeps its event alive, so nothing remains
after a subscriber has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from weakref import WeakValueDictionary

from waterflowd import ports
from waterflowd.model.ids import RunId, StreamName
from waterflowd.model.records import Record

#: Records read from the log at a time; bounds a subscriber's memory and how long a page blocks the event loop.
PAGE = 200


class Feed:
    """Implements `ports.Feed` over a log."""

    def __init__(self, log: ports.Log) -> None:
        self._log = log
        self._any = asyncio.Event()
        self._streams: WeakValueDictionary[StreamName, asyncio.Event] = WeakValueDictionary()
        self._outputs: WeakValueDictionary[RunId, asyncio.Event] = WeakValueDictionary()

    def published(self, streams: Iterable[StreamName]) -> None:
        """New records of these streams are durable."""
        self._any.set()
        self._any = asyncio.Event()
        for stream in streams:
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

    async def subscribe(self, stream: StreamName | None, after: int) -> AsyncIterator[Record]:
        """Records of one stream after a position, or of all after a global sequence, without a gap. Never ends."""
        while True:
            # Created before the read, so that a record that becomes durable in between ends the wait below.
            event = self._any if stream is None else self._streams.setdefault(stream, asyncio.Event())
            page = self._log.feed(after, PAGE) if stream is None else self._log.read(stream, after + 1, PAGE)
            for record in page:
                after = record.seq if stream is None else record.position
                yield record
            if not page:
                await event.wait()

    async def output_grew(self, run: RunId) -> None:
        """Returns when more output of the run, or an event of the run, is durable."""
        await self._outputs.setdefault(run, asyncio.Event()).wait()
