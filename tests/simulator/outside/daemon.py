"""The daemon: one process after the other on the same log, made of the real host, engine, fleet and sessions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulator.child_runs import ChildWorkflows
from tests.simulator.environment import Environment
from tests.simulator.loop import Process
from tests.simulator.outside.network import Door
from tests.simulator.outside.repository import Compiler, Repository, Source
from tests.simulator.outside.secrets import SlowSecrets
from tests.simulator.outside.storage import Log, OutputLogs
from tests.simulator.triggered import HOOK_SECRET, Triggered
from waterflow_agent.errors import Stalled
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.admin.webhooks import SignedWebhookService
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.dispatch.rejections import Rejections
from waterflowd.dispatch.sessions import Sessions, SessionSettings
from waterflowd.engine.rules import leases
from waterflowd.fleet.locks import Locks
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.host.agents.attempts import LiveAttempts
from waterflowd.host.agents.enrollment import EnrollmentService
from waterflowd.host.agents.file_server import FileServer
from waterflowd.host.agents.fleet_changes import FleetChanges
from waterflowd.host.agents.handler import AgentHandler
from waterflowd.host.agents.identities import AgentIdentities
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
from waterflowd.model.ids import FLEET, AgentId
from waterflowd.reconcile.loop import LoopPorts, RepositoryLoop
from waterflowd.reconcile.loop.plan_cache import PlanCache
from waterflowd.reconcile.loop.scheduler import Scheduler
from waterflowd.reconcile.loop.webhook_registry import WebhookRegistry
from waterflowd.reconcile.loop.workflow_run_triggers import WorkflowRunTriggers
from waterflowd.testing.memory_files import MemoryFiles
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.time_slices import TimeSlices

#: How long an agent may stay away before what it holds is lost: less than the product's ten minutes, for speed.
LOST_AFTER_MS = 15_000


class Clock:
    """The log's clock: continues across restarts and never jumps."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now


class _Silent:
    """A logger that keeps nothing."""

    def warning(self, *_: object, **__: object) -> None:
        """Drops the message."""


class _CheckedLink:
    """`ports.Link` over the real sessions; checks each message before it leaves."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.sessions: Sessions | None = None

    def send(self, agent: AgentId, outgoing: Sequence[messages.DaemonMessage]) -> None:
        """Checks that what is sent to an agent is already durable."""
        is_connected = self.sessions is not None and agent in self.sessions.connected
        for message in outgoing:
            self._environment.observer.leaves(agent, message, is_connected=is_connected)
        if self.sessions is not None:
            self.sessions.send(agent, outgoing)

    def revoke(self, agent: AgentId) -> None:
        """See `ports.Link`."""
        if self.sessions is not None:
            self.sessions.revoke(agent)

    def reject(self, agent: AgentId, code: str, text: str) -> None:
        """See `ports.Link`."""
        if self.sessions is not None:
            self.sessions.reject(agent, code, text)


class Daemon:
    """One process of the daemon."""

    def __init__(
        self,
        environment: Environment,
        memory: MemoryLog,
        repositories: Sequence[Repository],
        child_workflows: dict[str, bytes],
    ) -> None:
        self.process = Process("daemon")
        self._environment = environment
        self.log: ports.Journal = Log(environment, self.process, memory)
        self.memory = memory
        self._repositories = repositories
        self._child_workflows = child_workflows
        self.process.run(self._build)

    def _build(self) -> None:
        environment, log = self._environment, self.log
        registry = Registry()
        for record in log.read(FLEET):
            registry.apply(record.event)
        secrets = SlowSecrets(environment.chance)
        clock = Clock(environment.log_ms)
        link, self.feed, queries = _CheckedLink(environment), Feed(log), RunQueries(log)
        self.live_state = LiveState(
            runs={},
            stalled={},
            placement=Placement(registry),
            locks=Locks(),
            registry=registry,
            timers=Timers(),
            child_runs=ChildRunRegistry(queries.known),
            fill=secrets.fill,
            epoch=log.generation,
            lease_ms=leases.lease_ms(LOST_AFTER_MS),
        )
        self.driver = Driver(self.live_state, log, link, clock, self.feed, queries)
        secrets.reader.changed = self.driver.secrets_read
        attempts = LiveAttempts(self.driver, queries)
        output_logs = LogOutputs(OutputLogs(environment, self.process, environment.outputs))
        admission = OutputAdmission(self.live_state.quotas, output_logs, clock, self.driver.keep_counters)
        outputs = OutputCollector(attempts, admission, output_logs, link, self.feed)
        files = FileServer(attempts, MemoryFiles(environment.tree), link)
        self.agents = AgentHandler(
            attempts,
            self.live_state.placement,
            registry,
            link,
            clock,
            outputs=outputs,
            files=files,
            artifacts=ArtifactServer(attempts, link, clock, None),
            lost_after_ms=LOST_AFTER_MS,
        )
        changes = FleetChanges(registry, self.driver, self.agents, link)
        fleet = LogStreamWriter(self.driver, FLEET, changes.apply)
        enrollment = self.enrollment = EnrollmentService(registry, fleet, clock)
        identities = AgentIdentities(registry, self.live_state.placement, fleet, clock)
        silent: logging.Logger = _Silent()  # type: ignore[assignment]
        self.sessions = Sessions(
            self.agents,
            enrollment,
            environment.network,
            SessionSettings(
                generation=log.generation,
                describe=enrollment.describe,
                on_clone=self._on_clone,
                identify=identities.identify,
            ),
            Rejections(silent, lambda: environment.loop.now_ms),
            cpu_s=lambda: 0.0,
        )
        link.sessions = self.sessions
        self.driver.recover()
        self.agents.recovered()
        environment.network.open(Door(self.process, self.sessions.take, self.sessions.closed, enrollment.is_approved))
        self.webhooks: SignedWebhookService | None = None
        #: The loop of each repository of the simulation, by name.
        self.loops = self._start_loops(clock)
        self._watch(self.driver.run(), "driver")
        self._watch(outputs.run(), "output logs")
        self._watch(self._follow(), "feed subscriber")
        if environment.chance.has_child_runs:
            self._watch(
                ChildRunStarter(self.driver, ChildWorkflows(environment, self._child_workflows)).run(), "starter"
            )

    def _start_loops(self, clock: Clock) -> dict[str, RepositoryLoop]:
        """Starts the loops of the simulation's repositories."""
        environment = self._environment
        history = LogHistory(self.log, self.feed, TimeSlices())
        webhooks, plans = WebhookRegistry(), PlanCache(history)
        loops: dict[str, RepositoryLoop] = {}
        for repository in self._repositories:
            loop_ports = LoopPorts(
                history=history,
                runs=self.driver,
                compiler=Compiler(environment, repository),
                clock=clock,
                plans=plans,
                random=environment.chance.dice.random,
                webhooks=webhooks,
                ends_of=lambda name: self.feed,
                wall=environment.wall_ms,
            )
            name = repository.settings.name
            loop = RepositoryLoop(repository.settings, Source(environment, repository, self.process), loop_ports)
            loops[name] = loop
            self._watch(loop.run(), f"repository {name}")
            if isinstance(repository, Triggered):
                self._watch(Scheduler(loop.repository, loop.plan_recovery, loop_ports).run(), f"schedules of {name}")
                self._watch(
                    WorkflowRunTriggers(loop.repository, loop.plan_recovery, loop_ports, self.feed).run(),
                    f"workflow_run triggers of {name}",
                )
                self.webhooks = SignedWebhookService(loop_ports, loops, lambda _: HOOK_SECRET)
        return loops

    def _on_clone(self, agent: AgentId, hello: messages.Hello) -> None:
        # A late `Hello` of a dead process can cause a false alarm; it must not keep the running agent out.
        self._environment.note(f"alarm: {agent} seems to be a clone: {hello.instance}")

    async def _follow(self) -> None:
        """Subscribes to the feed: it must see every durable record once and in order."""
        after = 0
        async for record in self.feed.everything(after):
            after += 1
            self._environment.observer.followed(record, after)

    def _watch(self, work: Any, name: str) -> None:
        self._environment.loop.create_task(work, name=name).add_done_callback(self._ended)

    def _ended(self, task: Any) -> None:
        if self.process.is_dead or task.cancelled():
            return
        error = task.exception()
        text = "needs a person" if isinstance(error, Stalled) else "ended"
        self._environment.fail(f"the daemon's {task.get_name()} {text}: {error!r}", error)
