"""Inputs: requests and reports from outside the run. They are not in the log; the events that they cause are.

Rules of this file:

- An input may be stale, repeated or wrong; `decide` determines its effect. Everything known only outside the run (ids, random
  numbers, the agent that the fleet chose) is part of the input, and is recorded in the events.
- A host may store inputs until a turn takes them (`model/codec.py`), so the rules for fields and kinds of events apply to them.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from waterflowd.engine import events
from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.reasons import Reason
from waterflowd.model.records import Reused, Trigger
from waterflowd.model.statuses import Conclusion, Outcome


class TimerKind(Enum):
    """The purpose of a timer."""

    #: The run's timeout.
    RUN_TIMEOUT = "run-timeout"
    #: The timeout of a job that waits for a server.
    JOB_START = "job-start"
    #: The job's timeout.
    JOB_TIMEOUT = "job-timeout"
    #: The end of a `sleep` step.
    STEP_SLEEP = "step-sleep"
    #: The next attempt of a step.
    STEP_RETRY = "step-retry"
    #: The time within which an agent must confirm a stop.
    STEP_STOP = "step-stop"
    #: The timeout of a step with blocks.
    STEP_TIMEOUT = "step-timeout"
    #: The timeout of an approval.
    APPROVAL = "approval"
    #: The next try of a job.
    JOB_RETRY = "job-retry"
    #: The pause between two batches.
    BATCH_PAUSE = "batch-pause"


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies one timer of a run. `due_at` is part of the identity: a timer that is set again is a new one."""

    kind: TimerKind
    due_at: int
    job: JobId | None = None
    step: StepId | None = None


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all inputs."""


class StartRun(Input, frozen=True, kw_only=True, tag="start-run"):
    """Start the run; it has its plan already. `vars` override the file's own."""

    plan_hash: str
    number: int
    trigger: Trigger
    repository: str | None
    revision: str | None
    inputs: dict[str, Any]
    vars: dict[str, Any]
    rerun_of: RunId | None = None
    reused: Reused | None = None
    hashes: dict[str, str] = {}
    environments: dict[str, events.Policy] = {}


class SlotGranted(Input, frozen=True, kw_only=True, tag="slot-granted"):
    """Answer to `RequestSlot`: the attempt has a slot on this agent."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId
    agent_name: str
    boot_id: str
    #: What the `agent` context of expressions shows.
    facts: dict[str, Any]
    #: The version of the node, where it is the server's own.
    node_version: str = ""
    #: The lease of an attempt that needs one.
    lease_ms: int = 0


class SlotPending(Input, frozen=True, kw_only=True, tag="slot-pending"):
    """Answer to `RequestSlot`: no slot yet, and why."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    reason: Reason


class SlotDenied(Input, frozen=True, kw_only=True, tag="slot-denied"):
    """Answer to `RequestSlot`: the attempt will never get a slot, and why; for example a secret that no source has."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    reason: Reason


class ChildRunCreated(Input, frozen=True, kw_only=True, tag="child-run-created"):
    """Answer to `StartChildRun`: the child run exists. `name` and `number` are for people."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId
    name: str
    number: int


class ChildRunNotCreated(Input, frozen=True, kw_only=True, tag="child-run-not-created"):
    """Answer to `StartChildRun`: the child run could not be created yet, or (`is_refused`) never will be."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    is_refused: bool = False
    reason: Reason


class ChildRunEnded(Input, frozen=True, kw_only=True, tag="child-run-ended"):
    """Answer to `WatchChildRun`, once the child run has ended: its conclusion, reason and outputs."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId
    conclusion: Conclusion
    reason: str
    outputs: dict[str, Any] = {}


class ServersListed(Input, frozen=True, kw_only=True, tag="servers-listed"):
    """Answer to `ListServers`: the current servers of the group, by name; or why it has none."""

    job: JobId
    servers: list[tuple[AgentId, str]]
    reason: Reason | None = None
    #: The group will never have one for this job.
    is_refused: bool = False


class LockAcquired(Input, frozen=True, kw_only=True, tag="lock-acquired"):
    """Answer to `AcquireLock`: the run or job holds the slot."""

    job: JobId | None


class LockNotAcquired(Input, frozen=True, kw_only=True, tag="lock-not-acquired"):
    """Answer to `AcquireLock`: the slot was not granted yet, or (`is_refused`) never will be."""

    job: JobId | None
    is_refused: bool = False
    reason: Reason


class DecideApproval(Input, frozen=True, kw_only=True, tag="decide-approval"):
    """A person's decision about an approval. The host has checked that the person may decide."""

    job: JobId
    step: StepId | None = None
    by: str
    is_approved: bool
    comment: str = ""


class CancelJob(Input, frozen=True, kw_only=True, tag="cancel-job"):
    """Cancel one job."""

    job: JobId
    reason: Reason


class TaskReport(Input, frozen=True, kw_only=True):
    """Base of an agent's reports about one attempt; `agent` is the key that ZeroMQ reported, not a claim."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId


class TaskStarted(TaskReport, frozen=True, kw_only=True, tag="task-started"):
    """The attempt's process has run since `started_at` (ms, the agent's clock)."""

    started_at: int


class TaskFinished(TaskReport, frozen=True, kw_only=True, tag="task-finished"):
    """The attempt ended. Times are the agent's clock."""

    outcome: Outcome
    exit_code: int | None = None
    reason_code: str = ""
    reason_text: str = ""
    outputs: dict[str, Any] = {}
    env: dict[str, str] = {}
    started_at: int
    finished_at: int
    output_bytes: int = 0
    output_dropped: int = 0
    #: Markdown for people.
    summary: str = ""
    #: Lines of its output that it has marked as error, warning or notice.
    annotations: list[str] = []


class TaskLost(TaskReport, frozen=True, kw_only=True, tag="task-lost"):
    """The outcome of the attempt is unknown: its server rebooted, was revoked, or stayed away too long."""

    reason: Reason


class TimerFired(Input, frozen=True, kw_only=True, tag="timer-fired"):
    """A timer is due."""

    timer: Timer


class CancelRun(Input, frozen=True, kw_only=True, tag="cancel-run"):
    """Cancel the run; with `is_forced`, without waiting for agents, except for attempts with a lease or `on-lost: hold`."""

    by: str
    is_forced: bool = False


RunInput = (
    StartRun
    | SlotGranted
    | SlotPending
    | SlotDenied
    | ChildRunCreated
    | ChildRunNotCreated
    | ChildRunEnded
    | ServersListed
    | LockAcquired
    | LockNotAcquired
    | DecideApproval
    | CancelJob
    | TaskStarted
    | TaskFinished
    | TaskLost
    | TimerFired
    | CancelRun
)
