"""What differs between the engines, as the rest of the daemon sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from waterflowd import ports
from waterflowd.access.tokens import TokenRegistry
from waterflowd.admin.metrics import RunFigures
from waterflowd.admin.ports import RunReader
from waterflowd.app.config import Config
from waterflowd.dispatch import lowering
from waterflowd.host.agents.enrollment import EnrollmentService
from waterflowd.host.agents.fleet_changes import FleetChanges
from waterflowd.host.agents.handler import AgentHandler
from waterflowd.host.driver import Driver
from waterflowd.host.feed import Feed
from waterflowd.host.live_state import LiveState
from waterflowd.host.queries import RunQueries
from waterflowd.reconcile.loop import Reconciler
from waterflowd.reconcile.loop.ports import no_other_leader
from waterflowd.secrets.sources import Sources
from waterflowd.time_slices import TimeSlices


async def nothing_to_wait_for() -> None:
    """The daemon's own log is read before it starts."""


@dataclass(frozen=True, kw_only=True)
class EngineParts:
    """What an engine is made of: the daemon's own log with its driver, and what it knows of servers and secrets."""

    config: Config
    state: LiveState
    journal: ports.Journal
    driver: Driver
    queries: RunQueries
    #: The history of the daemon's own log.
    history: ports.History
    #: The output logs in the data directory.
    outputs: ports.OutputLogs
    feed: Feed
    link: ports.Link
    clock: ports.Clock
    secrets: Sources
    #: Reads a secret that the attempt may read by its origin.
    read_secret: lowering.ReadSecret
    missing_secrets: lowering.MissingSecrets
    #: What steps start as child runs.
    workflows: ports.ChildWorkflows
    time_slices: TimeSlices


@dataclass(frozen=True, kw_only=True)
class AccessWriters:
    """What records agents and tokens."""

    fleet: ports.StreamWriter
    tokens: ports.StreamWriter
    #: Why no new session may be opened at the moment; empty if it may.
    blind: Callable[[], str] = lambda: ""
    #: Called once with the service to which agents come.
    connect: Callable[[EnrollmentService], None] = lambda enrollment: None
    #: Returns when everything that was recorded before the daemon's start is known, or the daemon must start without it.
    ready: Callable[[], Awaitable[None]] = nothing_to_wait_for


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine: it hosts runs, and knows the attempts of agents."""

    runs: ports.Runs
    history: ports.History
    outputs: ports.OutputLogs
    reader: RunReader
    attempts: ports.Attempts
    #: What records agents and tokens, and folds them into the two arguments.
    access: Callable[[FleetChanges, TokenRegistry], AccessWriters]
    #: None without a common order of all events.
    feed: Feed | None = None
    #: The ends of the runs of a repository, by its name.
    ends_of: Callable[[str], ports.RunEnds | None] = lambda name: None
    #: Keeps all repositories applied.
    reconcile: Callable[[Reconciler], Coroutine[Any, Any, None]] = Reconciler.run
    #: See `LoopPorts`.
    ask_leader: Callable[[str], Awaitable[None]] = no_other_leader
    #: What metrics say of runs; None for those that the driver hosts.
    run_figures: Callable[[], RunFigures] | None = None
    #: Why agents must look for another daemon now; "" if they need not.
    absence: Callable[[], str] = lambda: ""
    #: Background work, by name.
    tasks: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)
    #: Called once with the handler of agents, which needs the attempts before.
    connect: Callable[[AgentHandler], None] = lambda agents: None


#: Composes an engine.
Compose = Callable[[EngineParts], Engine]
