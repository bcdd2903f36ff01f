"""Status changes for `evolve`, checked against the tables of `model.statuses`, and look-ups of what an event names."""

from __future__ import annotations

from waterflowd.engine.state.blocks import Attempt, Step, StopUrgency
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import AttemptNo, JobId, StepId
from waterflowd.model.reasons import Reason
from waterflowd.model.statuses import ATTEMPT_TRANSITIONS, TRANSITIONS, AttemptStatus, Status


def move(thing: Run | Job | Step, status: Status) -> None:
    """Changes a status; does nothing if it is unchanged."""
    if thing.status is status:
        return
    assert status in TRANSITIONS[thing.status], f"{thing.status.value} -> {status.value}"
    thing.status = status


def move_attempt(attempt: Attempt, status: AttemptStatus) -> None:
    """Changes an attempt's status."""
    assert status in ATTEMPT_TRANSITIONS[attempt.status], f"attempt {attempt.status.value} -> {status.value}"
    attempt.status = status


def find(run: Run, job: JobId, step: StepId) -> tuple[Job, Step]:
    """The step that an event names, and its job."""
    found = run.jobs_by_id[job]
    return found, found.steps_by_id[step]


def find_attempt(run: Run, job: JobId, step: StepId, number: AttemptNo) -> tuple[Job, Step, Attempt]:
    """The attempt that an event names, its step, and its job."""
    owner, found = find(run, job, step)
    assert 1 <= number <= len(found.attempts), f"there is no attempt {number}"
    return owner, found, found.attempts[number - 1]


def stop(job: Job, urgency: StopUrgency, cause: Reason, at: int, inside: Step | None = None) -> None:
    """Marks everything that runs in the job, or inside one of its steps, as to be stopped."""
    if job.status is Status.COMPLETED:
        return
    for step in job.active_steps():
        if step.stop < urgency and (inside is None or is_inside(step, inside)):
            step.stop = urgency
            step.stop_at = at
            step.stop_reason = cause


def is_inside(step: Step, owner: Step) -> bool:
    """Whether the step is in a block of `owner`, at any depth."""
    above = step.block.owner
    while above is not None and above is not owner:
        above = above.block.owner
    return above is owner


def cancel_job(job: Job, cause: Reason, at: int) -> None:
    """Cancels the job and everything that it has become. Moves end whatever has not started."""
    if job.status not in (Status.WAITING, Status.RUNNING):
        return
    job.is_cancelled = True
    job.stop_reason = cause
    stop(job, StopUrgency.REQUESTED, cause, at)
    if job.children is not None:
        for child in job.children.jobs:
            cancel_job(child, cause, at)
