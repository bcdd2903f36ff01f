"""The state of one run, as the fold of its events.

Rules of this file: data and questions about it. Only `evolve` (evolve.py) writes these objects, in place and at a cost that
does not grow with the run; everybody else reads. Nothing here decides.

A run has jobs (in the order of the file), a job has steps (in order), a step has attempts. A job's `cursor` is the index of
the step whose turn it is: steps before it are completed, steps after it queued.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.plan import JobPlan, Plan, StepPlan
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.records import Trigger
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome, Status

_CREATED = reason(ReasonCode.CREATED, "created")


#: The node that holds no server.
SLEEP = "sleep"


class Stop(IntEnum):
    """How urgently a step must end."""

    #: It may go on.
    NO = 0
    #: By its stop policy: signal, grace, kill.
    ASKED = 1
    #: At once, without waiting for its agent.
    FORCED = 2


class Attempt:
    """One try of a step. Times are the log's clock except `started_at` and `finished_at`, which are the agent's."""

    __slots__ = (
        "agent", "agent_name", "boot_id", "dispatched_at", "env", "epoch", "exit_code", "facts",
        "finished_at", "is_late_recorded", "number", "outcome", "output_bytes", "output_dropped", "outputs", "params",
        "queued_at", "reason", "started_at", "status", "timeout_ms", "working_directory",
    )  # fmt: skip

    def __init__(self, number: AttemptNo, queued_at: int) -> None:
        self.number = number
        self.status = AttemptStatus.PENDING
        self.queued_at = queued_at
        self.dispatched_at: int | None = None
        self.started_at: int | None = None
        self.finished_at: int | None = None
        self.epoch = 0
        self.agent: AgentId | None = None
        self.agent_name = ""
        self.boot_id = ""
        self.facts: dict[str, Any] = {}
        self.outcome: Outcome | None = None
        self.exit_code: int | None = None
        self.reason: Reason = _CREATED
        self.outputs: dict[str, Any] = {}
        self.output_bytes = 0
        self.output_dropped = 0
        #: Rendered values; None where the plan's own are static.
        self.params: dict[str, Any] | None = None
        self.env: dict[str, str] | None = None
        self.working_directory: str | None = None
        self.timeout_ms = 0
        self.is_late_recorded = False

    @property
    def is_open(self) -> bool:
        """True while an agent holds its lease."""
        return self.status is AttemptStatus.DISPATCHED or self.status is AttemptStatus.STARTED


class Step:
    """One step of a job."""

    __slots__ = (
        "attempts", "completed_at", "conclusion", "due_at", "id", "is_held", "name", "outcome", "plan", "reason",
        "retry_at", "started_at", "status", "stop", "stop_at",
        "stop_reason",
    )  # fmt: skip

    def __init__(self, plan: StepPlan) -> None:
        self.id: StepId = plan.id
        self.plan = plan
        self.name = plan.name
        self.status = Status.QUEUED
        self.conclusion: Conclusion | None = None
        self.outcome: Conclusion | None = None
        self.reason: Reason = _CREATED
        self.attempts: list[Attempt] = []
        #: When a sleeping step wakes.
        self.due_at: int | None = None
        #: When the next attempt is made.
        self.retry_at: int | None = None
        self.is_held = False
        #: Whether what runs of the step must end. Steps whose turn comes later, such as `always()` ones, are not concerned.
        self.stop = Stop.NO
        #: When it was asked to end.
        self.stop_at = 0
        #: Why it must end: the first reason, or the one that made it urgent.
        self.stop_reason: Reason = _CREATED
        self.started_at: int | None = None
        self.completed_at: int | None = None

    @property
    def is_sleep(self) -> bool:
        """True for the node that the engine runs itself: a timer in the log, without a server."""
        return self.plan.node == SLEEP

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def outputs(self) -> dict[str, Any]:
        """Outputs of the newest attempt."""
        return self.attempts[-1].outputs if self.attempts else {}

    @property
    def exit_code(self) -> int | None:
        """Exit code of the newest attempt."""
        return self.attempts[-1].exit_code if self.attempts else None


class Job:
    """One job of a run."""

    __slots__ = (
        "agent", "agent_facts", "agent_name", "completed_at", "conclusion", "cursor", "deadline_at", "env", "failed_step",
        "group", "has_failure", "has_success", "id", "index", "is_cancelled", "is_timed_out", "name", "open_needs", "outcome",
        "outputs", "plan", "ready_at", "reason", "start_deadline_at", "started_at", "status", "steps", "steps_by_id",
        "timeout_ms",
    )  # fmt: skip

    def __init__(self, plan: JobPlan, index: int) -> None:
        self.id: JobId = plan.id
        self.index = index
        self.plan = plan
        self.name = plan.name
        self.group = plan.group
        self.status = Status.QUEUED
        self.conclusion: Conclusion | None = None
        self.outcome: Conclusion | None = None
        self.reason: Reason = _CREATED
        self.steps = [Step(step) for step in plan.steps]
        self.steps_by_id = {step.id: step for step in self.steps}
        self.cursor = 0
        #: Needs that are not completed yet.
        self.open_needs = len(plan.needs)
        #: What steps wrote to `WATERFLOW_ENV`.
        self.env: dict[str, str] = {}
        self.outputs: dict[str, Any] = {}
        self.agent: AgentId | None = None
        self.agent_name = ""
        self.agent_facts: dict[str, Any] = {}
        self.timeout_ms = 0
        self.ready_at: int | None = None
        self.started_at: int | None = None
        self.completed_at: int | None = None
        #: Set while the job waits for its first server.
        self.start_deadline_at: int | None = None
        #: Set by the first dispatch.
        self.deadline_at: int | None = None
        self.is_timed_out = False
        #: The run was cancelled while the job was active. Jobs that start after it, by their `if`, are not concerned.
        self.is_cancelled = False
        #: What `success()` and `failure()` of the jobs behind this one go by: its own end and that of all before it.
        self.has_success = True
        self.has_failure = False
        #: The first step that failed and was not continued.
        self.failed_step: Step | None = None

    @property
    def current(self) -> Step | None:
        """The step whose turn it is; None when all are completed."""
        return self.steps[self.cursor] if self.cursor < len(self.steps) else None


class Run:
    """One execution of a plan."""

    __slots__ = (
        "cancel_by", "completed_at", "conclusion", "created_at", "deadline_at", "dependents", "flags", "id", "inputs",
        "is_cancelled", "is_forced", "is_timed_out", "jobs", "jobs_by_id", "number", "open_jobs", "plan", "plan_hash",
        "reason", "repository", "revision", "seq", "started_at", "status", "trigger", "vars",
    )  # fmt: skip

    def __init__(self, run_id: RunId, plan: Plan) -> None:
        self.id = run_id
        self.plan = plan
        self.plan_hash = ""
        self.number = 0
        self.trigger = Trigger(kind="")
        self.repository: str | None = None
        self.revision: str | None = None
        self.inputs: dict[str, Any] = {}
        self.vars: dict[str, Any] = {}
        self.flags: frozenset[int] = frozenset()
        #: Position of the newest event; 0 before the first.
        self.seq = 0
        self.status = Status.QUEUED
        self.conclusion: Conclusion | None = None
        self.reason: Reason = _CREATED
        self.created_at = 0
        self.started_at: int | None = None
        self.completed_at: int | None = None
        self.deadline_at = 0
        self.is_cancelled = False
        self.is_forced = False
        self.cancel_by = ""
        self.is_timed_out = False
        self.jobs = [Job(job, index) for index, job in enumerate(plan.jobs)]
        self.jobs_by_id = {job.id: job for job in self.jobs}
        self.open_jobs = len(self.jobs)
        self.dependents: dict[JobId, list[Job]] = {}
        for job in self.jobs:
            for need in job.plan.needs:
                self.dependents.setdefault(need, []).append(job)

    @property
    def is_completed(self) -> bool:
        """True once the run has its conclusion."""
        return self.status is Status.COMPLETED

    def step(self, job: JobId, step: StepId) -> Step | None:
        """The step of that name, or None."""
        found = self.jobs_by_id.get(job)
        return found.steps_by_id.get(step) if found is not None else None

    def attempt(self, job: JobId, step: StepId, number: AttemptNo) -> Attempt | None:
        """The attempt of that name, or None."""
        found = self.step(job, step)
        if found is None or not 1 <= number <= len(found.attempts):
            return None
        return found.attempts[number - 1]
