"""`evolve`: the fold. The only writer of a run's state.

Rules of this file:

- Total on logged events and free of decisions: what to do was decided before the event was written. The live path and the
  recovery path are this same code.
- Every change of a status is asserted against the tables of `model.statuses`; a failed assertion stalls that run alone.
- The cost of an event does not grow with the size of the run, except for those that end waiting in all of its jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from waterflowd.engine import events, flags
from waterflowd.engine.state import Attempt, Job, Run, Step, Stop
from waterflowd.errors import Stalled
from waterflowd.model.ids import AttemptNo, JobId, RunId, StepId
from waterflowd.model.plan import Plan
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import (
    ATTEMPT_TRANSITIONS,
    FAILURES,
    TRANSITIONS,
    AttemptStatus,
    Conclusion,
    Outcome,
    Status,
)


def evolve(run: Run, event: events.RunEvent) -> Run:
    """Applies one event to the run, in place, and gives the run. Raises `Stalled` WF403 when the event cannot be true."""
    try:
        _HANDLERS[type(event)](run, event)
    except (AssertionError, KeyError, IndexError) as error:
        place = f"event {run.seq + 1} ({type(event).__name__}) of run {run.id}"
        raise Stalled(
            "WF403", f"{place} does not follow from the ones before it: {error or 'broken invariant'}"
        ) from error
    run.seq += 1
    return run


def fold(run_id: RunId, plan: Plan, history: Iterable[events.RunEvent]) -> Run:
    """The run that these events make."""
    run = Run(run_id, plan)
    for event in history:
        evolve(run, event)
    return run


def _move(thing: Run | Job | Step, status: Status) -> None:
    if thing.status is status:
        return
    assert status in TRANSITIONS[thing.status], f"{thing.status.value} -> {status.value}"
    thing.status = status


def _move_attempt(attempt: Attempt, status: AttemptStatus) -> None:
    assert status in ATTEMPT_TRANSITIONS[attempt.status], f"attempt {attempt.status.value} -> {status.value}"
    attempt.status = status


def _find(run: Run, job: JobId, step: StepId) -> tuple[Job, Step]:
    found = run.jobs_by_id[job]
    return found, found.steps_by_id[step]


def _find_attempt(run: Run, job: JobId, step: StepId, number: AttemptNo) -> tuple[Job, Step, Attempt]:
    owner, found = _find(run, job, step)
    assert 1 <= number <= len(found.attempts), f"there is no attempt {number}"
    return owner, found, found.attempts[number - 1]


def _run_created(run: Run, event: events.RunCreated) -> None:
    assert run.seq == 0, "a run is created once"
    flags.check(event.flags)
    run.plan_hash = event.plan_hash
    run.number = event.number
    run.trigger = event.trigger
    run.repository = event.repository
    run.revision = event.revision
    run.inputs = event.inputs
    run.vars = event.vars
    run.flags = frozenset(event.flags)
    run.created_at = event.at
    run.deadline_at = event.deadline_at
    run.reason = event.reason
    for job in run.jobs:
        if job.plan.needs:
            names = ", ".join(job.plan.needs)
            job.reason = reason(ReasonCode.WAITING_NEEDS, f"waits for {names}", needs=list(job.plan.needs))


def _run_started(run: Run, event: events.RunStarted) -> None:
    _move(run, Status.RUNNING)
    run.started_at = event.at
    run.reason = event.reason


def _job_ready(run: Run, event: events.JobReady) -> None:
    job = run.jobs_by_id[event.job]
    _move(job, Status.WAITING)
    job.name = event.name
    job.group = event.group
    job.timeout_ms = event.timeout_ms
    job.ready_at = event.at
    job.start_deadline_at = event.start_deadline_at
    job.reason = event.reason


def _start_job(job: Job, at: int, deadline_at: int, why: Reason) -> None:
    _move(job, Status.RUNNING)
    job.reason = why
    if job.started_at is None:
        job.started_at = at
        job.deadline_at = deadline_at


def _attempt_queued(run: Run, event: events.AttemptQueued) -> None:
    job, step = _find(run, event.job, event.step)
    assert event.attempt == len(step.attempts) + 1, f"attempt {event.attempt} follows {len(step.attempts)}"
    assert step is job.current, "only the step whose turn it is may be tried"
    if step.status is not Status.RUNNING:
        _move(step, Status.WAITING)
    step.attempts.append(Attempt(event.attempt, event.at))
    step.retry_at = None


def _attempt_waiting(run: Run, event: events.AttemptWaiting) -> None:
    job, step, attempt = _find_attempt(run, event.job, event.step, event.attempt)
    assert attempt.status is AttemptStatus.PENDING, "only a pending attempt waits for a slot"
    attempt.reason = event.reason
    step.reason = event.reason
    job.reason = event.reason


def _attempt_dispatched(run: Run, event: events.AttemptDispatched) -> None:
    job, step, attempt = _find_attempt(run, event.job, event.step, event.attempt)
    _move_attempt(attempt, AttemptStatus.DISPATCHED)
    attempt.epoch = event.epoch
    attempt.agent = event.agent
    attempt.agent_name = event.agent_name
    attempt.boot_id = event.boot_id
    attempt.dispatched_at = event.at
    attempt.params = event.params
    attempt.env = event.env
    attempt.working_directory = event.working_directory
    attempt.timeout_ms = event.timeout_ms
    attempt.reason = event.reason
    if event.name is not None:
        step.name = event.name
    _move(step, Status.RUNNING)
    step.reason = event.reason
    if step.started_at is None:
        step.started_at = event.at
    if job.agent is None:
        job.agent = event.agent
        job.agent_name = event.agent_name
        job.agent_facts = event.facts
    _start_job(job, event.at, event.job_deadline_at, event.reason)


def _attempt_started(run: Run, event: events.AttemptStarted) -> None:
    _, step, attempt = _find_attempt(run, event.job, event.step, event.attempt)
    _move_attempt(attempt, AttemptStatus.STARTED)
    attempt.started_at = event.started_at
    why = reason(ReasonCode.STARTED, f"runs on {attempt.agent_name}", agent=attempt.agent_name)
    attempt.reason = why
    step.reason = why


def _attempt_finished(run: Run, event: events.AttemptFinished) -> None:
    job, step, attempt = _find_attempt(run, event.job, event.step, event.attempt)
    _move_attempt(attempt, AttemptStatus.FINISHED)
    attempt.outcome = event.outcome
    attempt.exit_code = event.exit_code
    attempt.outputs = event.outputs
    if event.started_at is not None:
        attempt.started_at = event.started_at
    attempt.finished_at = event.finished_at
    attempt.output_bytes = event.output_bytes
    attempt.output_dropped = event.output_dropped
    attempt.reason = event.reason
    step.reason = event.reason
    if event.env:
        job.env.update(event.env)


def _retry_scheduled(run: Run, event: events.RetryScheduled) -> None:
    _, step = _find(run, event.job, event.step)
    assert event.attempt == len(step.attempts) + 1, "the retry is the next attempt"
    _move(step, Status.WAITING)
    step.retry_at = event.due_at
    step.reason = event.reason


def _step_sleeping(run: Run, event: events.StepSleeping) -> None:
    job, step = _find(run, event.job, event.step)
    assert step is job.current, "only the step whose turn it is may sleep"
    _move(step, Status.WAITING)
    step.due_at = event.due_at
    step.started_at = event.at
    step.reason = event.reason
    _start_job(job, event.at, event.at + job.timeout_ms, event.reason)
    assert job.deadline_at is not None
    # A job's time is for its work: what it sleeps by its own wish is not counted.
    job.deadline_at += max(0, event.due_at - event.at)


def _step_held(run: Run, event: events.StepHeld) -> None:
    job, step = _find(run, event.job, event.step)
    _move(step, Status.WAITING)
    step.is_held = True
    step.reason = event.reason
    job.reason = event.reason


def _step_completed(run: Run, event: events.StepCompleted) -> None:
    job, step = _find(run, event.job, event.step)
    assert step is job.current, "steps complete in order"
    _move(step, Status.COMPLETED)
    step.outcome = event.outcome
    step.conclusion = event.conclusion
    step.reason = event.reason
    step.completed_at = event.at
    step.due_at = None
    step.retry_at = None
    job.cursor += 1
    if event.conclusion in FAILURES and job.failed_step is None:
        job.failed_step = step


def _stop_current(job: Job, stop: Stop, why: Reason, at: int) -> None:
    step = job.current
    if job.status is Status.COMPLETED or step is None or step.status is Status.QUEUED or step.stop >= stop:
        return
    step.stop = stop
    step.stop_at = at
    step.stop_reason = why


def _job_timed_out(run: Run, event: events.JobTimedOut) -> None:
    job = run.jobs_by_id[event.job]
    job.is_timed_out = True
    job.reason = event.reason
    _stop_current(job, Stop.ASKED, event.reason, event.at)


def _job_completed(run: Run, event: events.JobCompleted) -> None:
    job = run.jobs_by_id[event.job]
    _move(job, Status.COMPLETED)
    job.outcome = event.outcome
    job.conclusion = event.conclusion
    job.outputs = event.outputs
    job.reason = event.reason
    job.completed_at = event.at
    needs = [run.jobs_by_id[need] for need in job.plan.needs]
    job.has_success = event.conclusion is Conclusion.SUCCESS and all(need.has_success for need in needs)
    job.has_failure = event.conclusion in FAILURES or any(need.has_failure for need in needs)
    run.open_jobs -= 1
    for dependent in run.dependents.get(job.id, ()):
        dependent.open_needs -= 1


def _cancel_requested(run: Run, event: events.CancelRequested) -> None:
    run.is_cancelled = True
    run.is_forced = run.is_forced or event.is_forced
    run.cancel_by = event.by
    run.reason = event.reason
    for job in run.jobs:
        if job.status in (Status.WAITING, Status.RUNNING):
            job.is_cancelled = True
        _stop_current(job, Stop.FORCED if event.is_forced else Stop.ASKED, event.reason, event.at)


def _run_timed_out(run: Run, event: events.RunTimedOut) -> None:
    run.is_timed_out = True
    run.reason = event.reason
    for job in run.jobs:
        _stop_current(job, Stop.ASKED, event.reason, event.at)


def _late_report(run: Run, event: events.LateReport) -> None:
    _find_attempt(run, event.job, event.step, event.attempt)[2].is_late_recorded = True


def _run_completed(run: Run, event: events.RunCompleted) -> None:
    _move(run, Status.COMPLETED)
    run.conclusion = event.conclusion
    run.reason = event.reason
    run.completed_at = event.at


_HANDLERS: dict[type, Callable[[Run, Any], None]] = {
    events.RunCreated: _run_created,
    events.RunStarted: _run_started,
    events.JobReady: _job_ready,
    events.AttemptQueued: _attempt_queued,
    events.AttemptWaiting: _attempt_waiting,
    events.AttemptDispatched: _attempt_dispatched,
    events.AttemptStarted: _attempt_started,
    events.AttemptFinished: _attempt_finished,
    events.RetryScheduled: _retry_scheduled,
    events.StepSleeping: _step_sleeping,
    events.StepHeld: _step_held,
    events.StepCompleted: _step_completed,
    events.JobTimedOut: _job_timed_out,
    events.JobCompleted: _job_completed,
    events.CancelRequested: _cancel_requested,
    events.RunTimedOut: _run_timed_out,
    events.LateReport: _late_report,
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
