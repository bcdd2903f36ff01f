"""The streams of repositories, as one daemon follows and changes them.

Rules of this file: what this daemon has recorded, it has folded when a method returns. Nothing here leads a repository; the
term of a leader comes from `leadership`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from temporalio.client import Client

from waterflow_agent.errors import Retryable
from waterflowd import ports
from waterflowd.model.ids import RunId, StreamName
from waterflowd.model.records import Record
from waterflowd.reconcile import codes, events
from waterflowd.temporal.repositories import ledger
from waterflowd.temporal.repositories.ledger import FACTS, DecidedRun, PreparedRun, RepositoryLedger
from waterflowd.temporal.repositories.repository_turns import PREFIX
from waterflowd.temporal.shared_streams.subscriber import StreamSubscriber
from waterflowd.temporal.shared_streams.writer import SharedStreamWriter

_logger = logging.getLogger("waterflow.temporal")

#: What every daemon may record; everything else is the leader's.
_ANY_DAEMON = (events.EmptyRepositorySeen, events.RepositorySuspended, events.RepositoryResumed)


class RepositoryStream:
    """The stream of one repository, or of the workflows that are sent to the API, whose name is empty."""

    def __init__(self, client: Client, name: str, clock: ports.Clock, seed: Callable[[str], list[bytes]]) -> None:
        async def begin() -> list[bytes]:
            return seed(name)

        self.name = name
        self.ledger = RepositoryLedger(name)
        #: The term in which this daemon leads the repository; None while it does not.
        self.term: int | None = None
        self._clock = clock
        self._changed = asyncio.Event()
        self._forgotten = 0
        summary = f"repository {name}" if name else "workflows that were sent to the API"
        self.subscriber = StreamSubscriber(
            client, f"{PREFIX}{name}", FACTS, fold=self._fold, clear=self.ledger.clear, seed=begin, summary=summary
        )
        self._writer = SharedStreamWriter(client, f"{PREFIX}{name}", FACTS, self.subscriber)

    def _fold(self, fact: Any) -> None:
        self.ledger.fold(fact)
        if self.ledger.forgotten > self._forgotten:
            if not self._forgotten:
                text = "repository %s: more than %d keys within 7 days; a repeat of the oldest ones starts another run"
                _logger.warning(text, self.name, ledger.KEYS_MAX, extra={"repository": self.name})
            self._forgotten = self.ledger.forgotten
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def next_change(self) -> asyncio.Event:
        """Is set when the ledger changes the next time."""
        return self._changed

    async def record(self, facts: Sequence[events.Fact], prepared: Sequence[PreparedRun] = ()) -> list[RunId]:
        """Records facts and decides runs; returns the runs' ids. Raises `Retryable` WF532 if another daemon leads."""
        identifier = secrets.token_hex(8)
        is_leaders = any(not isinstance(fact, _ANY_DAEMON) for fact in facts)
        if is_leaders and self.term is None:
            raise Retryable(codes.NOT_APPLIED_YET, f'another daemon leads the repository "{self.name}"')
        # A change that is decided again after the daemon has begun another term was decided by an old state.
        term = self.term if is_leaders else None
        await self._writer.append(lambda: self.ledger.decide(identifier, self._clock.now(), facts, prepared, term))
        return self.ledger.known_runs(prepared)

    async def lead(self, daemon: str) -> int:
        """Begins a term of this daemon; returns it. Raises `Retryable` WF532 if another one was faster."""
        identifier = secrets.token_hex(8)

        def decide() -> list[Any]:
            if self.ledger.leader_id == identifier:
                return []
            return [ledger.LeaderChosen(at=self._clock.now(), id=identifier, daemon=daemon)]

        await self._writer.append(decide)
        if self.ledger.leader_id != identifier:
            raise Retryable(codes.NOT_APPLIED_YET, f'daemon {self.ledger.leader} leads the repository "{self.name}"')
        return self.ledger.term

    async def request_reconciliation(self, daemon: str) -> None:
        """Tells the leader that there are changes."""
        before = self.ledger.requests

        def decide() -> list[Any]:
            if self.ledger.requests > before:
                # One of another daemon will do.
                return []
            return [ledger.ReconciliationRequested(at=self._clock.now(), daemon=daemon)]

        await self._writer.append(decide)

    async def runs_are_started(self, runs: Sequence[RunId]) -> None:
        """Records that decided runs exist."""

        def decide() -> list[Any]:
            found = tuple(run for run in runs if run in self.ledger.unstarted)
            return [ledger.RunsStarted(at=self._clock.now(), runs=found)] if found else []

        await self._writer.append(decide)


class RepositoryStreams:
    """All of them. `run` must run while they are used."""

    def __init__(
        self, client: Client, names: Sequence[str], clock: ports.Clock, seed: Callable[[str], list[bytes]]
    ) -> None:
        """`names` are those of the configuration; `seed` gives the facts with which a stream begins."""
        self._client = client
        self._clock = clock
        self._seed = seed
        self._streams = {name: self._make(name) for name in ("", *names)}
        self._new = asyncio.Event()

    def _make(self, name: str) -> RepositoryStream:
        return RepositoryStream(self._client, name, self._clock, self._seed)

    def of(self, repository: str | None) -> RepositoryStream:
        """The stream of a repository, also of one that is no longer in the configuration; None for the API's workflows."""
        name = repository or ""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = self._make(name)
            self._new.set()
        return found

    def of_stream(self, stream: StreamName) -> RepositoryStream | None:
        """The stream with this id; None if it is not that of a repository."""
        return self.of(stream.removeprefix(PREFIX)) if stream.startswith(PREFIX) else None

    def unstarted(self, run: RunId) -> DecidedRun | None:
        """The decided run, if it has perhaps not been started yet."""
        found = (stream.ledger.unstarted.get(run) for stream in self._streams.values())
        return next((run for run in found if run is not None), None)

    async def run(self) -> None:
        """Follows all streams until it is cancelled."""
        followed: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._new.clear()
                for name in [name for name in self._streams if name not in followed]:
                    followed.add(name)
                    tasks.create_task(self._streams[name].subscriber.run(), name=f"stream of repository {name}")
                await self._new.wait()


class EndedRuns:
    """The ends of the runs of one repository. Implements `ports.RunEnds`."""

    def __init__(self, stream: RepositoryStream) -> None:
        self._stream = stream

    def read(self, after: int, limit: int) -> list[Record]:
        """See the port."""
        return self._stream.ledger.ended_after(after, limit)

    async def everything(self, after: int) -> AsyncIterator[Record]:
        """See the port."""
        while True:
            change = self._stream.next_change
            for record in self.read(after, 100):
                after = record.seq
                yield record
            if not self.read(after, 1):
                await change.wait()
