"""Child runs on Temporal's real server: started once, awaited, cancelled, and shown while they cannot start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from temporalio.client import Client
from temporalio.worker import Replayer

from tests.integration.temporal.gateway import Gateway
from tests.integration.temporal.server import Namespace
from tests.lease_terms import TERMS
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Retryable
from waterflowd.access.policy import AccessPolicy
from waterflowd.dsl import compile_workflow
from waterflowd.engine import Run, events
from waterflowd.host.history import LogHistory
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import RunFilter, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion
from waterflowd.temporal.coordination.child_run_activities import ChildRunActivities
from waterflowd.temporal.reading.history import TemporalHistory
from waterflowd.temporal.reading.run_reader import TemporalRunReader
from waterflowd.temporal.repositories.repository_turns import RepositoryTurns
from waterflowd.temporal.repositories.streams import RepositoryStreams
from waterflowd.temporal.run_turns import PREFIX, RunTurns
from waterflowd.temporal.runs import TemporalRuns
from waterflowd.temporal.streams import StreamTurns, take_turns
from waterflowd.temporal.workflow import shell
from waterflowd.testing.host import HostHarness
from waterflowd.time_slices import TimeSlices

PATH = "workflows/parent.yml"
FILES = {
    "workflows/other.yml": "{on: workflow_call, jobs: {b: {runs-on: web, steps: [{run: x}]}}}",
    PATH: "jobs: {a: {runs-on: web, steps: [{id: other, uses: workflow/run, with: {workflow: other.yml}}]}}",
}


@dataclass
class Daemon:
    """What a daemon has for runs, with a gateway without agents."""

    client: Client
    host: HostHarness
    runs: TemporalRuns
    history: TemporalHistory
    reader: TemporalRunReader
    gateway: Gateway

    async def start(self) -> RunId:
        """Starts the parent."""
        compiled = compile_workflow(PATH, FILES[PATH].encode(), {path: text.encode() for path, text in FILES.items()})
        assert compiled.plan is not None, compiled.diagnostics
        trigger = Trigger(kind=TriggerKind.CLI, by="ann", principal="ann", scope=("web",))
        request = StartRequest(plan=compiled.plan, repository="ops", revision="c1", trigger=trigger)
        return (await self.runs.start(request)).id

    async def child(self, parent: RunId) -> RunId:
        """The child run that the parent's step waits for."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for event in await self.events(parent):
                    if isinstance(event, events.ChildRunStarted):
                        return event.run
                await asyncio.sleep(0.05)

    async def events(self, run: RunId) -> list[events.RunEvent]:
        """What was recorded of a run."""
        return [record.event for record in await self.history.read(run_stream(run))]

    async def others(self, run: RunId) -> list[RunId]:
        """All runs but this one."""
        rows, _ = await self.history.runs(RunFilter(), limit=10)
        return [row.id for row in rows if row.id != run]

    async def ended(self, run: RunId) -> Run:
        """The run once its stream has ended."""
        async with asyncio.timeout(PATIENCE_S):
            await self.client.get_workflow_handle(run_stream(run)).result()
        found = await self.reader.run(run)
        assert found is not None
        return found


@asynccontextmanager
async def running(namespace: Namespace) -> AsyncIterator[Daemon]:
    """A daemon."""
    async with HostHarness() as host:
        host.workflows.files = FILES
        client = await namespace.client()
        turns = RunTurns(host.registry, host.state.placement, AccessPolicy(), lost_after_ms=60_000, terms=TERMS)
        streams = RepositoryStreams(client, [], host.clock, lambda name: [])
        history = TemporalHistory(client, LogHistory(host.log, host.feed, TimeSlices()), streams)
        reader = TemporalRunReader(history.streams, turns.failing, lambda: "")
        runs = TemporalRuns(client, host.driver, history, streams)
        activities = ChildRunActivities(client, runs, reader, host.workflows)
        all_turns = StreamTurns({PREFIX: turns, "repo/": RepositoryTurns()})
        tasks = [asyncio.create_task(take_turns(client, all_turns, activities.all)), asyncio.create_task(streams.run())]
        gateway = Gateway()
        try:
            async with gateway.running(client):
                yield Daemon(client, host, runs, history, reader, gateway)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_step_ends_with_its_child_run(namespace: Namespace) -> None:
    """A repository that cannot be read at first is shown as the step's reason; then the run starts once, and is awaited."""
    async with running(namespace) as daemon:
        daemon.host.workflows.fail_next(Retryable("WF503", "the repository cannot be read", after_s=0.1))
        parent = await daemon.start()
        child = await daemon.child(parent)
        await daemon.gateway.has_begun(1)
        daemon.gateway.is_open.set()
        assert (await daemon.ended(child)).conclusion is Conclusion.SUCCESS
        run = await daemon.ended(parent)
        assert run.conclusion is Conclusion.SUCCESS
        waits = [event.reason.text for event in await daemon.events(parent) if isinstance(event, events.AttemptWaiting)]
        assert waits == ["cannot start the child run yet: the repository cannot be read"]
        assert len(daemon.gateway.tasks) == 1
        started = await daemon.reader.run(child)
        assert started is not None
        assert (started.trigger.principal, started.trigger.scope) == ("ann", ("web",))
        for name in (parent, child):
            history = await daemon.client.get_workflow_handle(run_stream(name)).fetch_history()
            replayer = Replayer(workflows=[shell.Stream], data_converter=daemon.client.data_converter)
            await replayer.replay_workflow(history)


async def test_a_cancel_reaches_the_child_run(namespace: Namespace) -> None:
    """The parent ends after it, and both are cancelled."""
    async with running(namespace) as daemon:
        parent = await daemon.start()
        child = await daemon.child(parent)
        await daemon.gateway.has_begun(1)
        await daemon.runs.cancel(parent, "ada")
        assert (await daemon.ended(child)).cancel_by == f"run {parent}"
        assert (await daemon.ended(parent)).conclusion is Conclusion.CANCELLED


async def test_a_start_that_was_withdrawn_leaves_nothing(namespace: Namespace) -> None:
    """The parent is cancelled while its workflow is being compiled: the child run, once it exists, is cancelled too."""
    async with running(namespace) as daemon:
        may_compile, compiles = asyncio.Event(), asyncio.Event()
        plan = daemon.host.workflows.plan

        async def slow(repository: str, revision: str, path: str) -> bytes:
            compiles.set()
            await may_compile.wait()
            return await plan(repository, revision, path)

        daemon.host.workflows.plan = slow  # type: ignore[method-assign]
        parent = await daemon.start()
        async with asyncio.timeout(PATIENCE_S):
            await compiles.wait()
        await daemon.runs.cancel(parent, "ada")
        assert (await daemon.ended(parent)).conclusion is Conclusion.CANCELLED
        may_compile.set()
        async with asyncio.timeout(PATIENCE_S):
            while not (children := await daemon.others(parent)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (await daemon.ended(children[0])).cancel_by == f"run {parent}"
