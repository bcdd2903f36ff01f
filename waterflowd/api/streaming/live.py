"""One stream of everything that a page shows: `GET /v1/live`, with the topics that the page names.

Rules of this file:

- The feed announces which streams have new events; nothing is decoded for that, and without a reader it costs nothing. A
  reader notes only what has changed, and is sent the newest state: so a slow client skips states, and is never behind.
- Changes are gathered: the first is sent at once, the next ones `GATHER_S` later. So there are at most 20 pieces a second.
- What several readers are sent about one state is made once (`_Frames`).
- The id of a piece is a sequence of the log: everything up to it was sent. A reader that comes back with it is sent what has
  changed since, without a gap. Beyond `CATCH_UP_MAX` events, or with more than `CHANGED_MAX` changed runs at once, it gets
  `lag` and fetches its lists anew.
- Output of attempts is sent as blocks from the line that the reader names (live_output.py).
- Agents and repositories also change without an event, so a reader of these compares them once a second.
- A stream ends when the daemon stops, and within 15 seconds after its token does.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.access.roles import Principal
from waterflowd.admin.ports import AgentRow, RepositoryRow
from waterflowd.api.runs.outlines import Outlines
from waterflowd.api.schemas.agents import AgentSchema
from waterflowd.api.schemas.live import (
    LagSchema,
    ListName,
    LiveRowSchema,
    OpenedSchema,
    OverviewSchema,
    RunChangesSchema,
)
from waterflowd.api.schemas.outlines import outline_schema
from waterflowd.api.schemas.repositories import RepositorySchema
from waterflowd.api.schemas.runs import RunSummarySchema
from waterflowd.api.services import Services
from waterflowd.api.streaming.live_output import OutputSubscriber, OutputTopic, parse_output_topic
from waterflowd.api.streaming.streams import HEARTBEAT_S, Place, parse_position
from waterflowd.model.ids import RunId, StreamName, is_run_id, run_stream
from waterflowd.ports import Feed

GATHER_S = 0.05
#: Changed runs that a reader notes between two pieces.
CHANGED_MAX = 500
#: Events between the id of a returning reader and now.
CATCH_UP_MAX = 1_000
#: How often agents, repositories and the overview are looked at.
LOOK_S = 1.0
TOPICS_MAX = 32
#: Nodes of an outline in one piece; a page that is further behind fetches the outline.
NODES_MAX = 1_000
_FRAMES_MAX = 2_048
_OPEN_RUNS_MAX = 2_000
#: Events that are read at a time: a millisecond.
_PAGE = 64
_OPENING = b"retry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"
#: All topics, for people.
TOPICS = "overview, runs, agents, repositories, run:ID, run:ID@SEQ, output:ID/JOB/STEP/N@LINE"
_encoder = msgspec.json.Encoder()


class Topics(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader is sent."""

    overview: bool = False
    runs: bool = False
    agents: bool = False
    repositories: bool = False
    #: Outlines of single runs, with the event up to which the reader knows each.
    outlines: dict[RunId, int] = {}
    outputs: list[OutputTopic] = []


def parse_topics(text: str) -> Topics:
    """The topics of a comma-separated list; `Rejected` 400 for an unknown one."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not 0 < len(words) <= TOPICS_MAX:
        raise Rejected("WF605", f"topics must be 1 to {TOPICS_MAX} of {TOPICS}", where="topics")
    outlines: dict[RunId, int] = {}
    outputs: list[OutputTopic] = []
    lists: set[str] = set()
    for word in words:
        kind, colon, rest = word.partition(":")
        if kind == "run" and colon:
            run, at, seq = rest.upper().partition("@")
            if not is_run_id(run):
                raise Rejected("WF605", "topics: run:ID needs the whole id of a run", where="topics")
            outlines[RunId(run)] = parse_position(seq) if at else 0
        elif kind == "output" and colon:
            outputs.append(parse_output_topic(rest))
        elif word in {"overview", "runs", "agents", "repositories"}:
            lists.add(word)
        else:
            raise Rejected("WF605", f"topics: unknown topic; the topics are {TOPICS}", where="topics")
    return Topics(outlines=outlines, outputs=outputs, **dict.fromkeys(lists, True))


class _Reader:
    """The runs of which one reader has not been sent the newest state."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._notes_all = topics.runs or topics.overview
        self.changed: set[RunId] = set()
        self.is_behind = False
        self.wake = asyncio.Event()

    def note(self, stream: StreamName) -> None:
        """The stream has new events. Called for each commit."""
        if not stream.startswith("run/"):
            return
        run = RunId(stream[4:])
        if not self._notes_all and run not in self._topics.outlines:
            return
        if len(self.changed) < CHANGED_MAX or run in self._topics.outlines:
            self.changed.add(run)
        else:
            self.is_behind = True
        self.wake.set()

    def take(self) -> tuple[set[RunId], bool]:
        """What is to be sent now: the changed runs, and whether there were too many."""
        changed, is_behind = self.changed, self.is_behind
        self.changed, self.is_behind = set(), False
        self.wake.clear()
        return changed, is_behind


class _Frames:
    """What was made for one reader, for the others."""

    def __init__(self) -> None:
        self._frames: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()

    def get(self, key: tuple[str, int, int]) -> bytes | None:
        """The frame about one state."""
        return self._frames.get(key)

    def put(self, key: tuple[str, int, int], frame: bytes) -> bytes:
        """Keeps a frame."""
        self._frames[key] = frame
        if len(self._frames) > _FRAMES_MAX:
            self._frames.popitem(last=False)
        return frame


class Live:
    """The readers of one daemon."""

    def __init__(self, services: Services, outlines: Outlines) -> None:
        self._services = services
        self._outlines = outlines
        self._frames = _Frames()

    async def follow(
        self, feed: Feed, place: Place, principal: Principal, topics: Topics, after: int | None
    ) -> AsyncGenerator[bytes, None]:
        """What has changed after a sequence of the log, without end; None: from now on."""
        reader = _Reader(topics)
        # Before anything is read, so that what becomes durable meanwhile is noted.
        feed.watch(reader.note)
        loop = asyncio.get_running_loop()
        stop = asyncio.create_task(place.streams.stopping.wait(), name="live: stop")
        looks = _Looks(self._services, topics)
        known = dict(topics.outlines)
        subscribers = [OutputSubscriber(self._services, topic, reader.wake) for topic in topics.outputs]
        try:
            yield _OPENING
            seq = feed.published_seq
            frames = [_event("open", OpenedSchema(seq=seq))]
            if after is not None:
                frames += looks.missed()
                await _catch_up(feed, reader, after, seq)
            for run in known:
                reader.note(run_stream(run))
            sent_at = loop.time()
            while self._services.tokens.is_current(principal, self._services.clock.now()):
                seq = feed.published_seq
                changed, is_behind = reader.take()
                if is_behind:
                    frames.append(_event("lag", LagSchema(topic="runs")))
                    changed.intersection_update(known)
                for run in sorted(changed):
                    if topics.runs and not is_behind:
                        frames.append(await self._row(run))
                    if run in known:
                        frames.append(await self._outline(run, known))
                frames += [await _new_output(subscriber) for subscriber in subscribers]
                frames += await looks.look(loop.time(), has_changed=bool(changed) or is_behind)
                if any(frames):
                    sent_at = loop.time()
                    yield b"".join(frames) + b"id: %d\n\n" % seq
                elif loop.time() - sent_at >= HEARTBEAT_S:
                    sent_at = loop.time()
                    yield _HEARTBEAT
                frames = []
                await _wait(reader.wake, stop, min(looks.wait_s, HEARTBEAT_S))
                if stop.done():
                    return
                # The first change after a pause is sent at once.
                await asyncio.sleep(max(0.0, sent_at + GATHER_S - loop.time()))
        finally:
            feed.unwatch(reader.note)
            stop.cancel()
            await asyncio.gather(stop, *(subscriber.close() for subscriber in subscribers), return_exceptions=True)

    async def _row(self, run: RunId) -> bytes:
        row = await self._services.history.run(run)
        if row is None:
            return b""
        key = (f"row {run}", row.seq, 0)
        frame = self._frames.get(key)
        if frame is None:
            content = LiveRowSchema(list="runs", key=run, row=RunSummarySchema.of(row))
            frame = self._frames.put(key, _event("row", content))
        return frame

    async def _outline(self, run: RunId, known: dict[RunId, int]) -> bytes:
        """What has changed in an outline since the reader was sent it last."""
        after = known[run]
        try:
            outline = await self._outlines.read(run)
        except Rejected:
            # There is no such run.
            return b""
        if outline.seq <= after:
            return b""
        key = (f"outline {run}", after, outline.seq)
        frame = self._frames.get(key)
        if frame is None:
            work = outline_schema(outline, after=after, job=None, depth=None, first=0, limit=NODES_MAX)
            changes = await self._services.time_slices.do(work)
            if changes.next is None:
                frame = _event("run", RunChangesSchema(run=run, after=after, outline=changes))
            else:
                frame = _event("lag", LagSchema(topic=f"run:{run}"))
            frame = self._frames.put((f"outline {run}", after, changes.seq), frame)
            known[run] = changes.seq
        else:
            known[run] = key[2]
        return frame


class _Looks:
    """What one reader was sent of the lists that also change without an event, and of the overview."""

    def __init__(self, services: Services, topics: Topics) -> None:
        self._services = services
        self._topics = topics
        self._agents = self._current_agents()
        self._repositories = self._current_repositories()
        self._open: dict[str, int] | None = None
        self._looked_at = 0.0
        self._is_due = True

    @property
    def wait_s(self) -> float:
        """How long the reader may wait."""
        topics = self._topics
        return LOOK_S if topics.agents or topics.repositories or self._is_due else HEARTBEAT_S

    def missed(self) -> list[bytes]:
        """What a reader that comes back must fetch anew, because nothing says what has changed meanwhile."""
        lists = [name for name in ("agents", "repositories") if getattr(self._topics, name)]
        return [_event("lag", LagSchema(topic=name)) for name in lists]

    async def look(self, now: float, *, has_changed: bool) -> list[bytes]:
        """What has changed since the last look, at most once in `LOOK_S`."""
        self._is_due = self._topics.overview and (self._is_due or has_changed)
        if now - self._looked_at < LOOK_S:
            return []
        self._looked_at = now
        agents, repositories = self._current_agents(), self._current_repositories()
        frames = _changes("agents", self._agents, agents, AgentSchema.of)
        frames += _changes("repositories", self._repositories, repositories, RepositorySchema.of)
        self._agents, self._repositories = agents, repositories
        if self._is_due:
            self._is_due = False
            rows = await self._services.history.open_runs(_OPEN_RUNS_MAX)
            frames.append(_event("overview", OverviewSchema(open=dict(Counter(row.status.value for row in rows)))))
        return frames

    def _current_agents(self) -> dict[str, AgentRow]:
        return {row.fingerprint: row for row in self._services.agents.rows()} if self._topics.agents else {}

    def _current_repositories(self) -> dict[str, RepositoryRow]:
        return {row.name: row for row in self._services.repositories.status()} if self._topics.repositories else {}


def _changes(name: ListName, before: Mapping[str, Any], now: Mapping[str, Any], schema: Any) -> list[bytes]:
    """The rows that are new or differ, and null for those that are gone. Being heard from is not a change."""
    frames = []
    for key, row in now.items():
        known = before.get(key)
        if known is None or _without_times(known) != _without_times(row):
            frames.append(_event("row", LiveRowSchema(list=name, key=key, row=schema(row))))
    frames += [_event("row", LiveRowSchema(list=name, key=key, row=None)) for key in before.keys() - now.keys()]
    return frames


def _without_times(row: Any) -> Any:
    if isinstance(row, AgentRow):
        return msgspec.structs.replace(row, seen_at=None)
    return msgspec.structs.replace(row, fetched_at=None)


async def _new_output(subscriber: OutputSubscriber) -> bytes:
    """What is new in the output of one attempt; `lag` if it cannot be read: a request for it gets the error."""
    try:
        found = await subscriber.take()
    except WaterflowError:
        return _event("lag", LagSchema(topic=subscriber.topic.text))
    return _event("block", found) if found is not None else b""


async def _catch_up(feed: Feed, reader: _Reader, after: int, seq: int) -> None:
    """Notes what has changed in the log after a sequence."""
    if not 0 <= seq - after <= CATCH_UP_MAX:
        # Also a sequence of another log, such as a backup that was restored.
        reader.is_behind = True
        return
    while after < seq:
        records = feed.read(after, min(_PAGE, seq - after))
        if not records:
            return
        for record in records:
            reader.note(record.stream)
        after = records[-1].seq
        await asyncio.sleep(0)


def _event(kind: str, content: msgspec.Struct) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encoder.encode(content) + b"\n\n"


async def _wait(wake: asyncio.Event, stop: asyncio.Task[bool], timeout_s: float) -> None:
    """Waits for a change, the daemon's stop, or the time."""
    waking = asyncio.ensure_future(wake.wait())
    try:
        await asyncio.wait([waking, stop], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waking.cancel()
        await asyncio.gather(waking, return_exceptions=True)
