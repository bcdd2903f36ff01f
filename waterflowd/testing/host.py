"""A whole host in memory: the real driver, engine, placement and services; log, clock and link belong to the test.

Rules of this file: no socket, no file, no thread. Time passes only with `advance`. The link records messages and sends them
nowhere; the test plays the agents (`hello`, `started`, `finished`). `crashed` returns another host over the durable log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from waterflow_agent.nodes import schema
from waterflow_agent.wire import messages
from waterflowd.access import events
from waterflowd.access.repository_quotas import RepositoryLimits, RepositoryQuotas
from waterflowd.artifacts.caches.origins import CacheOrigins
from waterflowd.artifacts.caches.requests import CacheRequests
from waterflowd.artifacts.caches.store import CacheLimits, CacheStore
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.artifacts.storage import Storage
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.dispatch import lowering
from waterflowd.dsl import compile_workflow
from waterflowd.engine.events import RunEvent
from waterflowd.engine.rules import leases
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.locks import Locks
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.host.agents.attempts import LiveAttempts
from waterflowd.host.agents.enrollment import EnrollmentService
from waterflowd.host.agents.file_server import FileServer
from waterflowd.host.agents.fleet_changes import FleetChanges
from waterflowd.host.agents.handler import AgentHandler
from waterflowd.host.agents.output_admission import OutputAdmission
from waterflowd.host.agents.outputs import OutputCollector
from waterflowd.host.child_run_starter import ChildRunStarter
from waterflowd.host.child_runs import ChildRunRegistry
from waterflowd.host.driver import Driver
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory, LogOutputs
from waterflowd.host.live_state import LiveState
from waterflowd.host.queries import RunQueries
from waterflowd.host.stream_writer import LogStreamWriter
from waterflowd.host.timers import Timers
from waterflowd.model.codec import ValueCodec
from waterflowd.model.ids import FLEET, AgentId, RunId, run_stream
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Outcome
from waterflowd.pacing import Pacing
from waterflowd.ports import OutputLogs
from waterflowd.reconcile import events as repository_events
from waterflowd.store.codec import Codec
from waterflowd.testing.memory_files import MemoryFiles, Trees, no_trees
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.memory_outputs import MemoryOutputLogs
from waterflowd.testing.memory_workflows import MemoryChildWorkflows
from waterflowd.testing.scenario import dump
from waterflowd.time_slices import TimeSlices

START_AT = 1_700_000_000_000
LOST_AFTER_MS = 600_000
NODES = [name for name, node in schema.BUILT_IN.items() if node.runs_in is not schema.RunsIn.ENGINE]

ONE_STEP = "jobs: {a: {runs-on: web, steps: [{run: work}]}}"
TWO_STEPS = "jobs: {a: {runs-on: web, steps: [{run: work}, {run: work}]}}"


def codec() -> Codec:
    """The store's codec for all streams, so that a value that cannot be stored fails in tests too."""
    return Codec(
        {
            "run": RunEvent,
            "fleet": fleet_events.Fact,
            "repo": repository_events.Fact,
            "audit": events.Fact,
        }
    )


_DRAFTS = ValueCodec("draft", lowering.Draft)


def stored_fill(draft: lowering.Draft, instance: str, read: lowering.ReadSecret = lowering.no_secret) -> messages.Task:
    """Fills a draft as a host does that stores drafts: the task is filled in from bytes, which contain no secret."""
    body = _DRAFTS.encode(draft)
    task = lowering.fill(_DRAFTS.decode(_DRAFTS.schema, body), instance, read)
    if any(value.encode() in body for value in task.secrets):
        raise AssertionError(f"the draft of {task.key} contains the value of a secret")
    return task


class ManualClock:
    """The log's clock, moved by hand."""

    def __init__(self, at: int = START_AT) -> None:
        self.at = at

    def now(self) -> int:
        """Milliseconds."""
        return self.at


class RecordingLink:
    """A `ports.Link` that records messages, and calls `watch` for each one if it is set."""

    def __init__(self) -> None:
        self.sent: list[tuple[AgentId, messages.DaemonMessage]] = []
        self.revoked: list[AgentId] = []
        self.rejected: list[tuple[AgentId, str]] = []
        self.watch: Callable[[AgentId, messages.DaemonMessage], None] | None = None

    def send(self, agent: AgentId, outgoing: Sequence[messages.DaemonMessage]) -> None:
        """See `ports.Link`."""
        for message in outgoing:
            if self.watch is not None:
                self.watch(agent, message)
            self.sent.append((agent, message))

    def revoke(self, agent: AgentId) -> None:
        """See `ports.Link`."""
        self.revoked.append(agent)

    def reject(self, agent: AgentId, code: str, text: str) -> None:
        """See `ports.Link`."""
        self.rejected.append((agent, code))

    def take(self) -> list[messages.DaemonMessage]:
        """The messages sent since the last call."""
        taken = [message for _, message in self.sent]
        self.sent.clear()
        return taken

    def offers(self) -> list[messages.TaskId]:
        """The keys of the offers sent since the last `take`, in order."""
        return [message.task.key for _, message in self.sent if isinstance(message, messages.Offer)]


def agent_id(name: str) -> AgentId:
    """The test fingerprint of the agent with this name."""
    return AgentId(f"SHA256:{name:x<43}")


def request(workflow: str = ONE_STEP, *, key: str | None = None, path: str = "workflows/w.yml") -> StartRequest:
    """A request to start this workflow."""
    compiled = compile_workflow(path, workflow.encode())
    if compiled.plan is None:
        raise ValueError(f"the workflow has errors: {compiled.diagnostics}")
    return StartRequest(
        plan=compiled.plan, trigger=Trigger(kind=TriggerKind.CLI, by="uid:0", principal="uid:0", key=key)
    )


def hello_of(**changes: Any) -> messages.Hello:
    """What an agent with all nodes and four slots says at the beginning of a session, with changes."""
    fields: dict[str, Any] = {
        "session": "0" * 32,
        "protocol": 1,
        "protocol_min": 1,
        "agent_version": "0",
        "instance": "instance-1",
        "machine_id": "machine",
        "boot_id": "boot-1",
        "slots": 4,
        "hostname": "host",
        "os": "Linux",
        "arch": "x86_64",
        "labels": {},
        "nodes": NODES,
        "held": [],
    }
    return messages.Hello(**{**fields, **changes})


class HostHarness:
    """A host; `async with HostHarness() as host` recovers and runs it."""

    def __init__(
        self,
        log: MemoryLog | None = None,
        clock: ManualClock | None = None,
        *,
        fill: lowering.Fill = stored_fill,
        trees: Trees = no_trees,
        missing_secrets: lowering.MissingSecrets = lowering.all_missing,
        limits: RepositoryLimits | None = None,
        outputs: OutputLogs | None = None,
        artifacts: ArtifactStore | None = None,
        cache_limits: CacheLimits | None = None,
        artifact_storage: Storage | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.log = log or MemoryLog(codec())
        self.output_logs = MemoryOutputLogs()
        self.link = RecordingLink()
        self.feed = Feed(self.log)
        self.queries = RunQueries(self.log)
        self.registry = Registry()
        for record in self.log.read(FLEET):
            self.registry.apply(record.event)
        self.state = LiveState(
            runs={},
            stalled={},
            placement=Placement(self.registry),
            locks=Locks(),
            registry=self.registry,
            timers=Timers(),
            child_runs=ChildRunRegistry(self.queries.known),
            fill=fill,
            missing_secrets=missing_secrets,
            quotas=RepositoryQuotas(limits, counter=self.log.counter),
            epoch=self.log.generation,
            lease_ms=leases.lease_ms(LOST_AFTER_MS),
        )
        self.driver = Driver(self.state, self.log, self.link, self.clock, self.feed, self.queries)
        attempts = self.attempts = LiveAttempts(self.driver, self.queries)
        self.outputs = self.output_collector(outputs or LogOutputs(self.output_logs))
        self.files = FileServer(attempts, MemoryFiles(trees), self.link, pacing)
        #: Default branches by repository.
        self.default_refs: dict[str, str] = {}
        #: Addresses by repository, if they are not the name.
        self.urls: dict[str, str] = {}
        history = LogHistory(self.log, self.feed, TimeSlices())
        origins = CacheOrigins(history, self.default_refs.get, lambda name: self.urls.get(name, name))
        self.caches = CacheStore(artifacts, cache_limits or CacheLimits()) if artifacts is not None else None
        requests = (
            CacheRequests(artifacts, self.caches, origins, self.clock)
            if artifacts is not None and self.caches is not None
            else None
        )
        self.artifacts = ArtifactServer(
            attempts, self.link, self.clock, artifacts, None, requests, origins, artifact_storage
        )
        self.agents = AgentHandler(
            attempts,
            self.state.placement,
            self.registry,
            self.link,
            self.clock,
            outputs=self.outputs,
            files=self.files,
            artifacts=self.artifacts,
            lost_after_ms=LOST_AFTER_MS,
        )
        changes = FleetChanges(self.registry, self.driver, self.agents, self.link)
        self.fleet = LogStreamWriter(self.driver, FLEET, changes.apply)
        self.enrollment = EnrollmentService(self.registry, self.fleet, self.clock, agent_id)
        self.workflows = MemoryChildWorkflows()
        self.starter = ChildRunStarter(self.driver, self.workflows)
        self._tasks: list[asyncio.Task[None]] = []

    def output_collector(self, logs: OutputLogs) -> OutputCollector:
        """A collector of output that writes to these logs."""
        admission = OutputAdmission(self.state.quotas, logs, self.clock, self.driver.keep_counters)
        return OutputCollector(self.attempts, admission, logs, self.link, self.feed)

    async def __aenter__(self) -> HostHarness:
        self.driver.recover()
        self.agents.recovered()
        self._tasks = [
            asyncio.create_task(self.driver.run(), name="driver"),
            asyncio.create_task(self.outputs.run(), name="output logs"),
            asyncio.create_task(self.starter.run(), name="starter"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for handle in (
            *self.agents._lost_timers.values(),
            *self.agents._doubtful.values(),
        ):  # the daemon's end closes the loop; a test's does not
            handle.cancel()
        if self.agents._gathering is not None:
            self.agents._gathering.cancel()
        await self.files.close()
        await self.artifacts.close()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def is_alive(self) -> bool:
        """False when a background task has ended, which would stop the daemon."""
        return not any(task.done() for task in self._tasks)

    def crashed(self, commits: int | None = None) -> HostHarness:
        """Another host over the durable log, or its first `commits` commits. Do not use this host afterwards."""
        again = HostHarness(self.log.reopened(commits), ManualClock(self.clock.at))
        again.workflows.files = self.workflows.files
        return again

    # Inputs from outside ----------------------------------------------------------------------------------------------

    def enroll(self, name: str, *groups: str) -> AgentId:
        """Approves an agent with this name."""
        agent = agent_id(name)
        fact = fleet_events.AgentApproved(
            at=self.clock.now(), by="test", agent=agent, public_key=name, name=name, groups=groups
        )
        self.registry.apply(fact)
        return agent

    def hello(self, agent: AgentId, **changes: Any) -> list[messages.TaskId]:
        """The agent opens a session; returns the attempts that it should forget."""
        forget = self.agents.settle(agent, hello_of(**changes))
        self.agents.connected(agent)
        return forget

    def started(self, agent: AgentId, key: messages.TaskId, durable: Callable[[], None] = lambda: None) -> None:
        """The agent reports a start."""
        self.agents.received(agent, [messages.Started(key, self.clock.now())], durable)

    def finished(
        self,
        agent: AgentId,
        key: messages.TaskId,
        durable: Callable[[], None] = lambda: None,
        **changes: Any,
    ) -> None:
        """The agent reports a result."""
        self.agents.received(agent, [finished(key, self.clock.now(), **changes)], durable)

    async def advance(self, milliseconds: int) -> None:
        """Moves the clock; returns when everything that is due has happened."""
        self.clock.at += milliseconds
        self.driver.wake()
        await self.settle()

    async def settle(self) -> None:
        """Returns when the driver has finished its queued work and what follows from it."""
        for _ in range(3):
            await self.driver.pass_through()

    async def start(self, workflow: str = ONE_STEP, *, key: str | None = None) -> RunSummary:
        """Starts a run."""
        return await self.driver.start(request(workflow, key=key))

    # Observations -----------------------------------------------------------------------------------------------------

    def events(self, run: RunId) -> list[Any]:
        """The run's durable events."""
        return [record.event for record in self.log.read(run_stream(run))]

    def kinds(self, run: RunId) -> list[str]:
        """The kinds of the run's durable events."""
        return [type(event).__name__ for event in self.events(run)]

    def placed(self) -> dict[AgentId, list[Any]]:
        """The attempts that hold slots, by agent."""
        return {server.agent: sorted(server.taken) for server in self.state.placement.servers.values() if server.taken}

    def snapshot(self) -> Any:
        """The live state that recovery must restore, as plain values."""
        return {
            "runs": {run: dump(state) for run, state in sorted(self.state.runs.items())},
            "placed": self.placed(),
            "waiting": self.state.placement.waiting,
            "timers": len(self.state.timers),
        }


def finished(key: messages.TaskId, at: int = START_AT, **changes: Any) -> messages.Finished:
    """A result as an agent reports it: success, unless `changes` override it."""
    fields: dict[str, Any] = {
        "outcome": Outcome.SUCCESS,
        "exit_code": 0,
        "reason_code": "",
        "reason_text": "",
        "outputs": {},
        "env": {},
        "started_at": at,
        "finished_at": at,
        "output_bytes": 0,
        "output_dropped": 0,
    }
    return messages.Finished(key=key, **{**fields, **changes})
