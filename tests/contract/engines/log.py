"""The engine with an event log, on LMDB or in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.contract.engines.engine import Fact, Kind, PlayedAgent, request
from waterflow_agent.wire import messages as wire
from waterflow_agent.wire.messages import TaskId
from waterflowd import ports
from waterflowd.admin.runs import LogRunReader
from waterflowd.engine import Run
from waterflowd.engine.events import RunEvent
from waterflowd.engine.rules import leases
from waterflowd.host.history import LogHistory
from waterflowd.model.ids import JobId, RunId, StepId, run_stream
from waterflowd.model.records import RunSummary
from waterflowd.model.statuses import Outcome
from waterflowd.store.opening import open_store
from waterflowd.testing.host import LOST_AFTER_MS, HostHarness, codec
from waterflowd.time_slices import TimeSlices

#: A child run is started by a task of its own, after some passes of the driver.
_PASSES = 10


class LogEngine:
    """Implements `ReadingEngine`."""

    lost_after_ms = LOST_AFTER_MS
    lease_ms = leases.lease_ms(LOST_AFTER_MS)

    def __init__(self, log: Any, reopen: Callable[[], Any]) -> None:
        self._reopen = reopen
        self.host = HostHarness(log)
        self._agent = PlayedAgent()
        self._files: dict[str, str] = {}
        self._away_ms = 0

    @classmethod
    @asynccontextmanager
    async def in_memory(cls) -> AsyncIterator[LogEngine]:
        """Without a disk."""
        made = cls(None, lambda: made.host.log.reopened())
        await made._open()
        yield made
        await made.host.__aexit__(None)

    @classmethod
    @asynccontextmanager
    async def on_lmdb(cls, folder: Path) -> AsyncIterator[LogEngine]:
        """With a data directory."""
        stores = [open_store(folder, codec())]

        def reopen() -> Any:
            stores[-1].close()
            stores.append(open_store(folder, codec()))
            return stores[-1].log

        made = cls(stores[-1].log, reopen)
        await made._open()
        yield made
        await made.host.__aexit__(None)
        stores[-1].close()

    async def _open(self) -> None:
        self.host.workflows.files = self._files
        self.host.enroll("web-1", "web")
        await self.host.__aenter__()
        await self.come_back()

    # Requests -----------------------------------------------------------------------------------------------------------

    async def start(self, workflow: str, *, key: str | None = None, files: Mapping[str, str] | None = None) -> RunId:
        self._files.update(files or {})
        summary = await self.host.driver.start(request(workflow, key, files or {}))
        await self.host.settle()
        return summary.id

    async def cancel(self, run: RunId, *, is_forced: bool = False) -> None:
        await self.host.driver.cancel(run, "somebody", is_forced=is_forced)
        await self.host.settle()

    async def decide(self, run: RunId, by: str, *, is_approved: bool) -> None:
        await self.host.driver.decide(run, JobId("a"), StepId("ask"), by, is_approved=is_approved)
        await self.host.settle()

    async def retry(self, run: RunId) -> None:
        # A daemon that starts folds all open runs.
        await self.restart()

    async def restart(self) -> None:
        clock = self.host.clock
        await self.host.__aexit__(None)
        self.host = HostHarness(self._reopen(), clock)
        await self._open()

    async def advance(self, duration_ms: int) -> None:
        if not self._agent.is_connected:
            self._away_ms += duration_ms
            agents = self.host.agents
            agents._away_since[self._agent.id] = asyncio.get_running_loop().time() - self._away_ms / 1000
            agents._give_up(self._agent.id)
        await self.host.advance(duration_ms)

    # The agent ----------------------------------------------------------------------------------------------------------

    async def offers(self, count: int) -> list[TaskId]:
        found: list[TaskId] = []
        for _ in range(_PASSES):
            await self.host.settle()
            found += self._agent.take()
            if found and len(found) == count:
                break
        assert len(found) == count, found
        return found

    async def stops(self, count: int) -> list[wire.Cancel]:
        await self.host.settle()
        assert not self._agent.take()
        assert len(self._agent.stops) == count, self._agent.stops
        return self._agent.stops

    async def started(self, task: TaskId) -> None:
        self._agent.started(task, self.now())
        await self.host.settle()

    async def finish(self, task: TaskId, outcome: Outcome = Outcome.SUCCESS, **outputs: str) -> None:
        self._agent.finish(task, self.now(), outcome, outputs)
        await self.host.settle()

    async def leave(self) -> None:
        self._away_ms = 0
        self._agent.disconnect()
        await self.host.settle()

    async def come_back(self, *, forgets: bool = False) -> None:
        self._agent.connect(self.host.agents, self.host.link, forgets=forgets)
        await self.host.settle()

    # Observations -------------------------------------------------------------------------------------------------------

    async def facts(self, run: RunId) -> list[Fact[RunEvent]]:
        await self.host.settle()
        return [Fact(record.at, record.event) for record in self.host.log.read(run_stream(run))]

    async def run(self, run: RunId) -> Run:
        await self.host.settle()
        return self.host.queries.run(run)

    async def recorded(self, run: RunId, kind: type[Kind]) -> Fact[Kind]:
        return next(found for found in (fact.of(kind) for fact in await self.facts(run)) if found is not None)

    async def ended(self, run: RunId) -> Run:
        found = await self.run(run)
        assert found.is_completed, await self.facts(run)
        return found

    async def stalls(self, run: RunId) -> None:
        assert run in self.host.state.stalled

    def now(self) -> int:
        return self.host.clock.now()

    @property
    def history(self) -> ports.History:
        return LogHistory(self.host.log, self.host.feed, TimeSlices())

    @property
    def reader(self) -> LogRunReader:
        return LogRunReader(self.host.queries, self.host.driver, TimeSlices())

    async def row(self, run: RunId) -> RunSummary | None:
        return self.host.log.run(run)
