"""Commands: what the host must do for a run, once the events that led to them are on disk.

Rules of this file: a command can be carried out twice without harm; it is named by what it is about. `RequestSlot` alone is
asked inside the batch, before the commit, because its answer is an input of the same batch.
"""

from __future__ import annotations

import msgspec

from waterflowd.engine.inputs import Timer
from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.plan import Queue


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all commands."""


class RequestSlot(Command, frozen=True, kw_only=True):
    """Ask the fleet for a slot: on `agent` when the job has its server already, else on any of `group`."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    group: str
    labels: tuple[tuple[str, str], ...] = ()
    node: str
    agent: AgentId | None
    #: Servers to leave out while there is another: earlier tries of the job failed there.
    avoid: tuple[AgentId, ...] = ()
    #: Secrets that must be there.
    secrets: tuple[str, ...] = ()


class ListServers(Command, frozen=True, kw_only=True):
    """Say which servers the group has; asked again when that changes, until the job has its instances."""

    job: JobId
    group: str
    labels: tuple[tuple[str, str], ...] = ()


class DropServerList(Command, frozen=True, kw_only=True):
    """The list of servers is not wanted any more."""

    job: JobId


class AcquireLock(Command, frozen=True, kw_only=True):
    """Hold a place in a concurrency group, or ask for one; answered inside the batch, and again whenever the answer changes."""

    job: JobId | None
    group: str
    limit: int
    queue: Queue
    cancel_in_progress: bool


class ReleaseLock(Command, frozen=True, kw_only=True):
    """The place is free, or not wanted any more."""

    job: JobId | None
    group: str


class CancelSlotRequest(Command, frozen=True, kw_only=True):
    """The attempt wants no slot any more."""

    job: JobId
    step: StepId
    attempt: AttemptNo


class StartChildRun(Command, frozen=True, kw_only=True):
    """Start the run that the attempt wants, once; the start and `ChildRunCreated` are of one batch."""

    job: JobId
    step: StepId
    attempt: AttemptNo


class WatchChildRun(Command, frozen=True, kw_only=True):
    """Feed `ChildRunEnded` when the run that the attempt started has ended, at once if it has."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId


class CancelChildRun(Command, frozen=True, kw_only=True):
    """Cancel the run that the attempt started; one that is over stays as it is."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId
    is_forced: bool


class DropChildRun(Command, frozen=True, kw_only=True):
    """The attempt wants no run to be started any more, or waits for none."""

    job: JobId
    step: StepId
    attempt: AttemptNo


class SendTask(Command, frozen=True, kw_only=True):
    """Offer the attempt to the agent that holds its lease."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId


class CancelTask(Command, frozen=True, kw_only=True):
    """Tell the agent to end the attempt."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId
    is_forced: bool
    reason: str


class FreeSlot(Command, frozen=True, kw_only=True):
    """The attempt is over: its slot is free."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    agent: AgentId


class ReleaseJob(Command, frozen=True, kw_only=True):
    """The job is over: tell its agent that the working directory may go. Said again when the agent connects."""

    job: JobId
    agent: AgentId


class ArmTimer(Command, frozen=True, kw_only=True):
    """Feed `TimerFired(timer)` at `timer.due_at`."""

    timer: Timer


class DropTimer(Command, frozen=True, kw_only=True):
    """The timer is not needed any more."""

    timer: Timer
