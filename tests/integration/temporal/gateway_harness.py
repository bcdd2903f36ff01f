"""Runs on Temporal's real server, with the real engine and real gateways; the test plays the agents.

A `Cluster` takes the turns of runs. A `Daemon` is one gateway with its own connection, placement and link: a test may have
several, and end one as `kill -9` does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.converter import WorkflowSerializationContext
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from tests.hanging_tasks import waits
from tests.integration.temporal.server import Namespace
from tests.lease_terms import TERMS
from tests.patience import PATIENCE_S
from waterflow_agent.wire import messages as wire
from waterflowd.access.policy import AccessPolicy
from waterflowd.access.repository_quotas import RepositoryQuotas
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.dsl import compile_workflow
from waterflowd.engine import events, inputs
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.host.agents.file_server import FileServer
from waterflowd.host.agents.handler import AgentHandler
from waterflowd.host.agents.output_admission import OutputAdmission
from waterflowd.host.agents.outputs import OutputCollector
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogOutputs
from waterflowd.model.ids import AgentId, RunId, run_id, run_stream
from waterflowd.model.records import RunSummary, Trigger, TriggerKind
from waterflowd.temporal import orders, run_turns, workers
from waterflowd.temporal.gateway import attempts
from waterflowd.temporal.gateway.abandoned import Pauses
from waterflowd.temporal.gateway.gateway import Gateway
from waterflowd.temporal.gateway.secret_reader import Secrets
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.workflow import messages, shell
from waterflowd.temporal.workflow.turns import StreamActivities
from waterflowd.testing.host import START_AT, ManualClock, RecordingLink, agent_id, codec, finished, hello_of
from waterflowd.testing.memory_files import MemoryFiles
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.memory_outputs import MemoryOutputLogs

Found = TypeVar("Found")

#: Far more than a test takes.
LOST_AFTER_MS = 600_000
CALL_TIMEOUT = timedelta(seconds=10)
#: Heartbeats, and looks at runs whose activity is missing.
HEARTBEAT_S = 0.3
#: How long sessions are confirmed without answers from Temporal.
CONFIRM_S = 3.0
#: A call that has perhaps not arrived.
_LOST = (RPCStatusCode.CANCELLED, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.UNAVAILABLE)
#: Of the search for abandoned activities.
PAUSES = Pauses(certain_s=0.3, again_s=0.3, probe_s=0.3)
#: A run stays open when its first job has ended.
_OPEN = (
    "jobs: {a: {runs-on: web, steps: [{run: x}]}, b: {runs-on: web, steps: [{uses: approval, with: {approvers: []}}]}}"
)


async def until(condition: Callable[[], Any], what: str) -> None:
    """Waits for a condition."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {PATIENCE_S:g} s for {what}") from None


async def answered(call: Callable[[], Awaitable[Found]]) -> Found:
    """The server's answer to a call that may be repeated: a busy server, or one that has just been started, may lose it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await call()
            except RPCError as error:
                if error.status not in _LOST:
                    raise
            await asyncio.sleep(0.1)


async def ended(task: asyncio.Task[None]) -> None:
    """Cancels a task and waits for its end; the failure says what everything waits for."""
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE_S)
    assert task.done(), f"{task.get_name()} did not end within {PATIENCE_S:g} s:\n" + "\n".join(waits())
    if not task.cancelled():
        task.result()


class Cluster:
    """A namespace whose runs get turns, and the servers that are enrolled."""

    def __init__(self, namespace: Namespace, client: Client) -> None:
        self.namespace = namespace
        self.client = client
        self.registry = Registry()
        self.turns: RunTurns | None = None
        self._numbers = iter(range(1, 1000))

    @classmethod
    @asynccontextmanager
    async def running(cls, namespace: Namespace, *, lost_after_ms: int = LOST_AFTER_MS) -> AsyncIterator[Cluster]:
        """Takes turns."""
        cluster = cls(namespace, await namespace.client())
        turns = cluster.turns = RunTurns(
            cluster.registry, Placement(cluster.registry), AccessPolicy(), lost_after_ms=lost_after_ms, terms=TERMS
        )
        worker = Worker(
            cluster.client,
            task_queue=orders.STREAMS_QUEUE,
            workflows=[shell.Stream],
            activities=StreamActivities(turns, cluster.client.data_converter).all,
            graceful_shutdown_timeout=timedelta(0),
        )
        working = asyncio.create_task(workers.run(worker), name="turns of runs")
        try:
            yield cluster
        finally:
            await ended(working)

    def changed_lists(self) -> Sequence[tuple[RunId, inputs.ServersListed]]:
        """What runs that wait for servers should hear."""
        return () if self.turns is None else self.turns.changed_lists()

    def enroll(self, name: str, *groups: str) -> AgentId:
        """Approves an agent."""
        agent = agent_id(name)
        self.registry.apply(
            fleet_events.AgentApproved(at=START_AT, by="test", agent=agent, public_key=name, name=name, groups=groups)
        )
        return agent

    async def start(self, workflow: str, *, task_timeout_s: float = PATIENCE_S) -> Run:
        """Starts a run; `task_timeout_s` is `LOST_TASK_S` if the server will be killed."""
        # Other files mean that the workflow is one of a repository.
        compiled = compile_workflow(
            "w.yml", workflow.encode(), {"x.yml": b"jobs: {a: {runs-on: web, steps: [{run: x}]}}"}
        )
        assert compiled.plan is not None, compiled.diagnostics
        number = next(self._numbers)
        run = run_id(START_AT, number)
        trigger = Trigger(kind=TriggerKind.CLI, by="uid:0", principal="uid:0")
        start = inputs.StartRun(
            plan_hash="h", number=number, trigger=trigger, repository="ops", revision="0" * 40, inputs={}, vars={}
        )
        begin = messages.Begin(
            subject=compiled.plan,
            inputs=[messages.SignalReceived(number=1, content=orders.INPUTS.pack(start))],
            number=1,
        )
        handle: WorkflowHandle[Any, bytes]
        try:
            handle = await answered(
                lambda: self.client.start_workflow(
                    messages.WORKFLOW_TYPE,
                    begin,
                    id=run_stream(run),
                    task_queue=orders.STREAMS_QUEUE,
                    task_timeout=timedelta(seconds=task_timeout_s),
                    result_type=bytes,
                    rpc_timeout=CALL_TIMEOUT,
                )
            )
        except WorkflowAlreadyStartedError:
            # Only the answer was lost.
            handle = self.client.get_workflow_handle(run_stream(run), result_type=bytes)
        return Run(run, handle, self.client)


class Run:
    """A run."""

    def __init__(self, run: RunId, handle: WorkflowHandle[Any, bytes], client: Client) -> None:
        self.id = run
        self.handle = handle
        self._client = client

    async def result(self) -> RunSummary:
        """The row of the ended run."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                # A busy server, or one that has just been started, may lose a call.
                with contextlib.suppress(RPCError):
                    summary: RunSummary = run_turns.ROWS.unpack(await self.handle.result())
                    return summary

    async def send(self, item: inputs.Input) -> None:
        """Signals an input. The run may get it twice, which must make no difference."""
        content = orders.INPUTS.pack(item)
        await answered(lambda: self.handle.signal(messages.INPUT_SIGNAL, content, rpc_timeout=CALL_TIMEOUT))

    async def events(self) -> list[events.RunEvent]:
        """What the run has recorded."""
        found: list[bytes] = []
        context = WorkflowSerializationContext(namespace=self._client.namespace, workflow_id=self.handle.id)
        bound = self._client.data_converter.with_context(context)
        for event in (await self.handle.fetch_history(rpc_timeout=CALL_TIMEOUT)).events:
            if event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED:
                details = event.marker_recorded_event_attributes.details
                if "result" in details:
                    [result] = await bound.decode_wrapper(details["result"], [messages.TurnResult])
                    found += result.facts if isinstance(result, messages.TurnResult) else []
        return [run_turns.FACTS.unpack(self.handle.id, fact).event for fact in found]

    async def recorded(self, kind: type[Any]) -> Any:
        """Waits until the run has recorded an event of this kind; returns the first one."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                # A busy server may lose a call.
                with contextlib.suppress(RPCError):
                    for event in await self.events():
                        if isinstance(event, kind):
                            return event
                await asyncio.sleep(0.1)

    async def waits_for(self, identifier: str) -> None:
        """Returns when the run has scheduled an activity."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(RPCError):
                    description = (await self.handle.describe(rpc_timeout=CALL_TIMEOUT)).raw_description
                    if any(each.activity_id == identifier for each in description.pending_activities):
                        return
                await asyncio.sleep(0.05)


class Daemon:
    """A gateway, and the agents that the test plays."""

    def __init__(self, cluster: Cluster, client: Client, secrets: Secrets, missing_s: float) -> None:
        #: The process, as Temporal sees it.
        self.identity = client.identity
        self.link = RecordingLink()
        self.clock = ManualClock()
        self.placement = Placement(cluster.registry)
        self.gateway = Gateway(
            client,
            self.placement,
            cluster.registry,
            self.link,
            self.clock,
            terms=TERMS,
            secrets=secrets,
            changed_lists=cluster.changed_lists,
            has_others=True,
            heartbeat_s=HEARTBEAT_S,
            started_after_s=HEARTBEAT_S,
            missing_s=missing_s,
            confirm_s=CONFIRM_S,
            pauses=PAUSES,
        )
        self.output_logs = MemoryOutputLogs()
        logs = LogOutputs(self.output_logs)
        log = MemoryLog(codec())
        admission = OutputAdmission(RepositoryQuotas(counter=log.counter), logs, self.clock, lambda counters: None)
        port = self.gateway.attempts
        self.collector = OutputCollector(port, admission, logs, self.link, Feed(log))
        self.agents = AgentHandler(
            port,
            self.placement,
            cluster.registry,
            self.link,
            self.clock,
            outputs=self.collector,
            files=FileServer(port, MemoryFiles(), self.link),
            artifacts=ArtifactServer(port, self.link, self.clock, None),
            lost_after_ms=LOST_AFTER_MS,
        )
        self.gateway.attempts.arrived = self.agents.arrived
        self._running = asyncio.create_task(self.gateway.run(), name="gateway")
        self._collecting = asyncio.create_task(self.collector.run(), name="output logs")

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        cluster: Cluster,
        *,
        secrets: Secrets | None = None,
        missing_s: float = attempts.MISSING_S,
        name: str = "",
        address: str = "",
    ) -> AsyncIterator[Daemon]:
        """A gateway with a connection of its own: a new process of the daemon `name`, or of a daemon of its own.

        `address`: what passes everything on to the server.
        """
        identity = f"{name or uuid4().hex}/{uuid4().hex}"
        client = await cluster.namespace.client(identity=identity, address=address)
        daemon = cls(cluster, client, secrets or Secrets(), missing_s)
        try:
            yield daemon
        finally:
            await daemon.stop()

    async def stop(self) -> None:
        """Ends the gateway, as a daemon does that is stopped."""
        for task in (self._running, self._collecting):
            await ended(task)
        for handle in (*self.agents._lost_timers.values(), *self.agents._doubtful.values()):
            handle.cancel()

    async def kill(self) -> None:
        """Ends the gateway without any farewell: it neither gives activities back nor tells its agents."""
        port: attempts.GatewayAttempts = self.gateway.attempts
        port._sessions.clear()
        for task in [*port._serving.values(), *port.reports._tasks]:
            task.cancel()
        await self.stop()

    # The agents -------------------------------------------------------------------------------------------------------

    def hello(self, agent: AgentId, held: Sequence[wire.HeldAttempt] = (), **changes: Any) -> None:
        """The agent opens a session."""
        self.agents.settle(agent, hello_of(held=list(held), **changes))
        self.agents.connected(agent)

    def bye(self, agent: AgentId) -> None:
        """The agent's session ends."""
        self.agents.disconnected(agent, "the connection was lost")

    def started(self, agent: AgentId, task: wire.TaskId) -> Acknowledgement:
        """The agent reports a start."""
        acknowledged = Acknowledgement()
        self.agents.received(agent, [wire.Started(task, START_AT)], acknowledged)
        return acknowledged

    def finished(self, agent: AgentId, task: wire.TaskId, **changes: Any) -> Acknowledgement:
        """The agent reports an end: success, unless `changes` say otherwise."""
        acknowledged = Acknowledgement()
        self.agents.received(agent, [finished(task, **changes)], acknowledged)
        return acknowledged

    def tasks(self, agent: AgentId) -> list[wire.TaskId]:
        """The attempts that were offered to the agent, each as often as it was offered."""
        return [message.task.key for to, message in self.link.sent if to == agent and isinstance(message, wire.Offer)]

    def cancels(self, agent: AgentId) -> list[wire.Cancel]:
        """The cancels that were sent to the agent."""
        return [message for to, message in self.link.sent if to == agent and isinstance(message, wire.Cancel)]

    async def offered(self, agent: AgentId, count: int = 1) -> list[wire.TaskId]:
        """Waits until the agent has got so many offers."""
        await until(lambda: len(self.tasks(agent)) >= count, f"{count} offers to {agent}")
        return self.tasks(agent)

    def taken(self) -> int:
        """How many slots are taken."""
        return sum(len(server.taken) for server in self.placement.servers.values())


class Acknowledgement:
    """What an agent hears of a report."""

    def __init__(self) -> None:
        self.has_arrived = False

    def __call__(self) -> None:
        self.has_arrived = True

    async def arrives(self) -> None:
        """Waits for it."""
        await until(lambda: self.has_arrived, "an acknowledgement")


def held(task: wire.TaskId, state: wire.AttemptState = wire.AttemptState.STARTED) -> wire.HeldAttempt:
    """An attempt that the agent holds, by its journal."""
    return wire.HeldAttempt(task, state)


async def lost_attempt(cluster: Cluster, daemon: Daemon) -> tuple[AgentId, Run, wire.TaskId]:
    """A run that stays open, with an attempt that has ended because its server was rebooted; its agent may still report it."""
    agent = cluster.enroll("one", "web")
    daemon.hello(agent)
    run = await cluster.start(_OPEN)
    [lost] = await daemon.offered(agent)
    daemon.bye(agent)
    daemon.hello(agent, boot_id="boot-2")
    await run.recorded(events.AttemptFinished)
    return agent, run, lost
