"""Runs on Temporal's real server: started, requested, read and listed as a daemon does it, with a gateway without agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.worker import Replayer

from tests.integration.temporal.gateway import AGENT, Gateway
from tests.integration.temporal.server import Namespace
from tests.lease_terms import TERMS
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.access.policy import AccessPolicy
from waterflowd.engine import Run, events
from waterflowd.host.history import LogHistory
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import RunFilter, RunSummary
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.temporal.reading.history import TemporalHistory
from waterflowd.temporal.reading.run_reader import TemporalRunReader
from waterflowd.temporal.repositories.repository_turns import RepositoryTurns
from waterflowd.temporal.repositories.streams import RepositoryStreams
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.runs import TemporalRuns
from waterflowd.temporal.streams import StreamTurns, take_turns
from waterflowd.temporal.workflow import shell
from waterflowd.testing.host import HostHarness, request
from waterflowd.testing.scenario import dump
from waterflowd.time_slices import TimeSlices

Found = TypeVar("Found")
TWO = "jobs: {a: {runs-on: web, steps: [{run: x}, {run: y}]}, b: {runs-on: web, steps: [{run: z}]}}"
APPROVAL = "jobs: {a: {runs-on: web, steps: [{uses: approval, with: {approvers: [ada]}}]}}"


async def until(read: Callable[[], Awaitable[Found | None]]) -> Found:
    """What `read` returns, once it is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await read()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


@dataclass
class Daemon:
    """What a daemon has for the runs."""

    client: Client
    host: HostHarness
    runs: TemporalRuns
    history: TemporalHistory
    reader: TemporalRunReader
    turns: RunTurns
    streams: RepositoryStreams

    async def wait_for(self, run: RunId, condition: Callable[[RunSummary], bool]) -> RunSummary:
        """The row once it fulfils the condition."""

        async def read() -> RunSummary | None:
            row = await self.history.run(run)
            return row if row is not None and condition(row) else None

        return await until(read)

    async def completed(self, run: RunId) -> RunSummary:
        """The row once the run has completed."""
        return await self.wait_for(run, lambda row: row.status is Status.COMPLETED)


@asynccontextmanager
async def running(namespace: Namespace, host: HostHarness) -> AsyncIterator[Daemon]:
    """A daemon whose other streams are in `host`."""
    client = await namespace.client()
    turns = RunTurns(host.registry, host.state.placement, AccessPolicy(), lost_after_ms=60_000, terms=TERMS)
    streams = RepositoryStreams(client, [], host.clock, lambda name: [])
    history = TemporalHistory(client, LogHistory(host.log, host.feed, TimeSlices()), streams)
    reader = TemporalRunReader(history.streams, turns.failing, lambda: "")
    work = [take_turns(client, StreamTurns({"run/": turns, "repo/": RepositoryTurns()})), streams.run()]
    tasks = [asyncio.create_task(each) for each in work]
    try:
        runs = TemporalRuns(client, host.driver, history, streams)
        yield Daemon(client, host, runs, history, reader, turns, streams)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def daemon(namespace: Namespace) -> AsyncIterator[Daemon]:
    """A daemon, which is running."""
    async with HostHarness() as host, running(namespace, host) as made:
        yield made


@pytest.fixture
async def gateway(daemon: Daemon) -> AsyncIterator[Gateway]:
    """A gateway, whose steps end at once."""
    made = Gateway()
    made.is_open.set()
    async with made.running(daemon.client):
        yield made


async def test_a_run_is_started_carried_out_and_read(daemon: Daemon, gateway: Gateway) -> None:
    """Its row, events and state are those of the log engine; each attempt was carried out once, and the jobs released."""
    started = await daemon.runs.start(request(TWO))
    assert (started.number, started.status) == (1, Status.RUNNING)
    row = await daemon.completed(started.id)

    assert row.conclusion is Conclusion.SUCCESS
    assert sorted(str(order.draft.task.key.attempt.job) for order in gateway.tasks) == ["a", "a", "b"]
    stream = run_stream(started.id)
    records = await daemon.history.read(stream)
    assert [record.position for record in records] == list(range(1, len(records) + 1))
    assert isinstance(records[0].event, events.RunCreated)
    assert isinstance(records[-1].event, events.RunCompleted)
    assert await daemon.history.read(stream, 2, 1) == records[1:2]
    assert await daemon.history.head(stream) == row.seq == len(records)
    run = await daemon.reader.run(started.id)
    assert run is not None
    assert run.conclusion is Conclusion.SUCCESS
    first = await daemon.reader.run(started.id, 1)
    assert first is not None
    assert first.seq == 1
    assert await daemon.reader.run(started.id, len(records) + 1) is None
    await daemon.client.get_workflow_handle(stream).result()
    assert sorted(order.job for order in gateway.releases) == ["a", "b"]
    assert {order.agent for order in gateway.releases} == {AGENT}
    # Read from memory, because nothing changes now.
    again = await daemon.reader.run(started.id)
    assert again is not None
    assert dump(again) == dump(run)
    history = await daemon.client.get_workflow_handle(stream).fetch_history()
    await Replayer(workflows=[shell.Stream], data_converter=daemon.client.data_converter).replay_workflow(history)


@pytest.mark.slow
async def test_a_long_run_continues_as_new_executions(daemon: Daemon, gateway: Gateway) -> None:
    """In the middle of attempts: each is carried out once, readers miss nothing, and every execution replays."""
    jobs = ", ".join(f"j{job}: {{runs-on: web, steps: [{', '.join(['{run: x}'] * 100)}]}}" for job in range(6))
    row = await daemon.runs.start(request(f"jobs: {{{jobs}}}"))
    stream = run_stream(row.id)
    followed = []
    async with asyncio.timeout(5 * PATIENCE_S):
        async for record in daemon.history.follow(stream, 0):
            followed.append(record)
            if isinstance(record.event, events.RunCompleted):
                break

    assert (await daemon.history.run(row.id)) is not None
    assert followed == await daemon.history.read(stream)
    assert followed[-1].event.conclusion is Conclusion.SUCCESS
    attempts = [order.draft.task.key for order in gateway.tasks]
    assert len(set(attempts)) == 600
    replayer = Replayer(workflows=[shell.Stream], data_converter=daemon.client.data_converter)
    executions = []
    execution: str | None = None
    while execution is None or execution:
        history = await daemon.client.get_workflow_handle(stream, run_id=execution).fetch_history()
        await replayer.replay_workflow(history)
        executions.append(history)
        execution = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    assert len(executions) >= 2


async def test_a_reader_follows_a_run(daemon: Daemon, gateway: Gateway) -> None:
    """Every record once, in order, from where the reader begins."""
    gateway.is_open.clear()
    row = await daemon.runs.start(request(TWO))
    stream = run_stream(row.id)
    found = []
    async with asyncio.timeout(PATIENCE_S):
        async for record in daemon.history.follow(stream, 1):
            found.append(record)
            gateway.is_open.set()
            if isinstance(record.event, events.RunCompleted):
                break
    assert found == (await daemon.history.read(stream))[1:]


async def test_a_repeated_key_starts_one_run(daemon: Daemon, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the daemon ended between the decision and the start: the run then gets the id that was decided."""

    async def crash(decided: object) -> None:
        raise RuntimeError("the daemon ends")

    with monkeypatch.context() as patched:
        patched.setattr(daemon.runs, "start_decided", crash)
        with pytest.raises(RuntimeError, match="the daemon ends"):
            await daemon.runs.start(request(key="deploy"))
    [decided] = daemon.streams.of(None).ledger.unstarted
    assert await daemon.history.run(decided) is None

    again = await asyncio.gather(*(daemon.runs.start(request(key="deploy")) for _ in range(3)))

    assert {(row.id, row.number) for row in again} == {(decided, 1)}
    assert await daemon.history.run_for_key("deploy", None) == decided
    await daemon.completed(decided)
    assert (await daemon.runs.start(request(key="deploy"))).conclusion is Conclusion.SUCCESS
    assert len(gateway.tasks) == 1


async def test_two_daemons_start_one_run_for_a_key(namespace: Namespace) -> None:
    """At the same time; and runs of both are counted together."""
    async with HostHarness() as one, HostHarness() as other:
        gateway = Gateway()
        gateway.is_open.set()
        async with (
            running(namespace, one) as first,
            running(namespace, other) as second,
            gateway.running(first.client),
        ):
            starts = [daemon.runs.start(request(key="deploy")) for daemon in (first, second) for _ in range(3)]
            rows = await asyncio.gather(*starts)
            assert {(row.id, row.number) for row in rows} == {(rows[0].id, 1)}
            numbers = [(await daemon.runs.start(request())).number for daemon in (first, second, first)]
            assert numbers == [2, 3, 4]


async def test_a_key_starts_nothing_after_temporal_has_deleted_the_run(daemon: Daemon, gateway: Gateway) -> None:
    """Its retention ends, but the key is remembered: a client gets an error."""
    row = await daemon.runs.start(request(key="deploy"))
    await daemon.completed(row.id)
    await daemon.streams.of(None).runs_are_started([row.id])
    execution = WorkflowExecution(workflow_id=run_stream(row.id))
    await daemon.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(namespace=daemon.client.namespace, workflow_execution=execution)
    )

    async def is_gone() -> bool:
        return await daemon.history.run(row.id) is None

    await until(is_gone)
    with pytest.raises(Rejected, match="which Temporal no longer keeps; use a new key") as refused:
        await daemon.runs.start(request(key="deploy"))
    assert refused.value.code == "WF606"
    assert await daemon.history.run(row.id) is None


async def test_requests_are_answered_or_refused(daemon: Daemon, gateway: Gateway) -> None:
    """With the codes of the log engine."""
    row = await daemon.runs.start(request(APPROVAL))

    async def waits() -> Run | None:
        found = await daemon.reader.run(row.id)
        return found if found is not None and found.jobs[0].open_approvals else None

    found = await until(waits)
    job, step = found.jobs[0].id, next(iter(found.jobs[0].steps_by_id))

    with pytest.raises(Rejected, match="eve may not approve this") as refused:
        await daemon.runs.decide(row.id, job, step, "eve", is_approved=True)
    assert (refused.value.code, refused.value.status) == ("WF602", 403)
    assert (await daemon.runs.decide(row.id, job, step, "ada", is_approved=True)).conclusion is Conclusion.SUCCESS
    await daemon.client.get_workflow_handle(run_stream(row.id)).result()
    with pytest.raises(Rejected, match="already completed") as late:
        await daemon.runs.cancel(row.id, "ada")
    assert late.value.code == "WF606"
    with pytest.raises(Rejected, match="there is no run") as unknown:
        await daemon.runs.cancel(RunId("0" * 26), "ada")
    assert unknown.value.code == "WF604"


async def test_a_cancel_reaches_the_server(daemon: Daemon, gateway: Gateway) -> None:
    """The attempt is stopped, and the run is cancelled."""
    gateway.is_open.clear()
    row = await daemon.runs.start(request())
    await gateway.has_begun(1)
    await daemon.runs.cancel(row.id, "ada")

    assert (await daemon.completed(row.id)).conclusion is Conclusion.CANCELLED
    assert [order.task for order in gateway.cancels] == [gateway.tasks[0].draft.task.key]


async def test_runs_are_listed(daemon: Daemon, gateway: Gateway) -> None:
    """By status and page, newest first; visibility is a moment late."""
    rows = [await daemon.runs.start(request(TWO)) for _ in range(3)]
    for row in rows:
        await daemon.completed(row.id)
    open_ = await daemon.runs.start(request(APPROVAL))
    newest = sorted((row.id for row in rows), reverse=True)

    async def expect(read: Callable[[], Awaitable[object]], expected: object) -> None:
        async def is_expected() -> bool:
            return await read() == expected

        await until(is_expected)

    async def ids_(selected: RunFilter, before: RunId | None = None, limit: int = 10) -> tuple[list[RunId], object]:
        found, following = await daemon.history.runs(selected, before=before, limit=limit)
        return [row.id for row in found], following

    await expect(lambda: ids_(RunFilter(status="success")), (newest, None))
    await expect(lambda: ids_(RunFilter(status="success"), limit=2), (newest[:2], newest[1]))
    await expect(lambda: ids_(RunFilter(status="success"), before=newest[1]), (newest[2:], None))
    await expect(lambda: ids_(RunFilter()), (sorted([open_.id, *newest], reverse=True), None))
    await expect(lambda: ids_(RunFilter(path="no 'such' path")), ([], None))

    async def open_runs() -> list[RunId]:
        return [row.id for row in await daemon.history.open_runs(10)]

    await expect(open_runs, [open_.id])
    assert await daemon.history.runs_by_prefix(newest[0][:24].lower(), 10)
    assert await daemon.history.runs_by_prefix("' OR 1", 10) == []


async def test_another_daemon_continues(namespace: Namespace) -> None:
    """It has nothing in memory, and reads the event history."""
    async with HostHarness() as host:
        gateway = Gateway()
        async with running(namespace, host) as first, gateway.running(first.client):
            row = await first.runs.start(request(TWO))
            await gateway.has_begun(2)
        async with running(namespace, host) as second, gateway.running(second.client):
            gateway.is_open.set()
            assert (await second.completed(row.id)).conclusion is Conclusion.SUCCESS


async def test_a_stalled_run_says_why(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to it is refused with the reason, which is sealed in its memo."""

    def broken(request: object) -> object:
        raise RuntimeError("a bug")

    row = await daemon.runs.start(request(APPROVAL))
    await daemon.wait_for(row.id, lambda found: found.seq > 1)
    monkeypatch.setattr(daemon.turns, "_turn", broken)
    monkeypatch.setattr("waterflowd.temporal.updates.ANSWER_S_MAX", 2.0)

    async def refused() -> str:
        try:
            await daemon.runs.cancel(row.id, "ada")
        except Retryable:
            # The turn is tried three times before the run stalls.
            return ""
        except Rejected as error:
            return error.text
        return "the run is not stalled"

    assert "is stalled: a bug" in await until(refused)
    assert daemon.reader.stalled()[row.id].endswith("a bug")


async def test_a_run_that_has_not_begun_yet_exists(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is durable before the first turn: as long as the machine is too busy for that, clients are told to try again."""

    def busy(request: object) -> object:
        raise RuntimeError("not yet")

    monkeypatch.setattr("waterflowd.temporal.reading.run_reader.FIRST_TURN_TRIES", 2)
    with monkeypatch.context() as machine:
        machine.setattr(daemon.turns, "_turn", busy)
        row = await daemon.runs.start(request(APPROVAL))
        with pytest.raises(Retryable, match="has not begun yet"):
            await daemon.reader.run(row.id)
        # No turn was made, so no run can have stalled for good.
        await daemon.client.get_workflow_handle(run_stream(row.id)).terminate("the end of the test")
    assert await daemon.reader.run(row.id) is None


async def test_a_terminated_run_is_shown_as_such(daemon: Daemon, gateway: Gateway) -> None:
    """Its row, its events and its state have an end with a reason, although no turn has recorded one."""
    gateway.is_open.clear()
    row = await daemon.runs.start(request(TWO))
    await gateway.has_begun(2)
    handle = daemon.client.get_workflow_handle(run_stream(row.id))
    await handle.terminate("cleaning up")
    found = await daemon.completed(row.id)
    assert found.conclusion is Conclusion.LOST
    assert found.reason.code is ReasonCode.TERMINATED
    assert found.completed_at
    read = await daemon.history.read(run_stream(row.id))
    assert isinstance(read[-1].event, events.RunCompleted)
    assert await daemon.history.head(run_stream(row.id)) == len(read)
    run = await daemon.reader.run(row.id)
    assert run is not None
    assert run.conclusion is Conclusion.LOST

    async def listed(status: str) -> list[RunId]:
        return [each.id for each in (await daemon.history.runs(RunFilter(status=status), limit=10))[0]]

    async def is_lost() -> bool:
        return await listed("lost") == [row.id]

    await until(is_lost)
    assert await listed("running") == []
    followed = []
    async with asyncio.timeout(PATIENCE_S):
        async for record in daemon.history.follow(run_stream(row.id), 1):
            followed.append(record)
            if isinstance(record.event, events.RunCompleted):
                break
    assert followed == read[1:]


async def test_a_row_that_cannot_be_read_does_not_hide_the_others(
    daemon: Daemon, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has started a workflow by hand, with a memo that no daemon has sealed."""
    row = await daemon.runs.start(request(TWO))
    foreign = await Client.connect(daemon.client.service_client.config.target_host, namespace=daemon.client.namespace)
    stream = run_stream(RunId("01M8Q5VRD5FEJBQ2KVZHDDJG5W"))
    await foreign.start_workflow("stream", id=stream, task_queue="nobody", memo={"row": b"forged"})

    async def are_listed() -> bool:
        found = [each.id async for each in daemon.client.list_workflows("WorkflowId STARTS_WITH 'run/'")]
        return len(found) == 2

    await until(are_listed)
    rows, _ = await daemon.history.runs(RunFilter(), limit=10)
    assert [each.id for each in rows] == [row.id]
    assert f"{stream} is missing in lists" in caplog.text


async def test_the_history_of_an_ended_run_is_read_once(
    daemon: Daemon, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that follows it waits, without asking Temporal again and again."""
    row = await daemon.runs.start(request(TWO))
    await daemon.completed(row.id)
    monkeypatch.setattr("waterflowd.temporal.reading.history.RETRY_S", 0.01)
    reads = 0
    read = daemon.history.streams.follow_events

    def counted(stream: str) -> object:
        nonlocal reads
        reads += 1
        return read(stream)

    monkeypatch.setattr(daemon.history.streams, "follow_events", counted)
    found = []

    async def follow() -> None:
        async for record in daemon.history.follow(run_stream(row.id), 0):
            found.append(record)

    following = asyncio.create_task(follow())
    try:
        stored = await daemon.history.read(run_stream(row.id))
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < len(stored):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert reads == 1
    assert found == stored


async def test_the_number_of_open_runs_is_limited(
    daemon: Daemon, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the answer of the log engine. A run that has ended makes room."""
    monkeypatch.setattr("waterflowd.host.driver.OPEN_RUNS_MAX", 1)
    first = await daemon.runs.start(request(APPROVAL))

    async def is_refused() -> bool:
        try:
            await daemon.runs.start(request(APPROVAL))
        except Rejected as error:
            return error.code == "WF609"
        return False

    await until(is_refused)
    monkeypatch.setattr("waterflowd.host.driver.OPEN_RUNS_MAX", 1_000)
    assert (await daemon.runs.start(request(APPROVAL))).id != first.id
