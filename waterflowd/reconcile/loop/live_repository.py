"""The current state of one repository, and a signal for its changes.

Rules of this file: the logged state is written only here, by folding the log. The loop, the scheduler, the triggers and the
administration services read it and record facts through it. Everything is called on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.access import workflow_errors
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.model.ids import repository_stream
from waterflowd.model.records import StartRequest
from waterflowd.reconcile import codes, events, state
from waterflowd.reconcile.conditions import Conditions, ConditionType
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.loop.ports import LoopPorts
from waterflowd.reconcile.settings import RepositorySettings


class FetchProgress(msgspec.Struct, kw_only=True):
    """What the last reads of the refs found. It is not logged."""

    fetched_at: int | None = None
    #: The watched refs and their objects at the last read, the default ref first.
    fetched: dict[str, str] = {}
    #: The object that was last tried to apply, by ref.
    attempted: dict[str, str] = {}


class LiveRepository:
    """State, conditions and progress of one repository."""

    def __init__(self, settings: RepositorySettings, ports: LoopPorts) -> None:
        self.settings = settings
        self.stream = repository_stream(settings.name)
        self.state = state.RepositoryState(name=settings.name, refs={})
        self.conditions = Conditions(ports.clock.now())
        self.progress = FetchProgress(fetched={}, attempted={})
        #: Position up to which `workflow_run` triggers have handled completed runs; None while no file has such a trigger.
        self.handled_runs_seq: int | None = None
        self._ports = ports
        #: The state holds the facts of the log up to this position.
        self._position = 0
        self._subscribers: list[asyncio.Event] = []
        ports.webhooks.register(self)

    # Changes

    def subscribe(self) -> asyncio.Event:
        """An event that is set at every change; the subscriber clears it before it reads the state."""
        event = asyncio.Event()
        self._subscribers.append(event)
        return event

    def notify(self) -> None:
        """Wakes all subscribers."""
        for event in self._subscribers:
            event.set()

    async def fold(self) -> None:
        """Brings the state up to the log. A transaction that seemed to fail may still have reached the log."""
        for record in await self._ports.history.read(self.stream, self._position + 1):
            if record.position <= self._position:
                # Another task has folded it meanwhile.
                continue
            state.evolve(self.state, record.event, record.seq)
            self._position = record.position
            self.notify()

    async def apply(self, facts: Sequence[events.Fact], starts: Sequence[StartRequest]) -> None:
        """Records facts and starts runs in one transaction, then updates the state."""
        await self._ports.runs.apply(self.stream, facts, starts)
        await self.fold()

    async def record(self, *facts: events.Fact) -> None:
        """Records facts, then updates the state."""
        await self._ports.runs.record(self.stream, facts)
        await self.fold()

    def refs_were_read(self, fetched: Mapping[str, str]) -> None:
        """Remembers the watched refs that a read of the repository found, the default ref first."""
        self.progress.fetched = dict(fetched)
        self.progress.fetched_at = self._ports.clock.now()
        self.set_condition(ConditionType.FETCHED, True, "fetched", "the refs were read")

    def update_is_attempted(self, ref: str, object_id: str) -> None:
        """Remembers that an update of the ref is being applied."""
        self.progress.attempted[ref] = object_id

    def runs_are_handled(self, seq: int | None) -> None:
        """Remembers how far `workflow_run` triggers have read the log; None while no file has such a trigger."""
        self.handled_runs_seq = seq

    def set_condition(self, type_: ConditionType, is_true: bool | None, code: str, text: str) -> None:
        """Sets a condition as of now."""
        self.conditions.set(type_, is_true, code, text, self._ports.clock.now())

    # Queries

    @property
    def position(self) -> int:
        """The position of the newest fact that is in the state."""
        return self._position

    @property
    def name(self) -> str:
        """The repository's name."""
        return self.settings.name

    def watched(self) -> list[state.RefState]:
        """The applied state of the watched refs, the default one first."""
        known = (self.state.refs.get(ref) for ref in self.progress.fetched or self.state.refs)
        return [ref for ref in known if ref is not None and not ref.is_removed]

    def default_ref(self) -> state.RefState | None:
        """The ref whose schedules, webhooks and manual starts count; None if there is none."""
        return next(iter(self.watched()), None)

    def is_default(self, ref: str) -> bool:
        """Whether the ref is the default one, or will be once it is applied."""
        first = next(iter(self.progress.fetched), None)
        if first is None:
            default = self.default_ref()
            first = default.ref if default is not None else None
        return ref == first

    def errors(self, file: FileApplied) -> tuple[Diagnostic, ...]:
        """What keeps the file from being started: its own errors, what it may not use, or a webhook name already in use."""
        return self.access_errors(file) or self._ports.webhooks.errors(self.settings.name, file)

    def access_errors(self, file: FileApplied) -> tuple[Diagnostic, ...]:
        """The file's own errors, or else what the configuration does not let it use."""
        return file.errors or workflow_errors.access_errors(file, self.settings, self._ports.access)

    def suspension(self) -> Rejected | None:
        """The error for requests that a suspended repository refuses; None if it is not suspended."""
        if not self.state.is_suspended:
            return None
        return Rejected(codes.SUSPENDED, f'repository "{self.name}" is suspended; resume it first', status=409)
