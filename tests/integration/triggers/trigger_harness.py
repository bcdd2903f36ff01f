"""A daemon from Git to the log, for tests of what starts runs: real driver, engine, loops, and API listener."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from tests.integration.reconcile.reconciler_harness import RealCompiler
from tests.patience import PATIENCE_S
from waterflowd import ports
from waterflowd.access import events
from waterflowd.access.repository_quotas import RepositoryLimits, RepositoryQuotas
from waterflowd.access.tokens import TokenRegistry
from waterflowd.admin.metrics import DriverMetrics
from waterflowd.admin.repositories import GitRepositoryAdmin
from waterflowd.admin.runs import LogRunReader
from waterflowd.admin.webhooks import SignedWebhookService
from waterflowd.api.app import Api
from waterflowd.api.server import ApiServer
from waterflowd.api.services import Services
from waterflowd.engine import events as run_events
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.locks import Locks
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.gitsource.local import open_source
from waterflowd.host.driver import Driver
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory, LogOutputs
from waterflowd.host.live_state import LiveState
from waterflowd.host.queries import RunQueries
from waterflowd.host.stream_writer import LogStreamWriter
from waterflowd.host.timers import Timers
from waterflowd.model.ids import AUDIT
from waterflowd.model.records import RunFilter, RunSummary
from waterflowd.model.statuses import Status
from waterflowd.reconcile import events as repository_events
from waterflowd.reconcile.loop import LoopPorts, Reconciler
from waterflowd.reconcile.loop.plan_cache import PlanCache
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.testing.api import MemoryAgentAdmin, ScriptedAgents, WallClock
from waterflowd.testing.memory_outputs import MemoryOutputLogs
from waterflowd.time_slices import TimeSlices

UNIONS = {
    "run": run_events.RunEvent,
    "fleet": fleet_events.Fact,
    "repo": repository_events.Fact,
    "audit": events.Fact,
}
#: A job that needs no server.
NAP = "jobs: {j: {runs-on: web, steps: [{uses: sleep, with: {duration: 1ms}}]}}\n"
SECRET = "a secret of the hook"


class TriggerHarness:
    """One life of a daemon, over a log that survives it."""

    def __init__(
        self, log: ports.Journal, *settings: RepositorySettings, limits: Mapping[str, RepositoryLimits] | None = None
    ) -> None:
        self.log = log
        self.clock = WallClock()
        self.secrets = {"HOOK": SECRET}
        #: Milliseconds by which the wall clock of signatures is ahead of the machine's.
        self.ahead_ms = 0
        outputs, self.feed = MemoryOutputLogs(), Feed(log)
        fleet = ScriptedAgents(outputs, self.feed, self.clock)
        registry = Registry()
        self.quotas = RepositoryQuotas(own=limits, counter=log.counter)
        harness = LiveState(
            runs={},
            stalled={},
            placement=Placement(registry),
            locks=Locks(),
            registry=registry,
            timers=Timers(),
            quotas=self.quotas,
            epoch=log.generation,
        )
        queries = RunQueries(log)
        self.driver = fleet.driver = Driver(harness, log, fleet, self.clock, self.feed, queries)
        self.compiler = RealCompiler()
        time_slices = TimeSlices()
        history = LogHistory(log, self.feed, time_slices)
        loop_ports = LoopPorts(
            history=history,
            runs=self.driver,
            compiler=self.compiler,
            clock=self.clock,
            plans=PlanCache(history),
            random=lambda: 0.0,
            ends_of=lambda name: self.feed,
            wall=lambda: time.time_ns() // 1_000_000 + self.ahead_ms,
        )
        self.reconciler = Reconciler(settings, open_source, loop_ports)
        self.repositories = GitRepositoryAdmin(self.reconciler, self.quotas)
        tokens = TokenRegistry()
        self.services = Services(
            history=history,
            generation=log.generation,
            metrics=DriverMetrics(self.driver, dict),
            outputs=LogOutputs(outputs),
            runs=self.driver,
            feed=self.feed,
            compiler=self.compiler,
            validator=self.compiler,
            reader=LogRunReader(queries, self.driver, time_slices),
            agents=MemoryAgentAdmin(),
            repositories=self.repositories,
            webhooks=SignedWebhookService(loop_ports, self.reconciler.loops, self.secrets.get),
            clock=self.clock,
            time_slices=time_slices,
            tokens=tokens,
            token_writer=LogStreamWriter(self.driver, AUDIT, tokens.apply),
            version="0",
            started_at=self.clock.now(),
            listen="127.0.0.1:0",
            requests_per_s=0,
        )
        self.api = Api(self.services)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> TriggerHarness:
        self.driver.recover()
        self._tasks = [asyncio.create_task(self.driver.run()), asyncio.create_task(self.reconciler.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.api.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def sync(self, name: str = "ops") -> str | None:
        """Waits until everything that was pushed is applied."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reconciler.sync(name)

    async def until(self, holds: Callable[[], object]) -> None:
        """Waits for something that happens without further input."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110  The loop under test says nothing to tests.
                await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """Waits until all runs have completed and each trigger loop has read the whole log, so nothing more starts."""

        def is_settled() -> bool:
            loops = self.reconciler.loops.values()
            are_read = all(loop.repository.handled_runs_seq in (None, self.log.last_seq) for loop in loops)
            return are_read and not list(self.log.open_runs())

        await self.until(is_settled)

    def runs(self) -> list[RunSummary]:
        """The runs, oldest first."""
        rows, _ = self.log.runs(RunFilter(), before=None, limit=1_000)
        return rows[::-1]

    def paths(self, *, are_open: bool = True) -> list[str]:
        """The files of the runs, oldest first."""
        return [row.path for row in self.runs() if are_open or row.status is Status.COMPLETED]


@contextlib.asynccontextmanager
async def served(harness: TriggerHarness, tmp_path: Path) -> AsyncIterator[str]:
    """Serves the harness's API behind a real listener; yields its address."""
    server = ApiServer(harness.api, "127.0.0.1:0", tmp_path / "api.sock")
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.stop()
