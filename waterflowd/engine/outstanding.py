"""`outstanding`: everything that the host still owes a run, derived from its state alone.

Rules of this file: this is the only place that says which state needs which command. Recovery asks for all of it; the live
path (step.py) asks for a job before and after its events, and hands out the difference. So both paths owe the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from waterflowd.engine import commands
from waterflowd.engine.inputs import Timer, TimerKind
from waterflowd.engine.state import Job, Run, Step, Stop
from waterflowd.model.statuses import AttemptStatus, Status

#: What an agent has beyond the grace to report the end of a step that was told to stop.
STOP_ANSWER_MS = 60_000


def outstanding(run: Run) -> Iterator[commands.Command]:
    """What the host owes the run: its own first, then its jobs' in the order of the file."""
    yield from owed_to_run(run)
    for job in run.jobs:
        yield from owed_to_job(run, job)


def owed_to_run(run: Run) -> tuple[commands.Command, ...]:
    """What the host owes the run apart from its jobs."""
    if run.status is Status.COMPLETED or run.is_timed_out or run.seq == 0:
        return ()
    return (commands.ArmTimer(timer=Timer(kind=TimerKind.RUN_TIMEOUT, due_at=run.deadline_at)),)


def owed_to_job(run: Run, job: Job) -> tuple[commands.Command, ...]:
    """What the host owes one job."""
    if job.status is Status.COMPLETED or job.status is Status.QUEUED or run.status is Status.COMPLETED:
        return ()
    owed: list[commands.Command] = []
    if not job.is_timed_out:
        owed.append(commands.ArmTimer(timer=_job_timer(job)))
    step = job.current
    if step is None:
        return tuple(owed)
    if step.due_at is not None:
        timer = Timer(kind=TimerKind.STEP_SLEEP, due_at=step.due_at, job=job.id, step=step.id)
        owed.append(commands.ArmTimer(timer=timer))
    if step.retry_at is not None:
        timer = Timer(kind=TimerKind.STEP_RETRY, due_at=step.retry_at, job=job.id, step=step.id)
        owed.append(commands.ArmTimer(timer=timer))
    attempt = step.last
    if attempt is None or attempt.status is AttemptStatus.FINISHED:
        return tuple(owed)
    if attempt.status is AttemptStatus.PENDING:
        place = commands.Place(
            job=job.id,
            step=step.id,
            attempt=attempt.number,
            group=job.group,
            node=step.plan.node,
            agent=job.agent,
        )
        owed.append(place)
        return tuple(owed)
    assert attempt.agent is not None
    send = commands.SendTask(job=job.id, step=step.id, attempt=attempt.number, epoch=attempt.epoch, agent=attempt.agent)
    owed.append(send)
    if step.stop:
        owed.append(commands.ArmTimer(timer=stop_timer(job, step)))
        owed.append(
            commands.CancelTask(
                job=job.id,
                step=step.id,
                attempt=attempt.number,
                epoch=attempt.epoch,
                agent=attempt.agent,
                is_forced=step.stop is Stop.FORCED,
                reason=step.stop_reason.text,
            )
        )
    return tuple(owed)


def stop_timer(job: Job, step: Step) -> Timer:
    """When a stop counts as unanswered: its grace, and time for the way there and back."""
    due_at = step.stop_at + step.plan.stop.grace_ms + STOP_ANSWER_MS
    return Timer(kind=TimerKind.STEP_STOP, due_at=due_at, job=job.id, step=step.id)


def _job_timer(job: Job) -> Timer:
    if job.deadline_at is not None:
        return Timer(kind=TimerKind.JOB_TIMEOUT, due_at=job.deadline_at, job=job.id)
    assert job.start_deadline_at is not None
    return Timer(kind=TimerKind.JOB_START, due_at=job.start_deadline_at, job=job.id)
