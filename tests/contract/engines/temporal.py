"""The engine on Temporal's real server: turns, gateways, locks and child runs as a daemon composes them.

Time is real, so tests use short times, and wait for what must happen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import WorkflowExecutionStatus

from tests.contract.engines.engine import Fact, Kind, PlayedAgent, request
from tests.integration.temporal import gateway_harness as harness
from tests.integration.temporal.server import Namespace
from tests.lease_terms import TERMS
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages as wire
from waterflow_agent.wire.messages import TaskId
from waterflowd.access.policy import AccessPolicy
from waterflowd.engine import Run
from waterflowd.engine.events import RunCompleted, RunEvent
from waterflowd.host.history import LogHistory
from waterflowd.model.ids import JobId, RunId, StepId, run_stream
from waterflowd.model.records import RunSummary
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders, run_turns
from waterflowd.temporal.coordination import lock_turns
from waterflowd.temporal.coordination.child_run_activities import ChildRunActivities
from waterflowd.temporal.coordination.lock_activities import LockActivities
from waterflowd.temporal.coordination.lock_turns import LockTurns
from waterflowd.temporal.reading.history import TemporalHistory
from waterflowd.temporal.reading.run_reader import TemporalRunReader
from waterflowd.temporal.repositories import repository_turns
from waterflowd.temporal.repositories.repository_turns import RepositoryTurns
from waterflowd.temporal.repositories.streams import RepositoryStreams
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.runs import TemporalRuns
from waterflowd.temporal.streams import StreamTurns, take_turns
from waterflowd.temporal.workflow import messages
from waterflowd.testing.host import HostHarness
from waterflowd.time_slices import TimeSlices

Found = TypeVar("Found")
#: Tests of other things never lose an attempt on a busy machine.
LOST_AFTER_MS = 600_000
_POLL_S = 0.02


class TemporalEngine:
    """Implements `ReadingEngine`."""

    lease_ms = TERMS.lease_ms

    def __init__(self, namespace: Namespace, lost_after_ms: int) -> None:
        self.lost_after_ms = lost_after_ms
        self._namespace = namespace
        self._host = HostHarness()
        self._agent = PlayedAgent()
        self._new: list[TaskId] = []
        self._files: dict[str, str] = {}
        self._runs: list[RunId] = []
        self._stack = AsyncExitStack()

    @classmethod
    @asynccontextmanager
    async def running(cls, namespace: Namespace, lost_after_ms: int = LOST_AFTER_MS) -> AsyncIterator[TemporalEngine]:
        """A daemon with an agent."""
        made = cls(namespace, lost_after_ms)
        await made._open()
        yield made
        await made._stack.aclose()

    async def _open(self) -> None:
        self._stack = AsyncExitStack()
        host = await self._stack.enter_async_context(self._host)
        host.workflows.files = self._files
        client = await self._namespace.client()
        cluster = harness.Cluster(self._namespace, client)
        cluster.enroll("web-1", "web")
        self._daemon = await self._stack.enter_async_context(harness.Daemon.running(cluster))
        turns = RunTurns(
            cluster.registry, self._daemon.placement, AccessPolicy(), lost_after_ms=self.lost_after_ms, terms=TERMS
        )
        repositories = RepositoryStreams(client, [], host.clock, lambda name: [])
        self.history = TemporalHistory(client, LogHistory(host.log, host.feed, TimeSlices()), repositories)
        self.reader = TemporalRunReader(self.history.streams, turns.failing, lambda: "")
        self.runs = TemporalRuns(client, host.driver, self.history, repositories)
        activities = [
            *LockActivities(client).all,
            *ChildRunActivities(client, self.runs, self.reader, host.workflows).all,
        ]
        engines: dict[str, messages.Turn] = {
            run_turns.PREFIX: turns,
            lock_turns.PREFIX: LockTurns(),
            repository_turns.PREFIX: RepositoryTurns(),
        }
        work = [take_turns(client, StreamTurns(engines), activities), repositories.run()]
        self._tasks = [asyncio.create_task(each) for each in work]
        self._stack.push_async_callback(self._end_tasks)
        self._client = client
        await self.come_back()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Requests -----------------------------------------------------------------------------------------------------------

    async def start(self, workflow: str, *, key: str | None = None, files: Mapping[str, str] | None = None) -> RunId:
        self._files.update(files or {})
        row = await self._answer(lambda: self.runs.start(request(workflow, key, files or {})))
        self._runs.append(row.id)
        return row.id

    async def cancel(self, run: RunId, *, is_forced: bool = False) -> None:
        await self._answer(lambda: self.runs.cancel(run, "somebody", is_forced=is_forced))

    async def decide(self, run: RunId, by: str, *, is_approved: bool) -> None:
        await self._rest()
        await self.runs.decide(run, JobId("a"), StepId("ask"), by, is_approved=is_approved)

    async def _answer(self, call: Callable[[], Awaitable[Found]]) -> Found:
        """What Temporal answers; a busy server may need a second request, which changes nothing."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    return await call()
                except Retryable:
                    await asyncio.sleep(_POLL_S)

    async def retry(self, run: RunId) -> None:
        await self._client.get_workflow_handle(run_stream(run)).signal(messages.RETRY_SIGNAL)

    async def restart(self) -> None:
        await self._daemon.kill()
        await self._stack.aclose()
        self._host = self._host.crashed()
        await self._open()

    async def advance(self, duration_ms: int) -> None:
        # Nothing else says that time has passed.
        await asyncio.sleep(duration_ms / 1000)

    # The agent ----------------------------------------------------------------------------------------------------------

    async def offers(self, count: int) -> list[TaskId]:
        await self._until(lambda: len(self._taken()) >= count, f"{count} offers")
        await self._rest()
        found, self._new = self._taken(), []
        assert len(found) == count, found
        return found

    def _taken(self) -> list[TaskId]:
        self._new += self._agent.take()
        return self._new

    async def stops(self, count: int) -> list[wire.Cancel]:
        def has_them() -> bool:
            self._taken()
            return len(self._agent.stops) >= count

        await self._until(has_them, f"{count} stops")
        await self._rest()
        assert len(self._agent.stops) == count, self._agent.stops
        return self._agent.stops

    async def started(self, task: TaskId) -> None:
        self._agent.started(task, self.now())

    async def finish(self, task: TaskId, outcome: Outcome = Outcome.SUCCESS, **outputs: str) -> None:
        self._agent.finish(task, self.now(), outcome, outputs)
        if self._agent.is_connected:
            await self._until(lambda: self._agent.is_done, "the daemon to confirm the report")

    async def leave(self) -> None:
        self._agent.disconnect()

    async def come_back(self, *, forgets: bool = False) -> None:
        self._agent.connect(self._daemon.agents, self._daemon.link, forgets=forgets)
        await self._until(lambda: self._agent.is_done, "the daemon to confirm the reports")

    # Observations -------------------------------------------------------------------------------------------------------

    async def facts(self, run: RunId) -> list[Fact[RunEvent]]:
        await self._rest()
        return await self._facts(run)

    async def _facts(self, run: RunId) -> list[Fact[RunEvent]]:
        records = await self._answer(lambda: self.history.read(run_stream(run)))
        return [Fact(record.at, record.event) for record in records]

    async def run(self, run: RunId) -> Run:
        await self._rest()
        found = await self._answer(lambda: self.reader.run(run))
        assert found is not None
        return found

    async def recorded(self, run: RunId, kind: type[Kind]) -> Fact[Kind]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for fact in await self._facts(run):
                    if (found := fact.of(kind)) is not None:
                        return found
                await asyncio.sleep(_POLL_S)

    async def ended(self, run: RunId) -> Run:
        await self.recorded(run, RunCompleted)
        if self._agent.is_connected:
            # The workflow ends when the agent has been told; without it a minute later.
            async with asyncio.timeout(PATIENCE_S):
                await self._client.get_workflow_handle(run_stream(run)).result()
        return await self.run(run)

    async def stalls(self, run: RunId) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await self.history.stalled(run):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    async def row(self, run: RunId) -> RunSummary | None:
        return await self._answer(lambda: self.history.run(run))

    # Rest -----------------------------------------------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        await harness.until(condition, what)

    async def _rest(self) -> None:
        """Waits until only timers are left, and the attempts that the agent has."""
        async with asyncio.timeout(PATIENCE_S):
            while not all([await self._is_at_rest(run_stream(run)) for run in self._runs]):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)

    async def _is_at_rest(self, stream: str) -> bool:
        described = await self._client.get_workflow_handle(stream).describe()
        if described.status is not WorkflowExecutionStatus.RUNNING:
            return True
        pending = described.raw_description
        return not pending.HasField("pending_workflow_task") and all(map(self._is_waiting, pending.pending_activities))

    def _is_waiting(self, activity: PendingActivityInfo) -> bool:
        """Whether an activity waits for the agent."""
        is_scheduled = activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
        if not self._agent.is_connected:
            return is_scheduled
        self._taken()
        running = {
            orders.task_activity(task, self._agent.id) for task in self._agent.held if self._agent.is_running(task)
        }
        return activity.activity_id in running and not is_scheduled
