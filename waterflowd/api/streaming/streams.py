"""Streams of events and output, as server-sent events or newline-delimited JSON.

Rules of this file:

- Every item has an id from which the stream can be resumed (`Last-Event-ID`, or `cursor`/`from`), with no gap and no repeat.
  History and new items are one sequence.
- A stream holds one batch at a time and waits for its client: a slow client delays only itself.
- A stream ends when the run is completed (`event: end`), when the daemon stops (without `end`: the client should reconnect),
  and when the token that opened it is revoked or expires.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.access.roles import Principal, Role
from waterflowd.api.access.auth import ADMISSION
from waterflowd.api.access.quotas import Admission
from waterflowd.api.disconnects import until_disconnected
from waterflowd.api.loop_time import Meter, Timed
from waterflowd.api.schemas.events import event_schema
from waterflowd.api.services import Services
from waterflowd.api.streaming.output_reader import RunOutput
from waterflowd.engine import events
from waterflowd.model.ids import AUDIT, RunId, run_stream
from waterflowd.model.records import Record
from waterflowd.ports import Feed

logger = logging.getLogger("waterflow.api")

#: Shorter than the idle timeouts of common proxies (60 s).
HEARTBEAT_S = 15.0
#: How long to wait for output that an agent has announced: beyond this, the agent is probably gone.
_STRAGGLERS_S = 10.0
#: The same for a client that does not follow.
_ANNOUNCED_S = 2.0
#: Events that are read at a time: about 4 ms of work, which is divided. A multiple of what the history reads at a time.
_RECORDS = 256
#: Events that are sent together, if there are as many: a time slice of the API.
_TOGETHER_MAX = 16
_HEARTBEAT = b": still here\n\n"
_OPENING = b"retry: 1000\n\n"
_END = b"event: end\ndata: {}\n\n"

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

_encoder = msgspec.json.Encoder()
Frame = Callable[[str, Any], bytes]


def sse_frame(identity: str, content: Any) -> bytes:
    """One server-sent event."""
    return b"id: " + identity.encode() + b"\ndata: " + _encoder.encode(content) + b"\n\n"


def ndjson_frame(identity: str, content: Any) -> bytes:
    """One line of JSON. The id is one of its fields."""
    return _encoder.encode(content) + b"\n"


class Streams:
    """The open streams of one server."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.count = 0

    def stop(self) -> None:
        """Ends every stream."""
        self.stopping.set()


@dataclass(frozen=True, slots=True)
class Place:
    """What one stream holds: a place among the open ones, and the meter of its client."""

    streams: Streams
    meter: Meter


class Stream(Response):
    """A response whose body is a generator. The generator is always closed: at its end, on disconnect, and on cancellation.

    A response that is not live waits for its first piece before it sends the status: an error until then is answered as usual.
    After that, an error ends the body early and is written to the daemon's log.
    """

    def __init__(
        self, place: Place, content: AsyncGenerator[bytes, None], media_type: str, *, is_live: bool = True
    ) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"
        self._place = place
        self._content = content
        self._is_live = is_live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        self._place.streams.count += 1
        gone = asyncio.create_task(until_disconnected(receive), name="stream: client")
        sent = asyncio.ensure_future(Timed(self._send(send), self._place.meter, rests=True))
        try:
            await asyncio.wait({gone, sent}, return_when=asyncio.FIRST_COMPLETED)
            if sent.done():
                sent.result()
        finally:
            self._place.streams.count -= 1
            for task in (gone, sent):
                task.cancel()
            await asyncio.gather(gone, sent, return_exceptions=True)
            await self._content.aclose()

    async def _send(self, send: Send) -> None:
        first = None if self._is_live else await anext(self._content, None)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if first is not None:
            await send({"type": "http.response.body", "body": first, "more_body": True})
        try:
            async for piece in self._content:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except WaterflowError as error:
            logger.error("a response ended early: %s", error)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def admit(request: Request) -> Place:
    """A place among the open streams, if there is one more; `Rejected` 429 otherwise."""
    admission: Admission = getattr(request.state, ADMISSION)
    admission.becomes_stream()
    return Place(request.app.state.streams, admission.meter)


def admit_search(request: Request) -> Place:
    """The same for a search of output, of which a client may have fewer."""
    admission: Admission = getattr(request.state, ADMISSION)
    admission.becomes_search()
    return Place(request.app.state.streams, admission.meter)


def last_event_id(request: Request) -> str | None:
    """The last item that the client received before it reconnected."""
    return request.headers.get("last-event-id") or None


def parse_position(text: str) -> int:
    """A position in a stream of the log; `Rejected` 400 for anything else."""
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Rejected("WF605", "a position must be an integer; 0 is the start", where="cursor")
    return int(text)


def accepts_ndjson(request: Request) -> bool:
    """Whether the client requests NDJSON by its media type."""
    return NDJSON in request.headers.get("accept", "")


async def follow_run_events(
    services: Services, place: Place, principal: Principal, run: RunId, after: int, frame: Frame
) -> AsyncGenerator[bytes, None]:
    """The events of a run after a position, until it is completed."""
    is_sse = frame is sse_frame
    if is_sse:
        yield _OPENING
    stream = run_stream(run)
    row = await services.history.run(run)
    if row is not None and row.completed_at is not None and await services.history.head(stream) <= after:
        if is_sse:
            yield _END
        return
    async with contextlib.aclosing(
        _watched(services, place, principal, services.history.follow(stream, after))
    ) as source:
        async for records in source:
            piece = b"".join(frame(str(record.position), event_schema(record)) for record in records)
            is_completed = any(isinstance(record.event, events.RunCompleted) for record in records)
            if is_sse:
                piece = (piece or _HEARTBEAT) + (_END if is_completed else b"")
            if piece:
                yield piece
            if is_completed:
                return


async def follow_everything(
    services: Services, feed: Feed, place: Place, principal: Principal, after: int
) -> AsyncGenerator[bytes, None]:
    """All events of the system after a global sequence, without end. Only admins receive the audit stream."""
    yield _OPENING
    async with contextlib.aclosing(_watched(services, place, principal, feed.everything(after))) as source:
        async for records in source:
            shown = [record for record in records if record.stream != AUDIT or principal.role.includes(Role.ADMIN)]
            if shown:
                yield b"".join(sse_frame(str(record.seq), event_schema(record)) for record in shown)
            elif not records:
                yield _HEARTBEAT


async def _watched(
    services: Services, place: Place, principal: Principal, source: AsyncIterator[Record]
) -> AsyncGenerator[list[Record], None]:
    """The records of `source`, a few at a time; an empty list for each idle interval.

    Ends on stop, and when the principal's token does.
    """
    waiting: asyncio.Queue[Record] = asyncio.Queue(_TOGETHER_MAX)

    async def read() -> None:
        async for record in source:
            await waiting.put(record)

    stop = asyncio.create_task(place.streams.stopping.wait(), name="stream: stop")
    # One task for the whole stream: one for each record costs several times as much as the record.
    reading = asyncio.ensure_future(Timed(read(), place.meter, rests=True))
    arrival: asyncio.Future[Record] | None = None
    try:
        while services.tokens.is_current(principal, services.clock.now()):
            if arrival is None:
                arrival = asyncio.ensure_future(waiting.get())
            await asyncio.wait(
                _futures(arrival, stop, reading), timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if stop.done():
                return
            if arrival.done():
                records = [arrival.result()]
                arrival = None
                while not waiting.empty():
                    records.append(waiting.get_nowait())
                yield records
            elif reading.done():
                reading.result()
                return
            else:
                yield []
    finally:
        await _end(stop, reading, arrival)
        if isinstance(source, AsyncGenerator):
            await source.aclose()


def _futures(*futures: asyncio.Future[Any]) -> list[asyncio.Future[Any]]:
    return list(futures)


async def _end(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancels tasks and waits for their end."""
    waiting = [task for task in tasks if task is not None]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def read_events(services: Services, run: RunId, after: int) -> AsyncGenerator[bytes, None]:
    """The existing events of a run after a position, as lines of JSON."""
    while records := await services.history.read(run_stream(run), after + 1, _RECORDS - after % _RECORDS):
        after = records[-1].position
        lines = (ndjson_frame("", event_schema(record)) for record in records)
        async with contextlib.aclosing(services.time_slices.collect(lines)) as pieces:
            async for piece in pieces:
                yield b"".join(piece)


async def read_output(services: Services, run: RunId, output: RunOutput) -> AsyncGenerator[bytes, None]:
    """The existing output, as lines of JSON.

    Output may arrive after the result of its attempt, so this waits a moment for output that a result has announced.
    """
    loop = asyncio.get_running_loop()
    patience_end = loop.time() + _ANNOUNCED_S
    await output.learn()
    while not output.is_drained:
        grown = asyncio.ensure_future(_once(services.history.output_grew(run)))
        try:
            # Registered before anything is read, so that output which arrives in between wakes it.
            await asyncio.sleep(0)
            left_s = patience_end - loop.time()
            has_lines = False
            is_last = left_s <= 0 or not output.is_missing_output
            async with contextlib.aclosing(_framed(services, output, ndjson_frame, is_last=is_last)) as pieces:
                async for piece in pieces:
                    has_lines = True
                    yield piece
            if not has_lines and output.is_missing_output and left_s > 0:
                await asyncio.wait([grown], timeout=left_s)
        finally:
            await _end(grown)


async def follow_output(
    services: Services, place: Place, principal: Principal, run: RunId, output: RunOutput, frame: Frame
) -> AsyncGenerator[bytes, None]:
    """The output of a run after the client's cursor, until the run is completed and all its output has arrived."""
    is_sse = frame is sse_frame
    if is_sse:
        yield _OPENING
    stop = asyncio.create_task(place.streams.stopping.wait(), name="stream: stop")
    loop = asyncio.get_running_loop()
    patience_end: float | None = None
    grown: asyncio.Future[None] | None = None
    try:
        while services.tokens.is_current(principal, services.clock.now()):
            if grown is None:
                grown = asyncio.ensure_future(_once(services.history.output_grew(run)))
                # Registered before anything is read, so that output which arrives in between wakes it.
                await asyncio.sleep(0)
            await output.learn()
            is_late = patience_end is not None and loop.time() >= patience_end
            has_lines = False
            async with contextlib.aclosing(_framed(services, output, frame, is_last=is_late)) as pieces:
                async for piece in pieces:
                    has_lines = True
                    yield piece
                    if stop.done():
                        return
            if has_lines:
                patience_end = None
                continue
            if output.is_completed and output.is_drained:
                if is_sse:
                    yield _END
                return
            timeout = HEARTBEAT_S
            if output.is_completed:
                patience_end = patience_end or loop.time() + _STRAGGLERS_S
                timeout = min(timeout, max(0.0, patience_end - loop.time()))
            done, _ = await asyncio.wait(_futures(grown, stop), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                return
            if grown in done:
                grown.result()
                grown = None
            elif is_sse:
                yield _HEARTBEAT
    finally:
        await _end(stop, grown)


async def _framed(services: Services, output: RunOutput, frame: Frame, *, is_last: bool) -> AsyncGenerator[bytes, None]:
    """The new lines, those of each time slice in one piece."""
    async with contextlib.aclosing(output.read_some(is_last=is_last)) as parts:
        async for lines in parts:
            framed = (None if line is None else frame(line.cursor, line) for line in lines)
            async with contextlib.aclosing(services.time_slices.collect(framed)) as slices:
                async for found in slices:
                    yield b"".join(found)


async def _once(awaitable: Awaitable[None]) -> None:
    await awaitable
