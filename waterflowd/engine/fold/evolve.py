"""`evolve`: the fold. The only writer of a run's state.

Rules of this file, evolve_jobs.py and evolve_steps.py:

- `evolve` handles every logged event and decides nothing: decisions were made before the event was written. The live path and
  the recovery path share this code.
- Every change of a status is asserted against the tables of `model.statuses`; a failed assertion stalls only that run.
- The cost of an event does not grow with the size of the run, except for events that end the waiting of all jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from waterflow_agent.errors import Stalled
from waterflowd.engine import events, flags
from waterflowd.engine.fold import evolve_jobs, evolve_steps
from waterflowd.engine.fold.transitions import move, stop
from waterflowd.engine.state.blocks import StopUrgency
from waterflowd.engine.state.runs import Run
from waterflowd.model.ids import JobId, RunId
from waterflowd.model.plan import Plan
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.statuses import Conclusion, Outcome, Status


def evolve(run: Run, event: events.RunEvent) -> Run:
    """Applies one event to the run, in place, and returns the run. Raises `Stalled` WF403 if the event cannot be true."""
    try:
        _HANDLERS[type(event)](run, event)
    except (AssertionError, KeyError, IndexError) as error:
        subject = f"event {run.seq + 1} ({type(event).__name__}) of run {run.id}"
        raise Stalled("WF403", f"{subject} does not fit the events before it: {error or 'broken invariant'}") from error
    run.seq += 1
    return run


def fold(run_id: RunId, plan: Plan, history: Iterable[events.RunEvent]) -> Run:
    """Returns the run that results from these events."""
    run = Run(run_id, plan)
    for event in history:
        evolve(run, event)
    return run


def _run_created(run: Run, event: events.RunCreated) -> None:
    assert run.seq == 0, "the run already exists"
    flags.check(event.flags)
    run.plan_hash = event.plan_hash
    run.number = event.number
    run.trigger = event.trigger
    run.repository = event.repository
    run.revision = event.revision
    run.scope.inputs = event.inputs
    run.scope.vars = event.vars
    run.flags = frozenset(event.flags)
    run.start_vars = event.start_vars
    run.rerun_of = event.rerun_of or (event.reused.run if event.reused is not None else None)
    run.reused = event.reused
    run.hashes = event.hashes
    run.environments = event.environments
    run.created_at = event.at
    run.deadline_at = event.deadline_at
    run.reason = event.reason
    for name, kept in event.reused.directories.items() if event.reused is not None else ():
        run.jobs_by_id[JobId(name)].kept = kept
    for job in run.jobs:
        if job.plan.needs:
            names = ", ".join(job.plan.needs)
            job.reason = reason(ReasonCode.WAITING_NEEDS, f"waits for {names}", needs=list(job.plan.needs))


def _run_started(run: Run, event: events.RunStarted) -> None:
    move(run, Status.RUNNING)
    run.started_at = event.at
    run.reason = event.reason


def _cancel_requested(run: Run, event: events.CancelRequested) -> None:
    run.is_cancelled = True
    run.is_forced = run.is_forced or event.is_forced
    run.cancel_by = event.by
    run.reason = event.reason
    for job in run.jobs:
        if job.status in (Status.WAITING, Status.RUNNING):
            job.is_cancelled = True
            job.stop_reason = event.reason
        stop(job, StopUrgency.FORCED if event.is_forced else StopUrgency.REQUESTED, event.reason, event.at)


def _run_timed_out(run: Run, event: events.RunTimedOut) -> None:
    run.is_timed_out = True
    run.reason = event.reason
    for job in run.jobs:
        stop(job, StopUrgency.REQUESTED, event.reason, event.at)


def _run_completed(run: Run, event: events.RunCompleted) -> None:
    move(run, Status.COMPLETED)
    run.conclusion = event.conclusion
    run.outputs = event.outputs
    run.reason = event.reason
    run.completed_at = event.at


_HANDLERS: dict[type, Callable[[Run, Any], None]] = {
    events.RunCreated: _run_created,
    events.RunStarted: _run_started,
    events.LockRequested: evolve_jobs.lock_requested,
    events.LockWaiting: evolve_jobs.lock_waiting,
    events.LockGranted: evolve_jobs.lock_granted,
    events.LockRefused: evolve_jobs.lock_refused,
    events.EnvironmentEntered: evolve_jobs.environment_entered,
    events.ApprovalRequested: evolve_jobs.approval_requested,
    events.ApprovalDecided: evolve_jobs.approval_decided,
    events.JobReady: evolve_jobs.job_ready,
    events.JobWaiting: evolve_jobs.job_waiting,
    events.JobExpanded: evolve_jobs.job_expanded,
    events.JobEntered: evolve_jobs.job_entered,
    events.JobHalted: evolve_jobs.job_halted,
    events.JobCancelled: evolve_jobs.job_cancelled,
    events.BatchCompleted: evolve_jobs.batch_completed,
    events.BatchStarted: evolve_jobs.batch_started,
    events.JobRetryScheduled: evolve_jobs.job_retry_scheduled,
    events.JobRestarted: evolve_jobs.job_restarted,
    events.JobSkipped: evolve_jobs.job_skipped,
    events.JobTimedOut: evolve_jobs.job_timed_out,
    events.JobCompleted: evolve_jobs.job_completed,
    events.AttemptQueued: evolve_steps.attempt_queued,
    events.AttemptWaiting: evolve_steps.attempt_waiting,
    events.AttemptDispatched: evolve_steps.attempt_dispatched,
    events.AttemptStarted: evolve_steps.attempt_started,
    events.AttemptFinished: evolve_steps.attempt_finished,
    events.RetryScheduled: evolve_steps.retry_scheduled,
    events.StepEntered: evolve_steps.step_entered,
    events.BlockStarted: evolve_steps.block_started,
    events.StepTimedOut: evolve_steps.step_timed_out,
    events.StepSleeping: evolve_steps.step_sleeping,
    events.ChildRunRequested: evolve_steps.child_run_requested,
    events.ChildRunStarted: evolve_steps.child_run_started,
    events.StepHeld: evolve_steps.step_held,
    events.StepCompleted: evolve_steps.step_completed,
    events.CancelRequested: _cancel_requested,
    events.RunTimedOut: _run_timed_out,
    events.LateReport: evolve_steps.late_report,
    events.RunCompleted: _run_completed,
}

#: The outcomes of attempts as the conclusions of their steps.
CONCLUSIONS: dict[Outcome, Conclusion] = {
    Outcome.SUCCESS: Conclusion.SUCCESS,
    Outcome.FAILURE: Conclusion.FAILURE,
    Outcome.REFUSED: Conclusion.FAILURE,
    Outcome.TIMED_OUT: Conclusion.TIMED_OUT,
    Outcome.CANCELLED: Conclusion.CANCELLED,
    Outcome.LOST: Conclusion.LOST,
}
