"""What the contract of runs needs of an engine: runs, the one agent of the group `web`, and a daemon that may restart.

Rules of this file: a method that changes something returns when everything has happened that follows from it, as far as it does
not need time. `offers` and `stops` say how many the test expects, because a real server needs a moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from waterflow_agent.wire import messages as wire
from waterflow_agent.wire.messages import AttemptState, TaskId
from waterflowd import ports
from waterflowd.admin.ports import RunReader
from waterflowd.dsl import compile_workflow
from waterflowd.engine import Run
from waterflowd.engine.events import RunEvent
from waterflowd.model.ids import AgentId, RunId
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Outcome
from waterflowd.testing.host import RecordingLink, agent_id, finished, hello_of

#: The file of the runs that a test starts; child workflows are in the same folder.
PATH = "workflows/w.yml"


#: A kind of event.
Kind = TypeVar("Kind")
Wanted = TypeVar("Wanted")


class Fact(NamedTuple, Generic[Kind]):
    """An event, and when it was recorded, in ms."""

    at: int
    event: Kind

    def of(self, kind: type[Wanted]) -> Fact[Wanted] | None:
        """This fact, if its event is of the kind."""
        return Fact(self.at, self.event) if isinstance(self.event, kind) else None


class RunEngine(Protocol):
    """See the file's docstring."""

    #: How long the agent may be away before its attempts are lost, and how long their lease is if they have one.
    lost_after_ms: int
    lease_ms: int

    async def start(self, workflow: str, *, key: str | None = None, files: Mapping[str, str] = ...) -> RunId:
        """Starts a run; `files` are other workflow files of its repository."""
        ...

    async def cancel(self, run: RunId, *, is_forced: bool = False) -> None:
        """Somebody cancels the run. Raises `Rejected`."""

    async def decide(self, run: RunId, by: str, *, is_approved: bool) -> None:
        """Somebody approves or rejects step `ask` of job `a`. Raises `Rejected`."""

    async def retry(self, run: RunId) -> None:
        """A person lets a stalled run continue, after its cause was removed."""

    async def restart(self) -> None:
        """The daemon is killed, and starts again; the agent connects again with what it has."""

    async def advance(self, duration_ms: int) -> None:
        """Time passes."""

    # The agent --------------------------------------------------------------------------------------------------------

    async def offers(self, count: int) -> list[TaskId]:
        """The attempts that the agent was offered since the last call: these many."""
        ...

    async def stops(self, count: int) -> list[wire.Cancel]:
        """The requests to stop an attempt that the agent has got so far: these many."""
        ...

    async def started(self, task: TaskId) -> None:
        """The agent reports a start."""

    async def finish(self, task: TaskId, outcome: Outcome = Outcome.SUCCESS, **outputs: str) -> None:
        """The agent reports an end, once more if it has done so already."""

    async def leave(self) -> None:
        """The agent's session ends."""

    async def come_back(self, *, forgets: bool = False) -> None:
        """The agent opens a session, with what it holds and has to report; or without its records."""

    # Observations -----------------------------------------------------------------------------------------------------

    async def facts(self, run: RunId) -> list[Fact[RunEvent]]:
        """What is recorded of a run."""
        ...

    async def run(self, run: RunId) -> Run:
        """The run by its facts."""
        ...

    async def recorded(self, run: RunId, kind: type[Kind]) -> Fact[Kind]:
        """The first event of this kind; waits for it where time is real."""
        ...

    async def ended(self, run: RunId) -> Run:
        """The run, which has ended; waits for that where time is real."""
        ...

    async def stalls(self, run: RunId) -> None:
        """Waits until the run is stalled."""

    def now(self) -> int:
        """The time of facts, in ms."""
        ...


class ReadingEngine(RunEngine, Protocol):
    """An engine with the readers of the API."""

    @property
    def history(self) -> ports.History:
        """The history of all runs."""
        ...

    @property
    def reader(self) -> RunReader:
        """Their state, now and earlier."""
        ...

    async def row(self, run: RunId) -> RunSummary | None:
        """The row of a run."""
        ...


def request(workflow: str, key: str | None, files: Mapping[str, str]) -> StartRequest:
    """A request to start a workflow of the repository `ops`, or one that was sent to the API if there are no other files."""
    others = {path: content.encode() for path, content in files.items()}
    compiled = compile_workflow(PATH, workflow.encode(), others)
    assert compiled.plan is not None, compiled.diagnostics
    trigger = Trigger(kind=TriggerKind.CLI, by="uid:0", principal="uid:0", key=key)
    repository, revision = ("ops", "c1") if files else (None, None)
    return StartRequest(plan=compiled.plan, trigger=trigger, repository=repository, revision=revision)


class PlayedAgent:
    """The agent `web-1`. What it holds and has to report outlives its sessions, and daemons."""

    def __init__(self) -> None:
        self.id: AgentId = agent_id("web-1")
        self.held: dict[TaskId, AttemptState] = {}
        self.stops: list[wire.Cancel] = []
        self.is_connected = False
        self._reports: dict[TaskId, wire.Finished] = {}
        self._read = 0
        self._link = RecordingLink()

    def connect(self, listener: ports.AgentListener, link: RecordingLink, *, forgets: bool = False) -> None:
        """Opens a session with a daemon."""
        if link is not self._link:
            self._link, self._read = link, 0
        if forgets:
            self.held.clear()
            self._reports.clear()
        self._listener = listener
        self.is_connected = True
        held = [wire.HeldAttempt(task, state) for task, state in self.held.items()]
        for task in listener.settle(self.id, hello_of(held=held)):
            self.held.pop(task, None)
            self._reports.pop(task, None)
        listener.connected(self.id)
        for report in list(self._reports.values()):
            self._send(report)

    def disconnect(self) -> None:
        """The session ends."""
        self.is_connected = False
        self._listener.disconnected(self.id, "the connection was lost")

    def take(self) -> list[TaskId]:
        """Reads what has arrived; returns new attempts."""
        new = []
        sent = self._link.sent[self._read :]
        self._read += len(sent)
        for to, message in sent:
            assert to == self.id
            if isinstance(message, wire.Offer) and message.task.key not in self.held:
                self.held[message.task.key] = AttemptState.ACCEPTED
                new.append(message.task.key)
            elif isinstance(message, wire.Cancel) and not self._has_got(message):
                self.stops.append(message)
        return new

    def _has_got(self, stop: wire.Cancel) -> bool:
        """Whether the same was requested before: repeating a request is harmless."""
        return any((stop.key, stop.force) == (known.key, known.force) for known in self.stops)

    def started(self, task: TaskId, at: int) -> None:
        """Reports a start."""
        self.held[task] = AttemptState.STARTED
        self._listener.received(self.id, [wire.Started(task, at)], lambda: None)

    def finish(self, task: TaskId, at: int, outcome: Outcome, outputs: dict[str, str]) -> None:
        """Reports an end; keeps the report until the daemon has confirmed it."""
        self.held[task] = AttemptState.FINISHED
        exit_code = 0 if outcome is Outcome.SUCCESS else 1
        report = finished(task, at, outcome=outcome, exit_code=exit_code, outputs=outputs)
        self._reports[task] = report
        if self.is_connected:
            self._send(report)

    def is_running(self, task: TaskId) -> bool:
        """Whether it has the attempt, and no end to report."""
        return self.held.get(task) in (AttemptState.ACCEPTED, AttemptState.STARTED)

    @property
    def is_done(self) -> bool:
        """Whether it has no report that was not confirmed."""
        return not self._reports

    def _send(self, report: wire.Finished) -> None:
        def confirmed() -> None:
            self.held.pop(report.key, None)
            self._reports.pop(report.key, None)

        self._listener.received(self.id, [report], confirmed)
