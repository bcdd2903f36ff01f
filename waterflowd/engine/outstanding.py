"""`outstanding`: all commands that a run's state requires of the host, derived from the state alone.

Rules of this file: this is the only place that says which state requires which command. Recovery computes all of them; the live
path (step.py) computes those of the affected parts before and after its events and returns the difference. So both agree.
The commands of a block depend only on the block and its job, so that other blocks need not be read.
"""

from __future__ import annotations

from collections.abc import Iterator

from waterflowd.engine import commands
from waterflowd.engine.inputs import Timer, TimerKind
from waterflowd.engine.rules import leases
from waterflowd.engine.state.blocks import Attempt, Block, Step, StopUrgency
from waterflowd.engine.state.gates import Lock
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import JobId
from waterflowd.model.statuses import AttemptStatus, Status

#: How long after the grace period an agent may take to report the end of a step that it was told to stop.
STOP_ANSWER_MS = 60_000


def outstanding(run: Run) -> Iterator[commands.Command]:
    """The outstanding commands: the run's own first, then those of its jobs in the order of the file."""
    yield from outstanding_of_run(run)
    for job in run.jobs:
        yield from outstanding_of_job(run, job)


def outstanding_of_run(run: Run) -> tuple[commands.Command, ...]:
    """The outstanding commands of the run without its jobs."""
    if run.status is Status.COMPLETED or run.seq == 0:
        return ()
    found: tuple[commands.Command, ...] = ()
    if not run.is_timed_out:
        found = (commands.ArmTimer(timer=Timer(kind=TimerKind.RUN_TIMEOUT, due_at=run.deadline_at)),)
    lock = _lock(None, run.lock, is_ending=run.is_cancelled or run.is_timed_out)
    return found if lock is None else (*found, lock)


def _lock(job: JobId | None, lock: Lock | None, *, is_ending: bool) -> commands.AcquireLock | None:
    if lock is None or lock.refusal is not None or (is_ending and not lock.is_held):
        return None
    return commands.AcquireLock(
        job=job,
        group=lock.group,
        limit=lock.limit,
        queue=lock.queue,
        cancel_in_progress=lock.cancel_in_progress,
    )


def needs_lock(owner: Run | Job) -> bool:
    """Whether a slot in a concurrency group is requested and not decided."""
    lock = owner.lock
    return (
        owner.status is not Status.COMPLETED
        and not owner.is_cancelled
        and lock is not None
        and not lock.is_held
        and lock.refusal is None
    )


def needs_server_list(job: Job) -> bool:
    """Whether the job waits for the list of its servers."""
    return (
        job.is_template
        and job.is_begun
        and job.children is None
        and job.status is Status.WAITING
        and not job.is_cancelled
        and not job.is_timed_out
    )


def outstanding_of_job(run: Run, job: Job) -> tuple[commands.Command, ...]:
    """The outstanding commands of one job with all its blocks."""
    found = [*outstanding_of_job_alone(run, job)]
    for block in job.blocks.values():
        found += outstanding_of_block(run, job, block)
    return tuple(found)


def outstanding_of_job_alone(run: Run, job: Job) -> tuple[commands.Command, ...]:
    """The outstanding commands of one job without its blocks."""
    if job.status is Status.COMPLETED or job.status is Status.QUEUED or run.status is Status.COMPLETED:
        return ()
    found: list[commands.Command] = []
    lock = _lock(job.id, job.lock, is_ending=job.is_cancelled)
    if lock is not None:
        found.append(lock)
    if job.children is not None:
        if job.children.resume_at is not None:
            found.append(_arm(TimerKind.BATCH_PAUSE, job.children.resume_at, job))
        return tuple(found)
    if not job.is_begun:
        return tuple(found)
    if needs_server_list(job):
        found.append(commands.ListServers(job=job.id, group=job.group, labels=tuple(job.labels.items())))
    if job.retry_at is not None:
        found.append(_arm(TimerKind.JOB_RETRY, job.retry_at, job))
    elif not job.is_timed_out and not job.open_approvals:
        found.append(commands.ArmTimer(timer=_job_timer(job)))
    return tuple(found)


def outstanding_of_block(run: Run, job: Job, block: Block) -> tuple[commands.Command, ...]:
    """The outstanding commands of the current step of an open block."""
    step = block.current
    if step is None or step.status is Status.QUEUED:
        return ()
    if job.status is Status.COMPLETED or run.status is Status.COMPLETED:
        return ()
    found: list[commands.Command] = []
    if step.deadline_at is not None:
        found.append(_arm(TimerKind.STEP_TIMEOUT, step.deadline_at, job, step))
    if step.approval is not None:
        if step.approval.due_at is not None:
            found.append(_arm(TimerKind.APPROVAL, step.approval.due_at, job, step))
    elif not step.has_blocks:
        _outstanding_of_step(job, step, found)
    return tuple(found)


def _arm(kind: TimerKind, due_at: int, job: Job, step: Step | None = None) -> commands.ArmTimer:
    return commands.ArmTimer(
        timer=Timer(kind=kind, due_at=due_at, job=job.id, step=step.id if step is not None else None)
    )


def _outstanding_of_step(job: Job, step: Step, found: list[commands.Command]) -> None:
    """The outstanding commands of a step that runs on a server or sleeps."""
    if step.due_at is not None:
        found.append(_arm(TimerKind.STEP_SLEEP, step.due_at, job, step))
    if step.retry_at is not None:
        found.append(_arm(TimerKind.STEP_RETRY, step.retry_at, job, step))
    attempt = step.last
    if attempt is None or attempt.status is AttemptStatus.FINISHED:
        return
    if step.is_child_run:
        found += _outstanding_of_child_run(job, step, attempt)
        return
    if attempt.status is AttemptStatus.PENDING:
        request = commands.RequestSlot(
            job=job.id,
            step=step.id,
            attempt=attempt.number,
            group=job.group,
            labels=tuple(job.labels.items()),
            node=step.plan.node,
            agent=job.required_agent,
            avoid=job.avoid,
            secrets=step.plan.secrets,
        )
        found.append(request)
        return
    assert attempt.agent is not None
    send = commands.SendTask(job=job.id, step=step.id, attempt=attempt.number, epoch=attempt.epoch, agent=attempt.agent)
    found.append(send)
    if step.stop:
        found.append(commands.ArmTimer(timer=stop_timer(job, step)))
        found.append(
            commands.CancelTask(
                job=job.id,
                step=step.id,
                attempt=attempt.number,
                epoch=attempt.epoch,
                agent=attempt.agent,
                is_forced=step.stop is StopUrgency.FORCED,
                reason=step.stop_reason.text,
            )
        )


def _outstanding_of_child_run(job: Job, step: Step, attempt: Attempt) -> list[commands.Command]:
    """The outstanding commands of an attempt that starts a child run."""
    if attempt.params is None:
        return []
    if attempt.child_run is None:
        return [commands.StartChildRun(job=job.id, step=step.id, attempt=attempt.number)]
    if not attempt.params["wait"]:
        return []
    found: list[commands.Command] = [
        commands.WatchChildRun(job=job.id, step=step.id, attempt=attempt.number, run=attempt.child_run)
    ]
    if step.stop or step.is_timed_out:
        # With a forced stop the attempt is open only while its end must wait for the child run.
        found.append(
            commands.CancelChildRun(
                job=job.id,
                step=step.id,
                attempt=attempt.number,
                run=attempt.child_run,
                is_forced=step.stop is StopUrgency.FORCED,
            )
        )
    return found


def stop_timer(job: Job, step: Step) -> Timer:
    """When a stop counts as unconfirmed: after its grace period, time for the messages, and the attempt's lease."""
    due_at = step.stop_at + step.plan.stop.grace_ms + STOP_ANSWER_MS
    if step.last is not None and step.last.lease_ms:
        due_at += leases.over_after_ms(step.last.lease_ms, step.plan.stop.grace_ms)
    return Timer(kind=TimerKind.STEP_STOP, due_at=due_at, job=job.id, step=step.id)


def _job_timer(job: Job) -> Timer:
    if job.deadline_at is not None:
        return Timer(kind=TimerKind.JOB_TIMEOUT, due_at=job.deadline_at, job=job.id)
    assert job.start_deadline_at is not None
    return Timer(kind=TimerKind.JOB_START, due_at=job.start_deadline_at, job=job.id)
