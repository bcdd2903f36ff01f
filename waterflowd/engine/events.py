"""Events: the facts of one run, named in the past tense, as they are stored in the log.

Rules of this file:

- An event records what was decided and all outside information that the decision used; folding it again needs nothing else.
- Every event that changes a status carries its reason. `at` is the log's time in ms.
- Stored logs keep these records forever: a new field has a default, a field never changes its meaning, and a kind is never
  renamed. A changed shape gets a new kind and an upcaster in `model/codec.py`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.plan import Queue
from waterflowd.model.reasons import Reason
from waterflowd.model.records import Reused, Trigger
from waterflowd.model.reports import ReportCells
from waterflowd.model.statuses import Conclusion, Outcome


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all events of a run."""

    at: int


class Instance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One instance of a job: what distinguishes it from the others. Its id is `JOB[key]`."""

    key: str
    name: str = ""
    matrix: dict[str, Any] = {}
    #: The server that it must run on.
    agent: AgentId | None = None
    agent_name: str = ""


class Unattended(Enum):
    """What `self-approval = false` means for a run without an authenticated starter, such as one of a push."""

    #: Two different principals must approve.
    TWO_APPROVERS = "two-approvers"
    #: The job fails.
    REFUSE = "refuse"


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the daemon's configuration requires of a job that uses an environment, as of the creation of the run."""

    approvers: tuple[str, ...] = ()
    minimum: int = 0
    may_approve_own: bool = True
    unattended: Unattended = Unattended.TWO_APPROVERS
    #: Whether jobs of the run's ref may use the environment.
    is_ref_allowed: bool = True
    vars: dict[str, Any] = {}


class RunCreated(Event, frozen=True, kw_only=True, tag="run-created"):
    """The run was created and all its jobs are queued. `vars` are resolved."""

    plan_hash: str
    number: int
    trigger: Trigger
    repository: str | None = None
    revision: str | None = None
    inputs: dict[str, Any] = {}
    vars: dict[str, Any] = {}
    #: Numbers of the behaviour flags that apply to the run until it ends (flags.py).
    flags: tuple[int, ...] = ()
    deadline_at: int
    #: Variables that were set at the start and override the file's `vars`.
    start_vars: dict[str, Any] = {}
    #: Of a re-run: the original run, and what is reused from it.
    rerun_of: RunId | None = None
    reused: Reused | None = None
    #: Results of `hashFiles`, by its patterns joined by newlines.
    hashes: dict[str, str] = {}
    #: By the name of the environment.
    environments: dict[str, Policy] = {}
    reason: Reason


class RunStarted(Event, frozen=True, kw_only=True, tag="run-started"):
    """The first job may start."""

    reason: Reason


class LockRequested(Event, frozen=True, kw_only=True, tag="lock-requested"):
    """The run or job requested a slot in this concurrency group and waits until it has one."""

    job: JobId | None = None
    group: str
    limit: int
    queue: Queue
    cancel_in_progress: bool
    reason: Reason


class LockWaiting(Event, frozen=True, kw_only=True, tag="lock-waiting"):
    """The group is full. Recorded again whenever the position in the queue changes."""

    job: JobId | None = None
    reason: Reason


class LockGranted(Event, frozen=True, kw_only=True, tag="lock-granted"):
    """The run or job holds its slot in the concurrency group until it ends."""

    job: JobId | None = None


class LockRefused(Event, frozen=True, kw_only=True, tag="lock-refused"):
    """The slot was refused: the group is full (`queue: reject`), or a newer request replaced this one in the queue."""

    job: JobId | None = None
    reason: Reason


class EnvironmentEntered(Event, frozen=True, kw_only=True, tag="environment-entered"):
    """The name of the job's environment was evaluated. It is evaluated once: its gate and its rights have the same name."""

    job: JobId
    environment: str


class ApprovalRequested(Event, frozen=True, kw_only=True, tag="approval-requested"):
    """The job, or its step, waits for approval. Without a decision by `due_at`, `default` applies."""

    job: JobId
    step: StepId | None = None
    #: The environment, if a job waits.
    environment: str = ""
    approvers: tuple[str, ...] = ()
    minimum: int = 1
    may_approve_own: bool = True
    due_at: int | None = None
    #: What happens at `due_at`: `approve`, or `reject`.
    default: str = "reject"
    reason: Reason


class ApprovalDecided(Event, frozen=True, kw_only=True, tag="approval-decided"):
    """The approval was decided by a person or, after the timeout, by its default."""

    job: JobId
    step: StepId | None = None
    by: str
    is_approved: bool
    comment: str = ""
    reason: Reason


class JobExpanded(Event, frozen=True, kw_only=True, tag="job-expanded"):
    """The job was expanded to these instances, in this order. The list never changes."""

    job: JobId
    instances: list[Instance]
    #: Maximum number that run at the same time; None: all.
    max_parallel: int | None = None
    #: Ends of the batches, as numbers of instances counted from the first; the last one is the total.
    batches: list[int] = []
    pause_ms: int = 0
    #: After more failures than this no new instance starts; None: no limit.
    max_failures: int | None = None
    #: The first failure also stops the running instances.
    fail_fast: bool = False
    reason: Reason


class JobEntered(Event, frozen=True, kw_only=True, tag="job-entered"):
    """The job was expanded to the jobs of the workflow that it calls, with these values."""

    job: JobId
    name: str
    inputs: dict[str, Any] = {}
    vars: dict[str, Any] = {}
    reason: Reason


class JobHalted(Event, frozen=True, kw_only=True, tag="job-halted"):
    """No new instance of the job starts; with `is_stopped` the running ones are stopped."""

    job: JobId
    is_stopped: bool
    reason: Reason


class JobCancelled(Event, frozen=True, kw_only=True, tag="job-cancelled"):
    """The job must end although its run continues: another one took its slot in the concurrency group."""

    job: JobId
    reason: Reason


class BatchCompleted(Event, frozen=True, kw_only=True, tag="batch-completed"):
    """All instances of the batch have ended; the next batch starts at `resume_at`."""

    job: JobId
    #: From 1.
    batch: int
    resume_at: int
    reason: Reason


class BatchStarted(Event, frozen=True, kw_only=True, tag="batch-started"):
    """The pause before this batch has ended."""

    job: JobId
    #: From 1.
    batch: int


class JobWaiting(Event, frozen=True, kw_only=True, tag="job-waiting"):
    """The job as a whole waits, because no server is available yet on which it could have an instance; `reason` has details."""

    job: JobId
    reason: Reason


class JobSkipped(Event, frozen=True, kw_only=True, tag="job-skipped"):
    """The job ends without starting a step: its server is not available, and the file says not to wait for it."""

    job: JobId
    reason: Reason


class JobRetryScheduled(Event, frozen=True, kw_only=True, tag="job-retry-scheduled"):
    """The job failed and will be retried at `due_at`."""

    job: JobId
    #: Number of the next try, from 2.
    number: int
    due_at: int
    reason: Reason


class JobRestarted(Event, frozen=True, kw_only=True, tag="job-restarted"):
    """The job restarts from its first step, and waits for a server."""

    job: JobId
    number: int
    start_deadline_at: int
    reason: Reason


class StepEntered(Event, frozen=True, kw_only=True, tag="step-entered"):
    """The step's blocks may start. `count` is their number; None for a `while`, which is evaluated before each iteration."""

    job: JobId
    step: StepId
    name: str | None = None
    count: int | None = None
    #: Values of `items`, in order; empty unless the step is a loop over items.
    items: list[Any] = []
    #: The rendered inputs of a composite step.
    inputs: dict[str, Any] = {}
    max_parallel: int = 1
    #: When the step times out.
    deadline_at: int | None = None
    reason: Reason


class BlockStarted(Event, frozen=True, kw_only=True, tag="block-started"):
    """The steps of a block are queued. `plan` is the index of its plan in the step; `number` counts started blocks from 0."""

    job: JobId
    step: StepId
    number: int
    plan: int = 0


class StepTimedOut(Event, frozen=True, kw_only=True, tag="step-timed-out"):
    """A step with blocks timed out: everything that runs inside it is stopped."""

    job: JobId
    step: StepId
    reason: Reason


class JobReady(Event, frozen=True, kw_only=True, tag="job-ready"):
    """The job's needs are met and its condition is true: it waits for a server, unless it needs none."""

    job: JobId
    name: str
    group: str
    labels: dict[str, str] = {}
    timeout_ms: int
    start_deadline_at: int
    reason: Reason


class AttemptQueued(Event, frozen=True, kw_only=True, tag="attempt-queued"):
    """It is the step's turn: this attempt requests a slot."""

    job: JobId
    step: StepId
    attempt: AttemptNo


class AttemptWaiting(Event, frozen=True, kw_only=True, tag="attempt-waiting"):
    """The attempt has no slot yet. Recorded again whenever the reason changes."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    reason: Reason


class AttemptDispatched(Event, frozen=True, kw_only=True, tag="attempt-dispatched"):
    """The attempt belongs to one agent under one lease (`epoch`). It is in the log before the offer is sent.

    Values that contained expressions are rendered here; None means that the plan's own value applies.
    """

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId
    agent_name: str
    boot_id: str
    #: Content of the `agent` context; only in the dispatch that assigns a server to the job.
    facts: dict[str, Any] = {}
    name: str | None = None
    params: dict[str, Any] | None = None
    env: dict[str, str] | None = None
    working_directory: str | None = None
    #: The version of an own node: the SHA-256 of its file, or a package and its version; "" for a node of Waterflow.
    node_version: str = ""
    #: Counted from the start of the process.
    timeout_ms: int
    #: The job's own deadline, set by its first dispatch.
    job_deadline_at: int
    #: How long the attempt may run without news from the daemon, because something else may start elsewhere once it has ended
    #: (rules/leases.py); 0: any time.
    lease_ms: int = 0
    reason: Reason


class AttemptStarted(Event, frozen=True, kw_only=True, tag="attempt-started"):
    """The agent reported that the process is running."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    started_at: int


class AttemptFinished(Event, frozen=True, kw_only=True, tag="attempt-finished"):
    """The attempt ended. `outcome` is what the agent reported, or `lost` when the outcome cannot be known."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    outcome: Outcome
    exit_code: int | None = None
    outputs: dict[str, Any] = {}
    env: dict[str, str] = {}
    started_at: int | None = None
    finished_at: int | None = None
    output_bytes: int = 0
    output_dropped: int = 0
    #: What the step wrote about itself for people: Markdown.
    summary: str = ""
    reason: Reason
    #: The first lines of its output that it has marked as error, warning or notice: `##[error]text`.
    annotations: list[str] = []


class RetryScheduled(Event, frozen=True, kw_only=True, tag="retry-scheduled"):
    """The step will be retried at `due_at`."""

    job: JobId
    step: StepId
    #: Number of the next attempt.
    attempt: AttemptNo
    due_at: int
    reason: Reason


class StepSleeping(Event, frozen=True, kw_only=True, tag="step-sleeping"):
    """The step sleeps until `due_at` without occupying a server."""

    job: JobId
    step: StepId
    due_at: int
    reason: Reason


class ChildRunRequested(Event, frozen=True, kw_only=True, tag="child-run-requested"):
    """The attempt starts a child run of this workflow; the parameters are rendered."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    name: str | None = None
    workflow: str
    inputs: dict[str, Any] = {}
    #: Whether the step ends when the child run ends, rather than when it starts.
    is_awaited: bool = True
    #: When the step times out.
    deadline_at: int | None = None
    reason: Reason


class ChildRunStarted(Event, frozen=True, kw_only=True, tag="child-run-started"):
    """The attempt's child run was created. This event and those of the child run are written in one transaction."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId
    reason: Reason


class StepHeld(Event, frozen=True, kw_only=True, tag="step-held"):
    """The last attempt's outcome is unknown, and the file requires a person to decide."""

    job: JobId
    step: StepId
    reason: Reason


class StepCompleted(Event, frozen=True, kw_only=True, tag="step-completed"):
    """The step ended. `outcome` is how; `conclusion` takes `continue-on-error` into account, and later steps depend on it."""

    job: JobId
    step: StepId
    outcome: Conclusion
    conclusion: Conclusion
    #: Outputs of an engine node or of a reused step; None: those of the last attempt.
    outputs: dict[str, Any] | None = None
    #: What a reused step wrote to the environment.
    env: dict[str, str] = {}
    reason: Reason


class JobTimedOut(Event, frozen=True, kw_only=True, tag="job-timed-out"):
    """The job timed out: everything that runs in it is stopped."""

    job: JobId
    reason: Reason


class JobCompleted(Event, frozen=True, kw_only=True, tag="job-completed"):
    """The job ended."""

    job: JobId
    outcome: Conclusion
    conclusion: Conclusion
    outputs: dict[str, Any] = {}
    reason: Reason
    #: Its values in the report; None without a report, and for a job that ended before any step ran.
    report: ReportCells | None = None


class CancelRequested(Event, frozen=True, kw_only=True, tag="cancel-requested"):
    """The run was cancelled; with `is_forced` it ends without waiting for anything."""

    by: str
    is_forced: bool = False
    reason: Reason


class RunTimedOut(Event, frozen=True, kw_only=True, tag="run-timed-out"):
    """The run timed out: everything that runs in it is stopped."""

    reason: Reason


class LateReport(Event, frozen=True, kw_only=True, tag="late-report"):
    """An agent's result that arrived after the attempt had ended otherwise. Recorded as evidence; changes nothing."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId
    outcome: Outcome
    exit_code: int | None = None


class RunCompleted(Event, frozen=True, kw_only=True, tag="run-completed"):
    """The run ended. This is the last event that changes it."""

    conclusion: Conclusion
    #: Outputs for the step that started the run.
    outputs: dict[str, Any] = {}
    reason: Reason


RunEvent = (
    RunCreated
    | RunStarted
    | LockRequested
    | LockWaiting
    | LockGranted
    | LockRefused
    | EnvironmentEntered
    | ApprovalRequested
    | ApprovalDecided
    | JobExpanded
    | JobEntered
    | JobHalted
    | JobCancelled
    | BatchCompleted
    | BatchStarted
    | JobWaiting
    | JobSkipped
    | JobRetryScheduled
    | JobRestarted
    | JobReady
    | AttemptQueued
    | AttemptWaiting
    | AttemptDispatched
    | AttemptStarted
    | AttemptFinished
    | RetryScheduled
    | StepEntered
    | BlockStarted
    | StepTimedOut
    | StepSleeping
    | ChildRunRequested
    | ChildRunStarted
    | StepHeld
    | StepCompleted
    | JobTimedOut
    | JobCompleted
    | CancelRequested
    | RunTimedOut
    | LateReport
    | RunCompleted
)
