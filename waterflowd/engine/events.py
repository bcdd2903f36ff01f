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

from waterflowd.model.ids import AgentId, AttemptNo, JobId, StepId
from waterflowd.model.reasons import Reason
from waterflowd.model.records import Trigger
from waterflowd.model.statuses import Conclusion, Outcome


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all events of a run."""

    at: int


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
    reason: Reason


class RunStarted(Event, frozen=True, kw_only=True, tag="run-started"):
    """The first job's turn has come."""

    reason: Reason


class JobReady(Event, frozen=True, kw_only=True, tag="job-ready"):
    """The job's needs are met and its condition holds: it waits for a server, or for nothing if it needs none."""

    job: JobId
    name: str
    group: str
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
    reason: Reason


RunEvent = (
    RunCreated
    | RunStarted
    | JobReady
    | AttemptQueued
    | AttemptWaiting
    | AttemptDispatched
    | AttemptStarted
    | AttemptFinished
    | RetryScheduled
    | StepSleeping
    | StepHeld
    | StepCompleted
    | JobTimedOut
    | JobCompleted
    | CancelRequested
    | RunTimedOut
    | LateReport
    | RunCompleted
)
