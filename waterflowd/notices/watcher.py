"""Finds out what people have to be told of, and records a notice for each.

Rules of this file:

- Ends of runs and requests for approval are read from the log, from the last recorded position on, so none is missed and none
  is told twice: the position is recorded in the transaction of the notice. Servers and repositories are looked at every few
  seconds, and their problems count once they have lasted a while.
- The same problem is told once, and again only after `remind-after`. Its end is told if its beginning was.
- Nothing is read while there is no channel, and what happened in that time is never told.
- An error here delays notices, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import WaterflowError
from waterflowd.admin.ports import AgentAdmin, RepositoryAdmin, RepositoryRow
from waterflowd.engine.events import ApprovalRequested, RunCompleted
from waterflowd.model.ids import NOTICES, RunId
from waterflowd.model.records import Record, RunSummary, TriggerKind
from waterflowd.model.statuses import FAILURES, Conclusion
from waterflowd.notices import content, events
from waterflowd.notices.channels import Channel
from waterflowd.notices.events import Notice
from waterflowd.notices.log import NoticeLog
from waterflowd.ports import Feed, History
from waterflowd.reconcile import codes
from waterflowd.reconcile.conditions import ConditionType

_RUN_STREAM = "run/"
#: Records that are read at a time, pages before servers and repositories are looked at again, and after how many records the
#: position is recorded even if they lead to no notice.
_PAGE = 200
_PAGES = 50
_RECORD_EVERY = 5_000
_RECORD_MS = 60_000
#: How often servers and repositories are looked at, in s.
_POLL_S = 2.0
_RETRY = Backoff(first_s=1.0, max_s=60.0)

logger = logging.getLogger("waterflow.notices")


class NoticeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of notices, without those of channels."""

    agent_gone_after_ms: int = 300_000
    repository_broken_after_ms: int = 60_000
    remind_after_ms: int = 86_400_000
    #: The address of the web pages; empty for none.
    base_url: str = ""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where it is seen what has happened."""

    feed: Feed
    history: History
    agents: AgentAdmin
    repositories: RepositoryAdmin


#: The channels of the configuration, and those of one repository (None: of none).
ChannelsOf = Callable[[str | None], Awaitable[Sequence[Channel]]]


class NoticeWatcher:
    """Records notices. `run` is its task."""

    def __init__(self, log: NoticeLog, sources: Sources, channels_of: ChannelsOf, settings: NoticeSettings) -> None:
        self._log = log
        self._sources = sources
        self._channels_of = channels_of
        self.settings = settings
        #: Whether there can be channels at all.
        self.is_active = False
        self._started_at = log.clock.now()
        self._failures = 0
        #: Everything up to here was looked at; the recorded position may be a little older.
        self._seq = 0
        #: Whether something else than notices was read since the position was recorded, and when that was, in ms.
        self._has_news = False
        self._recorded_at = log.clock.now()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            try:
                is_behind = await self._look()
            except WaterflowError as error:
                self._failures += 1
                logger.warning("notices are delayed: %s", error)
                await asyncio.sleep(_RETRY.delay_s(self._failures))
            except Exception:
                # A supervision point: an internal error in notices must not end the daemon.
                self._failures += 1
                logger.exception("notices are delayed: internal error")
                await asyncio.sleep(_RETRY.delay_s(self._failures))
            else:
                self._failures = 0
                await asyncio.sleep(0 if is_behind else _POLL_S)

    async def _look(self) -> bool:
        """Looks at everything once; returns whether there is more to read at once."""
        recorded = self._log.state.events_seq
        if not self.is_active:
            self._seq = 0
            if recorded:
                await self._record(lambda: [events.EventsRead(at=self._now(), seq=0)])
            return False
        if not recorded:
            # What happened before is not told.
            newest = max(1, self._sources.feed.published_seq)
            await self._record(lambda: [events.EventsRead(at=self._now(), seq=newest)])
        self._seq = max(self._seq, self._log.state.events_seq)
        is_behind = await self._read_events()
        if not is_behind:
            await self._look_at_agents()
            await self._look_at_repositories()
        return is_behind

    # Events

    async def _read_events(self) -> bool:
        """Reads some pages; returns whether there are more."""
        for _ in range(_PAGES):
            page = self._sources.feed.read(self._seq, _PAGE)
            for record in page:
                notice = await self._of_record(record)
                if notice is not None:
                    await self._queue(notice, record.seq)
                self._seq = record.seq
                self._has_news = self._has_news or record.stream != NOTICES
            await self._record_position()
            if len(page) < _PAGE:
                return False
            await asyncio.sleep(0)
        return True

    async def _record_position(self) -> None:
        """Records from time to time how far the log was read, so that a restart reads little again."""
        is_far = self._seq - self._log.state.events_seq >= _RECORD_EVERY
        is_old = self._has_news and self._now() - self._recorded_at >= _RECORD_MS
        if is_far or is_old:
            await self._record(lambda: [events.EventsRead(at=self._now(), seq=self._seq)])
            self._has_news, self._recorded_at = False, self._now()

    async def _of_record(self, record: Record) -> Notice | None:
        if not isinstance(record.event, RunCompleted | ApprovalRequested):
            return None
        row = await self._sources.history.run(RunId(record.stream.removeprefix(_RUN_STREAM)))
        if row is None:
            return None
        if isinstance(record.event, ApprovalRequested):
            return self._of_approval(row, record.event)
        return self._of_end(row, record.event)

    def _of_end(self, row: RunSummary, event: RunCompleted) -> Notice | None:
        if row.trigger.kind is TriggerKind.PARENT_RUN:
            # The run that started it fails with it, or has handled the failure.
            return None
        key = f"run/{row.repository or ''}/{row.path}/{row.trigger.ref or ''}"
        if event.conclusion in FAILURES and self._is_due(key):
            title = f"{content.run_title(row)} failed"
            return self._of_run(row, "failure", key, title, content.failure_text(row))
        if event.conclusion is Conclusion.SUCCESS and key in self._log.state.problems:
            title = f"{content.run_title(row)} succeeded again"
            notice = self._of_run(row, "recovery", key, title, content.recovery_text(row))
            return msgspec.structs.replace(notice, is_resolved=True)
        return None

    def _of_approval(self, row: RunSummary, event: ApprovalRequested) -> Notice:
        part = event.job if event.step is None else f"{event.job}/{event.step}"
        environment = f', environment "{event.environment}"' if event.environment else ""
        text = f"{part}{environment}: {event.reason.text}"
        title = f"{content.run_title(row)} waits for approval"
        # Each request is a problem of its own, which nobody has to end.
        notice = self._of_run(row, "approval", f"approval/{row.id}/{part}", title, text)
        return msgspec.structs.replace(notice, command=f"waterflowctl approve {row.id}", is_resolved=True)

    def _of_run(self, row: RunSummary, kind: str, key: str, title: str, text: str) -> Notice:
        return Notice(
            id=0,
            kind=kind,
            key=key,
            at=self._now(),
            title=title,
            text=text,
            command=f"waterflowctl show {row.id}",
            link=f"{self.settings.base_url}/runs/{row.id}" if self.settings.base_url else "",
            repository=row.repository,
            workflow=row.name,
            path=row.path,
            ref=row.trigger.ref,
            run=row.id,
            number=row.number,
            conclusion=row.conclusion.value if row.conclusion is not None else "",
        )

    # States

    async def _look_at_agents(self) -> None:
        known: set[str] = set()
        for row in self._sources.agents.rows():
            key = f"agent/{row.fingerprint}"
            known.add(key)
            gone_ms = self._now() - (row.seen_at or self._started_at)
            if not row.is_connected and gone_ms >= self.settings.agent_gone_after_ms and self._is_due(key):
                await self._queue(self._of_agent(row.name, key, f"Agent {row.name} is gone", row.text))
            elif row.is_connected and key in self._log.state.problems:
                notice = self._of_agent(row.name, key, f"Agent {row.name} is back", row.text)
                await self._queue(msgspec.structs.replace(notice, is_resolved=True))
        await self._end_problems("agent/", known)

    def _of_agent(self, name: str, key: str, title: str, text: str) -> Notice:
        link = f"{self.settings.base_url}/servers" if self.settings.base_url else ""
        return Notice(
            id=0,
            kind="agent",
            key=key,
            at=self._now(),
            title=title,
            text=text,
            link=link,
            agent=name,
            command="waterflowctl agents",
        )

    async def _look_at_repositories(self) -> None:
        known: set[str] = set()
        for row in self._sources.repositories.status():
            key = f"repository/{row.name}"
            known.add(key)
            ready = next(each for each in row.conditions if each.type is ConditionType.READY)
            lasted_ms = self._now() - ready.since_at
            is_broken = ready.is_true is False and ready.code != codes.SUSPENDED
            if is_broken and lasted_ms >= self.settings.repository_broken_after_ms and self._is_due(key):
                await self._queue(self._of_repository(row, key, f"Repository {row.name} has a problem"))
            elif row.is_ready and key in self._log.state.problems:
                notice = self._of_repository(row, key, f"Repository {row.name} is ready again")
                await self._queue(msgspec.structs.replace(notice, is_resolved=True))
        await self._end_problems("repository/", known)

    def _of_repository(self, row: RepositoryRow, key: str, title: str) -> Notice:
        return Notice(
            id=0,
            kind="repository",
            key=key,
            at=self._now(),
            title=title,
            text=row.text,
            repository=row.name,
            command="waterflowctl repositories",
        )

    async def _end_problems(self, prefix: str, known: set[str]) -> None:
        ended = [key for key in self._log.state.problems if key.startswith(prefix) and key not in known]
        if ended:
            await self._record(lambda: [events.ProblemEnded(at=self._now(), key=key) for key in ended])

    # Recording

    def _is_due(self, key: str) -> bool:
        """Whether the problem is new, or was told so long ago that it is told again."""
        told_at = self._log.state.problems.get(key)
        return told_at is None or self._now() - told_at >= self.settings.remind_after_ms

    async def _queue(self, notice: Notice, seq: int | None = None) -> None:
        """Records the notice, with the position of its event, unless no channel could want it."""
        channels = await self._channels_of(notice.repository)
        wanted = tuple(channel.name for channel in channels if channel.wants(notice))
        if not wanted and not any(self._follows(channel, notice) for channel in channels):
            return

        def decide() -> list[events.Fact]:
            numbered = msgspec.structs.replace(notice, id=self._log.state.last_id + 1)
            facts: list[events.Fact] = [events.NoticeQueued(at=notice.at, notice=numbered, channels=wanted)]
            return [*facts, events.EventsRead(at=notice.at, seq=seq)] if seq is not None else facts

        await self._record(decide)

    @staticmethod
    def _follows(channel: Channel, notice: Notice) -> bool:
        """Whether the channel wants only the recovery from this failure, so that the failure must be remembered."""
        return notice.kind == "failure" and channel.wants(msgspec.structs.replace(notice, kind="recovery"))

    async def _record(self, decide: Callable[[], Sequence[events.Fact]]) -> None:
        await self._log.record(decide)

    def _now(self) -> int:
        return self._log.clock.now()
