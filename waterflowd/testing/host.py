"""A whole host over memory: the real driver, engine, placement and desks; the log, the clock and the link are the test's.

Rules of this file: no socket, no file, no thread. The clock moves only by `advance`. The link records what leaves and sends
it nowhere; what agents say, the test says (`hello`, `started`, `finished`). A crash is `crashed`: another host over what
was durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from waterflow_agent.nodes import schema
from waterflow_agent.wire import messages
from waterflowd.access import events
from waterflowd.dispatch import lowering
from waterflowd.dsl import compile_workflow
from waterflowd.engine.events import RunEvent
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.locks import Locks
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.host.agents import AgentHandler, Bulk
from waterflowd.host.batch import LiveState, Lower, MissingSecrets, all_missing
from waterflowd.host.child_run_starter import ChildRunStarter
from waterflowd.host.child_runs import ChildRunRegistry
from waterflowd.host.driver import Driver
from waterflowd.host.enrollment import EnrollmentService
from waterflowd.host.feed import Feed
from waterflowd.host.file_responses import FileServer
from waterflowd.host.outputs import OutputCollector
from waterflowd.host.queries import RunQueries
from waterflowd.host.timers import Timers
from waterflowd.model.ids import FLEET, AgentId, RunId, run_stream
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Outcome
from waterflowd.reconcile import events as repository_events
from waterflowd.store.codec import Codec
from waterflowd.testing.memory_files import MemoryFiles, Trees, no_trees
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.memory_outputs import MemoryOutputLogs
from waterflowd.testing.memory_workflows import MemoryChildWorkflows
from waterflowd.testing.scenario import dump

START_AT = 1_700_000_000_000
LOST_AFTER_MS = 600_000
NODES = [name for name, node in schema.BUILT_IN.items() if node.runs_in is not schema.RunsIn.ENGINE]

ONE_STEP = "jobs: {a: {runs-on: web, steps: [{run: work}]}}"
TWO_STEPS = "jobs: {a: {runs-on: web, steps: [{run: work}, {run: work}]}}"


def codec() -> Codec:
    """The store's codec for all streams, so that what cannot be stored fails in tests too."""
    return Codec(
        {
            "run": RunEvent,
            "fleet": fleet_events.Fact,
            "repo": repository_events.Fact,
            "audit": events.Fact,
        }
    )


class ManualClock:
    """The log's clock, moved by hand."""

    def __init__(self, at: int = START_AT) -> None:
        self.at = at

    def now(self) -> int:
        """Milliseconds."""
        return self.at


class RecordingLink:
    """`ports.Link` that keeps what was sent, and asks `watch` at each message, if it is set."""

    def __init__(self) -> None:
        self.sent: list[tuple[AgentId, messages.DaemonMessage]] = []
        self.revoked: list[AgentId] = []
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

    def take(self) -> list[messages.DaemonMessage]:
        """What was sent since the last call."""
        taken = [message for _, message in self.sent]
        self.sent.clear()
        return taken

    def offers(self) -> list[messages.TaskId]:
        """The keys of the offers that were sent and not taken yet, in order."""
        return [message.task.key for _, message in self.sent if isinstance(message, messages.Offer)]


def agent_id(name: str) -> AgentId:
    """The fingerprint that the tests give to the agent of this name."""
    return AgentId(f"SHA256:{name:x<43}")


def request(workflow: str = ONE_STEP, *, key: str | None = None, path: str = "workflows/w.yml") -> StartRequest:
    """A start of this workflow."""
    compiled = compile_workflow(path, workflow.encode())
    if compiled.plan is None:
        raise ValueError(f"the workflow has errors: {compiled.diagnostics}")
    return StartRequest(plan=compiled.plan, trigger=Trigger(kind=TriggerKind.CLI, by="uid:0", key=key))


class HostWorld:
    """A host; `async with HostWorld() as world` recovers and runs it."""

    def __init__(
        self,
        log: MemoryLog | None = None,
        clock: ManualClock | None = None,
        *,
        lower: Lower = lowering.lower,
        trees: Trees = no_trees,
        missing_secrets: MissingSecrets = all_missing,
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
        self.world = LiveState(
            runs={},
            stalled={},
            placement=Placement(self.registry),
            locks=Locks(),
            registry=self.registry,
            timers=Timers(),
            child_runs=ChildRunRegistry(self.queries.known),
            lower=lower,
            missing_secrets=missing_secrets,
            epoch=self.log.generation,
        )
        self.driver = Driver(self.world, self.log, self.link, self.clock, self.feed, self.queries)
        self.outputs = OutputCollector(self.world, self.output_logs, self.link, self.feed, self.queries)
        self.files = FileServer(self.world, MemoryFiles(trees), self.link)
        self.agents = AgentHandler(self.driver, self.link, self.clock, Bulk(self.outputs, self.files), LOST_AFTER_MS)
        self.enrollment = EnrollmentService(self.registry, self.driver, self.agents, self.link, self.clock, agent_id)
        self.workflows = MemoryChildWorkflows()
        self.starter = ChildRunStarter(self.driver, self.workflows)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> HostWorld:
        self.driver.recover()
        self.agents.recovered()
        self._tasks = [
            asyncio.create_task(self.driver.run(), name="driver"),
            asyncio.create_task(self.outputs.run(), name="output logs"),
            asyncio.create_task(self.starter.run(), name="starter"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for handle in self.agents._lost_timers.values():  # the daemon's end closes the loop; a test's does not
            handle.cancel()
        if self.agents._gathering is not None:
            self.agents._gathering.cancel()
        await self.files.close()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def is_alive(self) -> bool:
        """False when a background task has ended: the daemon would stop."""
        return not any(task.done() for task in self._tasks)

    def crashed(self, commits: int | None = None) -> HostWorld:
        """Another host over what is durable now, or was after so many commits. This one is to be left alone."""
        again = HostWorld(self.log.reopened(commits), ManualClock(self.clock.at))
        again.workflows.files = self.workflows.files
        return again

    # What happens outside ---------------------------------------------------------------------------------------------

    def enroll(self, name: str, *groups: str) -> AgentId:
        """The agent of this name may work; its fact is in the log."""
        agent = agent_id(name)
        fact = fleet_events.AgentApproved(
            at=self.clock.now(), by="test", agent=agent, public_key=name, name=name, groups=groups
        )
        self.registry.apply(fact)
        return agent

    def hello(self, agent: AgentId, **changes: Any) -> list[messages.TaskId]:
        """The agent opens a session; gives what it should forget."""
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
        forget = self.agents.settle(agent, messages.Hello(**{**fields, **changes}))
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
        """Time passes; what is due has happened when this returns."""
        self.clock.at += milliseconds
        self.driver.wake()
        await self.settle()

    async def settle(self) -> None:
        """Returns when the driver has done all that was there, and what came of it."""
        for _ in range(3):
            await self.driver.pass_through()

    async def start(self, workflow: str = ONE_STEP, *, key: str | None = None) -> RunSummary:
        """Starts a run."""
        return await self.driver.start(request(workflow, key=key))

    # What is there ----------------------------------------------------------------------------------------------------

    def events(self, run: RunId) -> list[Any]:
        """The run's durable events."""
        return [record.event for record in self.log.read(run_stream(run))]

    def kinds(self, run: RunId) -> list[str]:
        """The kinds of the run's durable events."""
        return [type(event).__name__ for event in self.events(run)]

    def placed(self) -> dict[AgentId, list[Any]]:
        """Which attempts hold slots, by agent."""
        return {server.agent: sorted(server.taken) for server in self.world.placement.servers.values() if server.taken}

    def state(self) -> Any:
        """All live state that recovery must find again, as plain values."""
        return {
            "runs": {run: dump(state) for run, state in sorted(self.world.runs.items())},
            "placed": self.placed(),
            "waiting": self.world.placement.waiting,
            "timers": len(self.world.timers),
        }


def finished(key: messages.TaskId, at: int = START_AT, **changes: Any) -> messages.Finished:
    """A result as an agent reports it: success, unless `changes` say something else."""
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


async def until(is_true: Callable[[], object], seconds: float = 5.0) -> None:
    """Waits for a condition, with a deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not is_true():
        assert loop.time() < end, "the condition did not come true in time"
        await asyncio.sleep(0.001)
