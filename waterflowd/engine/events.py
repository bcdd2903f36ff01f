"""Events: the facts of one run, in the past tense, as the log holds them.

Rules of this file:

- An event says what was decided and everything that the decision knew from outside; folding it again needs nothing else.
- Every event that changes a status carries its reason. `at` is the log's clock in ms.
- Stored logs hold these records for ever: a new field has a default, a field never changes its meaning, a kind is never
  renamed. A changed shape gets a new kind and an upcaster in the store's codec.
"""

from __future__ import annotations

from typing import Any

import msgspec

from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.plan import Queue
from waterflowd.model.reasons import Reason
from waterflowd.model.records import Kept, Trigger
from waterflowd.model.statuses import Conclusion, Outcome


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all events of a run."""

    at: int


class Instance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One instance of a job: what tells it from the others. Its id is `JOB[key]`."""

    key: str
    name: str = ""
    matrix: dict[str, Any] = {}
    #: The server that it must run on.
    agent: AgentId | None = None
    agent_name: str = ""


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the daemon's configuration asks of a job that enters an environment, as it was when the run was created."""

    approvers: tuple[str, ...] = ()
    minimum: int = 0
    may_approve_own: bool = True
    #: Whether the run's ref is one that may enter.
    is_ref_allowed: bool = True
    vars: dict[str, Any] = {}


class RunCreated(Event, frozen=True, kw_only=True, tag="run-created"):
    """The run exists: all its jobs are queued. `vars` are resolved."""

    plan_hash: str
    number: int
    trigger: Trigger
    repository: str | None = None
    revision: str | None = None
    inputs: dict[str, Any] = {}
    vars: dict[str, Any] = {}
    #: Numbers of the behaviour flags that hold for the run's whole life (flags.py).
    flags: tuple[int, ...] = ()
    deadline_at: int
    #: What was laid over the file's `vars` at the start.
    given_vars: dict[str, Any] = {}
    #: Of a re-run: the run that it does again, and what it takes over of it.
    rerun_of: RunId | None = None
    kept: Kept | None = None
    #: What `hashFiles` gives, by its patterns joined by line ends.
    hashes: dict[str, str] = {}
    #: By the environment's name.
    environments: dict[str, Policy] = {}
    reason: Reason


class RunStarted(Event, frozen=True, kw_only=True, tag="run-started"):
    """The first job's turn has come."""

    reason: Reason


class LockRequested(Event, frozen=True, kw_only=True, tag="lock-requested"):
    """The run, or the job, must have a place in this concurrency group before it goes on."""

    job: JobId | None = None
    group: str
    limit: int
    queue: Queue
    cancel_in_progress: bool
    reason: Reason


class LockWaiting(Event, frozen=True, kw_only=True, tag="lock-waiting"):
    """The group is full; recorded whenever the place in the queue changes."""

    job: JobId | None = None
    reason: Reason


class LockGranted(Event, frozen=True, kw_only=True, tag="lock-granted"):
    """The place is the run's or job's until it ends."""

    job: JobId | None = None


class LockRefused(Event, frozen=True, kw_only=True, tag="lock-refused"):
    """There is no place: the group is full and says `reject`, or a newer one took the place in the queue."""

    job: JobId | None = None
    reason: Reason


class ApprovalRequested(Event, frozen=True, kw_only=True, tag="approval-requested"):
    """The job, or its step, waits for people. `due_at` is when `default` decides for them."""

    job: JobId
    step: StepId | None = None
    #: The environment, for a job.
    environment: str = ""
    approvers: tuple[str, ...] = ()
    minimum: int = 1
    may_approve_own: bool = True
    due_at: int | None = None
    #: What happens at `due_at`: `approve`, or `reject`.
    default: str = "reject"
    reason: Reason


class ApprovalGiven(Event, frozen=True, kw_only=True, tag="approval-given"):
    """Somebody has decided."""

    job: JobId
    step: StepId | None = None
    by: str
    is_approved: bool
    comment: str = ""
    reason: Reason


class JobExpanded(Event, frozen=True, kw_only=True, tag="job-expanded"):
    """The job is these instances from now on, in this order. The list is fixed."""

    job: JobId
    instances: list[Instance]
    #: How many are at work at a time; None: all.
    max_parallel: int | None = None
    #: Ends of the batches, as counts of instances from the first; the last is all of them.
    batches: list[int] = []
    pause_ms: int = 0
    #: With more failures than this no new instance starts; None: however many.
    max_failures: int | None = None
    #: The first failure also ends those at work.
    fail_fast: bool = False
    reason: Reason


class JobEntered(Event, frozen=True, kw_only=True, tag="job-entered"):
    """The job is the jobs of the workflow that it calls from now on, with these values."""

    job: JobId
    name: str
    inputs: dict[str, Any] = {}
    vars: dict[str, Any] = {}
    reason: Reason


class JobHalted(Event, frozen=True, kw_only=True, tag="job-halted"):
    """No new instance of the job starts; with `is_stopped` those at work end."""

    job: JobId
    is_stopped: bool
    reason: Reason


class JobCancelled(Event, frozen=True, kw_only=True, tag="job-cancelled"):
    """The job must end, though its run goes on: another one took its place in its concurrency group."""

    job: JobId
    reason: Reason


class BatchCompleted(Event, frozen=True, kw_only=True, tag="batch-completed"):
    """All instances of the batch have ended; the next one begins at `resume_at`."""

    job: JobId
    #: From 1.
    batch: int
    resume_at: int
    reason: Reason


class BatchStarted(Event, frozen=True, kw_only=True, tag="batch-started"):
    """The pause before this batch is over."""

    job: JobId
    #: From 1.
    batch: int


class JobWaiting(Event, frozen=True, kw_only=True, tag="job-waiting"):
    """Why the job waits, as a whole: there is no server yet of which it could have an instance."""

    job: JobId
    reason: Reason


class JobSkipped(Event, frozen=True, kw_only=True, tag="job-skipped"):
    """The job ends without having begun anything: its server is not there, and the file says not to wait for it."""

    job: JobId
    reason: Reason


class JobRetryScheduled(Event, frozen=True, kw_only=True, tag="job-retry-scheduled"):
    """The job has failed and is tried again at `due_at`."""

    job: JobId
    #: The try that will be made then, from 2.
    number: int
    due_at: int
    reason: Reason


class JobRestarted(Event, frozen=True, kw_only=True, tag="job-restarted"):
    """The job begins again with its first step, and waits for a server."""

    job: JobId
    number: int
    start_deadline_at: int
    reason: Reason


class StepEntered(Event, frozen=True, kw_only=True, tag="step-entered"):
    """The step's blocks may begin. `count` is how many there will be; None for a `while`, which is asked each time."""

    job: JobId
    step: StepId
    name: str | None = None
    count: int | None = None
    #: Values of `items`, in order; empty for what is no loop over items.
    items: list[Any] = []
    #: The rendered inputs of a composite step.
    inputs: dict[str, Any] = {}
    max_parallel: int = 1
    #: When its time is over.
    deadline_at: int | None = None
    reason: Reason


class BlockStarted(Event, frozen=True, kw_only=True, tag="block-started"):
    """The steps of one block of the step are queued: of `plan`, one of its blocks. `number` counts those that began, from 0."""

    job: JobId
    step: StepId
    number: int
    plan: int = 0


class StepTimedOut(Event, frozen=True, kw_only=True, tag="step-timed-out"):
    """The time of a step with blocks is over: what runs in it is stopped."""

    job: JobId
    step: StepId
    reason: Reason


class JobReady(Event, frozen=True, kw_only=True, tag="job-ready"):
    """The job's needs are met and its condition holds: it waits for a server, or for nothing if it needs none."""

    job: JobId
    name: str
    group: str
    labels: dict[str, str] = {}
    timeout_ms: int
    start_deadline_at: int
    reason: Reason


class AttemptQueued(Event, frozen=True, kw_only=True, tag="attempt-queued"):
    """The step's turn has come: this attempt wants a slot."""

    job: JobId
    step: StepId
    attempt: AttemptNo


class AttemptWaiting(Event, frozen=True, kw_only=True, tag="attempt-waiting"):
    """No slot yet; recorded whenever the reason changes."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    reason: Reason


class AttemptDispatched(Event, frozen=True, kw_only=True, tag="attempt-dispatched"):
    """The attempt belongs to one agent under one lease (`epoch`). It stands in the log before the offer is sent.

    What held expressions is rendered here; None says that the plan's own value holds.
    """

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId
    agent_name: str
    boot_id: str
    #: What the `agent` context shows; only in the dispatch that gives the job its server.
    facts: dict[str, Any] = {}
    name: str | None = None
    params: dict[str, Any] | None = None
    env: dict[str, str] | None = None
    working_directory: str | None = None
    #: The version of an own node: the SHA-256 of its file, or a package and its version; "" for a node of Waterflow.
    node_version: str = ""
    #: From the start of the process on.
    timeout_ms: int
    #: The job's own deadline, set by its first dispatch.
    job_deadline_at: int
    reason: Reason


class AttemptStarted(Event, frozen=True, kw_only=True, tag="attempt-started"):
    """The agent says that the process runs."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    started_at: int


class AttemptFinished(Event, frozen=True, kw_only=True, tag="attempt-finished"):
    """How the attempt ended. `outcome` is the agent's word, or `lost` when nobody can know."""

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
    reason: Reason


class RetryScheduled(Event, frozen=True, kw_only=True, tag="retry-scheduled"):
    """The step is tried again at `due_at`."""

    job: JobId
    step: StepId
    #: The attempt that will be made then.
    attempt: AttemptNo
    due_at: int
    reason: Reason


class StepSleeping(Event, frozen=True, kw_only=True, tag="step-sleeping"):
    """The step waits in the log until `due_at` and holds no server."""

    job: JobId
    step: StepId
    due_at: int
    reason: Reason


class ChildRunRequested(Event, frozen=True, kw_only=True, tag="child-run-requested"):
    """The attempt starts another run of this workflow; the parameters are rendered."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    name: str | None = None
    workflow: str
    inputs: dict[str, Any] = {}
    #: Whether the step ends with that run, and not at its start.
    is_awaited: bool = True
    #: When its time is over.
    deadline_at: int | None = None
    reason: Reason


class ChildRunStarted(Event, frozen=True, kw_only=True, tag="child-run-started"):
    """The run that the attempt wanted exists. Both facts come to the log in one transaction."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId
    reason: Reason


class StepHeld(Event, frozen=True, kw_only=True, tag="step-held"):
    """The last attempt's outcome is unknown and the file says that a person decides."""

    job: JobId
    step: StepId
    reason: Reason


class StepCompleted(Event, frozen=True, kw_only=True, tag="step-completed"):
    """The step ended. `outcome` is the truth, `conclusion` what follows go by (`continue-on-error`)."""

    job: JobId
    step: StepId
    outcome: Conclusion
    conclusion: Conclusion
    #: Of a step of the engine, or of one that was kept; None: those of its last attempt.
    outputs: dict[str, Any] | None = None
    #: What a kept step wrote to the environment.
    env: dict[str, str] = {}
    reason: Reason


class JobTimedOut(Event, frozen=True, kw_only=True, tag="job-timed-out"):
    """The job's time is over: what runs of it is stopped."""

    job: JobId
    reason: Reason


class JobCompleted(Event, frozen=True, kw_only=True, tag="job-completed"):
    """The job ended."""

    job: JobId
    outcome: Conclusion
    conclusion: Conclusion
    outputs: dict[str, Any] = {}
    reason: Reason


class CancelRequested(Event, frozen=True, kw_only=True, tag="cancel-requested"):
    """Somebody asked for the run's end; with `is_forced` nothing more is waited for."""

    by: str
    is_forced: bool = False
    reason: Reason


class RunTimedOut(Event, frozen=True, kw_only=True, tag="run-timed-out"):
    """The run's time is over: what runs of it is stopped."""

    reason: Reason


class LateReport(Event, frozen=True, kw_only=True, tag="late-report"):
    """Evidence: an agent's result that came after the attempt had ended otherwise. Changes nothing."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId
    outcome: Outcome
    exit_code: int | None = None


class RunCompleted(Event, frozen=True, kw_only=True, tag="run-completed"):
    """The run ended; the last event that changes it."""

    conclusion: Conclusion
    #: What it gives to the step that started it.
    outputs: dict[str, Any] = {}
    reason: Reason


RunEvent = (
    RunCreated
    | RunStarted
    | LockRequested
    | LockWaiting
    | LockGranted
    | LockRefused
    | ApprovalRequested
    | ApprovalGiven
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
