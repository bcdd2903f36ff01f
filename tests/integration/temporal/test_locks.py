"""Concurrency groups on Temporal's real server: streams of locks that end, begin again and continue as new executions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDReusePolicy
from temporalio.worker import Replayer, Worker

from tests.integration.temporal.server import Namespace
from tests.lease_terms import TERMS
from tests.patience import PATIENCE_S
from waterflowd.access.policy import AccessPolicy
from waterflowd.dsl import compile_workflow
from waterflowd.engine import inputs
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.model import ids
from waterflowd.model.ids import AgentId, RunId, run_stream
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders, run_turns
from waterflowd.temporal.coordination import lock_turns
from waterflowd.temporal.coordination.lock_activities import LockActivities, is_open
from waterflowd.temporal.coordination.lock_turns import LockTurns
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.streams import StreamTurns, take_turns
from waterflowd.temporal.workflow import messages, shell

AGENT = AgentId("SHA256:one")
LOCKED = "{concurrency: deploy, jobs: {a: {runs-on: web, steps: [{run: x}]}}}"
LOCK = orders.lock_stream("", "deploy")


@dataclass
class Steps:
    """A gateway without agents: each step lasts until its run is allowed to end."""

    #: Runs whose step runs at the moment, in the order of their starts; and the most at any time.
    running: list[RunId] = field(default_factory=list)
    begun: list[RunId] = field(default_factory=list)
    most: int = 0
    may_end: Callable[[RunId], bool] = lambda run: True

    @activity.defn(name=orders.PLACE)
    async def place(self, content: bytes) -> bytes:
        """Grants a slot at once."""
        attempt = orders.ORDERS.unpack(content).attempt
        granted = inputs.SlotGranted(
            job=attempt.job,
            step=attempt.step,
            attempt=attempt.number,
            epoch=1,
            agent=AGENT,
            agent_name="web-1",
            boot_id="boot",
            facts={},
        )
        return orders.INPUTS.pack(granted)

    @activity.defn(name=orders.ATTEMPT)
    async def attempt(self, content: bytes) -> bytes:
        """Carries out a step."""
        key = orders.ORDERS.unpack(content).draft.task.key
        run = key.attempt.run
        self.running.append(run)
        self.begun.append(run)
        self.most = max(self.most, len(self.running))
        try:
            while not self.may_end(run):
                activity.heartbeat()
                await asyncio.sleep(0.02)
        finally:
            self.running.remove(run)
        finished = inputs.TaskFinished(
            job=key.attempt.job,
            step=key.attempt.step,
            attempt=key.attempt.number,
            epoch=key.epoch,
            agent=AGENT,
            outcome=Outcome.SUCCESS,
            exit_code=0,
            started_at=1,
            finished_at=2,
        )
        return orders.INPUTS.pack(finished)

    @activity.defn(name=orders.RELEASE)
    async def release(self, content: bytes) -> None:
        """Lets the agent remove the job's directory."""

    @asynccontextmanager
    async def polling(self, client: Client) -> AsyncIterator[None]:
        """Polls the queues."""
        activities = [self.place, self.attempt, self.release]
        async with (
            Worker(client, task_queue=orders.group_queue("web"), activities=activities),
            Worker(client, task_queue=orders.agent_queue(AGENT), activities=activities),
        ):
            yield

    async def has_begun(self, count: int) -> None:
        """Waits until so many steps have begun."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.begun) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@asynccontextmanager
async def daemon(client: Client) -> AsyncIterator[None]:
    """A daemon, as far as streams are concerned."""
    registry = Registry()
    runs = RunTurns(registry, Placement(registry), AccessPolicy(), lost_after_ms=60_000, terms=TERMS)
    turns = StreamTurns({run_turns.PREFIX: runs, lock_turns.PREFIX: LockTurns()})
    worker = asyncio.create_task(take_turns(client, turns, LockActivities(client).all))
    try:
        yield
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def start(client: Client, number: int) -> RunId:
    """Starts a run."""
    plan = compile_workflow("w.yml", LOCKED.encode()).plan
    assert plan is not None
    run = ids.run_id(1_700_000_000_000 + number, number)
    begin = inputs.StartRun(
        plan_hash="h",
        number=number,
        trigger=Trigger(kind=TriggerKind.CLI, by="uid:0", principal="uid:0"),
        repository=None,
        revision=None,
        inputs={},
        vars={},
    )
    first = messages.SignalReceived(number=1, content=orders.INPUTS.pack(begin))
    await client.start_workflow(
        messages.WORKFLOW_TYPE,
        messages.Begin(subject=plan, inputs=[first], number=1),
        id=run_stream(run),
        task_queue=orders.STREAMS_QUEUE,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        task_timeout=timedelta(seconds=PATIENCE_S),
    )
    return run


async def ended(client: Client, *runs: RunId) -> None:
    """Waits until these runs have ended."""
    async with asyncio.timeout(PATIENCE_S):
        for run in runs:
            await client.get_workflow_handle(run_stream(run)).result()


async def executions(client: Client, stream: str) -> list[str]:
    """The ids of all executions of a stream, from its first one, as far as they are visible already."""
    found = [(item.start_time, item.run_id) async for item in client.list_workflows(f"WorkflowId = '{stream}'")]
    return [identifier for _, identifier in sorted(found)]


async def replays(client: Client, stream: str) -> None:
    """Replays every execution of a stream; none takes a turn."""
    replayer = Replayer(workflows=[shell.Stream], data_converter=client.data_converter)
    for identifier in await executions(client, stream):
        history = await client.get_workflow_handle(stream, run_id=identifier).fetch_history()
        await replayer.replay_workflow(history)


async def test_one_after_the_other_over_ends_and_new_executions(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs arrive while the stream of their lock ends, continues as new, and loses its daemon: none is lost, never two hold."""
    monkeypatch.setattr(lock_turns, "CHECK_MS", 30)
    monkeypatch.setattr(lock_turns, "FACTS_MAX", 20)
    monkeypatch.setattr(shell, "HISTORY_EVENTS_MAX", 150)
    client = await namespace.client()
    steps = Steps()
    runs: list[RunId] = []
    async with steps.polling(client):
        async with daemon(client):
            for number in range(4):
                runs += [await start(client, 2 * number), await start(client, 2 * number + 1)]
                await ended(client, runs[-2], *(runs[-1:] if number % 2 else ()))
        runs += [await start(client, number) for number in range(100, 103)]
        async with daemon(client):
            await ended(client, *runs)
            async with asyncio.timeout(PATIENCE_S):
                await client.get_workflow_handle(LOCK).result()
    assert steps.most == 1
    assert sorted(steps.begun) == sorted(runs)
    await replays(client, LOCK)


async def test_a_terminated_run_frees_its_slot(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells the lock; it looks after those who hold slots."""
    monkeypatch.setattr(lock_turns, "CHECK_MS", 500)
    client = await namespace.client()
    steps = Steps()
    async with steps.polling(client), daemon(client):
        steps.may_end = lambda run: False
        first = await start(client, 1)
        await steps.has_begun(1)
        second = await start(client, 2)
        assert await is_open(client, first)
        await client.get_workflow_handle(run_stream(first)).terminate(reason="a test")
        assert not await is_open(client, first)
        await steps.has_begun(2)
        assert steps.begun == [first, second]
        steps.may_end = lambda run: True
        await ended(client, second)


async def test_what_an_operator_sees_of_a_lock(namespace: Namespace) -> None:
    """The name of the group is nowhere readable."""
    client = await namespace.client()
    steps = Steps()
    steps.may_end = lambda run: False
    async with steps.polling(client), daemon(client):
        run = await start(client, 1)
        await steps.has_begun(1)
        found = await client.get_workflow_handle(LOCK).describe()
        assert found.status is WorkflowExecutionStatus.RUNNING
        assert b"deploy" not in found.raw_description.SerializeToString()
        history = await client.get_workflow_handle(LOCK).fetch_history()
        assert not any(b"deploy" in event.SerializeToString() for event in history.events)
        signals = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
        assert [event.event_type for event in history.events].count(signals) == 1
        steps.may_end = lambda run: True
        await ended(client, run)
