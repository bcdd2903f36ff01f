"""Commands: what the host must do for a run, once the events that led to them are on disk.

Rules of this file:

- A command can be executed twice without harm. Requests to the fleet (`RequestSlot`, `ListServers`, `AcquireLock`) are executed
  before the commit, because their answers are inputs of the same turn.
- A host may store commands until they are carried out (`model/codec.py`), so the rules for fields and kinds of events apply to
  them.
"""

from __future__ import annotations

import msgspec

from waterflowd.engine.inputs import Timer
from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.plan import Queue


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all commands."""


class RequestSlot(Command, frozen=True, kw_only=True, tag="request-slot"):
    """Request a slot: on `agent` if the job has its server already, else on any server of `group`."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    group: str
    labels: tuple[tuple[str, str], ...] = ()
    node: str
    agent: AgentId | None
    #: Servers to use only if no other is available, because earlier tries of the job failed there.
    avoid: tuple[AgentId, ...] = ()
    #: Secrets that must have a value.
    secrets: tuple[str, ...] = ()


class ListServers(Command, frozen=True, kw_only=True, tag="list-servers"):
    """List the servers of the group, and again whenever they change, until the job has its instances."""

    job: JobId
    group: str
    labels: tuple[tuple[str, str], ...] = ()


class DropServerList(Command, frozen=True, kw_only=True, tag="drop-server-list"):
    """The job no longer needs the list of servers."""

    job: JobId


class AcquireLock(Command, frozen=True, kw_only=True, tag="acquire-lock"):
    """Request a slot in a concurrency group, or keep the one already held; answered again whenever the answer changes."""

    job: JobId | None
    group: str
    limit: int
    queue: Queue
    cancel_in_progress: bool


class ReleaseLock(Command, frozen=True, kw_only=True, tag="release-lock"):
    """Free the slot in the concurrency group, or withdraw the request for it."""

    job: JobId | None
    group: str


class CancelSlotRequest(Command, frozen=True, kw_only=True, tag="cancel-slot-request"):
    """The attempt no longer needs a slot."""

    job: JobId
    step: StepId
    attempt: AttemptNo


class StartChildRun(Command, frozen=True, kw_only=True, tag="start-child-run"):
    """Start the child run, once; the start and `ChildRunCreated` belong to one batch."""

    job: JobId
    step: StepId
    attempt: AttemptNo


class WatchChildRun(Command, frozen=True, kw_only=True, tag="watch-child-run"):
    """Feed `ChildRunEnded` when the child run has ended; at once if it has ended already."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId


class CancelChildRun(Command, frozen=True, kw_only=True, tag="cancel-child-run"):
    """Cancel the child run, unless it has ended."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId
    is_forced: bool


class DropChildRun(Command, frozen=True, kw_only=True, tag="drop-child-run"):
    """The attempt no longer starts or awaits a child run."""

    job: JobId
    step: StepId
    attempt: AttemptNo


class SendTask(Command, frozen=True, kw_only=True, tag="send-task"):
    """Offer the attempt to the agent that holds its lease."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId


class CancelTask(Command, frozen=True, kw_only=True, tag="cancel-task"):
    """Tell the agent to stop the attempt."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId
    is_forced: bool
    reason: str


class FreeSlot(Command, frozen=True, kw_only=True, tag="free-slot"):
    """The attempt has ended: free its slot."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    agent: AgentId


class ReleaseJob(Command, frozen=True, kw_only=True, tag="release-job"):
    """The job has ended: tell its agent that it may remove or keep the working directory. Repeated when the agent connects."""

    job: JobId
    agent: AgentId
    #: It failed, so a re-run may continue it in its directory.
    is_kept: bool = False


class ArmTimer(Command, frozen=True, kw_only=True, tag="arm-timer"):
    """Feed `TimerFired(timer)` at `timer.due_at`."""

    timer: Timer


class DropTimer(Command, frozen=True, kw_only=True, tag="drop-timer"):
    """The timer is no longer needed."""

    timer: Timer


RunCommand = (
    RequestSlot
    | ListServers
    | DropServerList
    | AcquireLock
    | ReleaseLock
    | CancelSlotRequest
    | StartChildRun
    | WatchChildRun
    | CancelChildRun
    | DropChildRun
    | SendTask
    | CancelTask
    | FreeSlot
    | ReleaseJob
    | ArmTimer
    | DropTimer
)
