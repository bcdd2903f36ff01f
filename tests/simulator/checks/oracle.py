"""The oracle: the rules of the language, implemented a second time and independently.

Rules of this file: none of the engine's decisions are used, only the fields of its state and the plan. If both are
wrong in the same way, no check notices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.simulator.truth import Execution
from waterflowd.engine import Run, events
from waterflowd.engine.inputs import Timer, TimerKind
from waterflowd.engine.state.blocks import Attempt, Block, Step
from waterflowd.engine.state.runs import Job
from waterflowd.model.plan import JobPlan, OnLost, StepPlan
from waterflowd.model.statuses import Outcome, Status

#: How often in a row agents may refuse attempts before the step fails, and attempts of `on-lost: retry` without a
#: `retry`.
REFUSALS_MAX = 6
LOST_MAX = 3
#: How long after the grace period an unconfirmed stop is given up.
STOP_ANSWER_MS = 60_000
_WORDS = {Outcome.FAILURE: "failure", Outcome.TIMED_OUT: "timeout", Outcome.LOST: "lost"}


def at_work(block: Block) -> Iterator[Step]:
    """Yields the current steps of the block and in the blocks that it has started, outer steps first."""
    step = block.current
    if step is None:
        return
    yield step
    for inner in step.blocks:
        yield from at_work(inner)


def timers(job: Job) -> set[Timer]:
    """Returns the timers that an active job needs."""
    if job.children is not None:
        at = job.children.resume_at
        return set() if at is None else {Timer(kind=TimerKind.BATCH_PAUSE, due_at=at, job=job.id)}
    if not job.is_begun:
        return set()
    if job.retry_at is not None:
        return {Timer(kind=TimerKind.JOB_RETRY, due_at=job.retry_at, job=job.id)}
    needed: set[Timer] = set()
    active = [step for step in at_work(job.root) if step.status is not Status.QUEUED]
    if any(step.approval is not None for step in active) or job.is_timed_out:
        # Its timeout is paused while it waits for people.
        pass
    elif job.deadline_at is not None:
        needed.add(Timer(kind=TimerKind.JOB_TIMEOUT, due_at=job.deadline_at, job=job.id))
    elif job.start_deadline_at is not None:
        needed.add(Timer(kind=TimerKind.JOB_START, due_at=job.start_deadline_at, job=job.id))
    for step in active:
        approval_at = step.approval.due_at if step.approval is not None else None
        for kind, at in (
            (TimerKind.STEP_SLEEP, step.due_at),
            (TimerKind.STEP_RETRY, step.retry_at),
            (TimerKind.STEP_TIMEOUT, step.deadline_at),
            (TimerKind.APPROVAL, approval_at),
        ):
            if at is not None:
                needed.add(Timer(kind=kind, due_at=at, job=job.id, step=step.id))
        if step.stop and step.last is not None and step.last.is_open:
            grace_ms = step.plan.stop.grace_ms
            due_at = step.stop_at + grace_ms + STOP_ANSWER_MS + over_after_ms(step.last.lease_ms, grace_ms)
            needed.add(Timer(kind=TimerKind.STEP_STOP, due_at=due_at, job=job.id, step=step.id))
    return needed


def over_after_ms(lease_ms: int, grace_ms: int) -> int:
    """Returns how long the daemon waits for a step with this lease: 5 s for the kill, 3 % for the clocks."""
    return (lease_ms + grace_ms + 5_000) * 103 // 100 if lease_ms else 0


def is_exclusive(run: Run, job: Job, step: Step) -> bool:
    """Returns whether something may start elsewhere when an attempt of the step ends and nobody knows how."""
    return step.plan.on_lost is not OnLost.HOLD and may_start_something(run, job)


def may_start_something(run: Run, job: Job) -> bool:
    """Returns whether the end of a step of the job may start something elsewhere; a child run belongs to its step."""
    owners: list[Run | Job] = [run, job]
    while owners[-1] is not run and (above := getattr(owners[-1], "parent", None)) is not None:
        owners.append(above)
    tries = job.plan.retry.max_attempts if job.plan.retry is not None else 1
    is_tied = job.pinned is not None
    return (
        run.trigger.is_exclusive
        or any(owner.lock is not None for owner in owners)
        or (job.number < tries and not is_tied)
    )


def active(siblings: list[Job]) -> int:
    """Returns how many instances have started and not ended."""
    return sum(job.status not in (Status.QUEUED, Status.COMPLETED) for job in siblings)


def batch_is_open(job: Job) -> bool:
    """Returns whether all instances of the earlier batches, and the pause after them, have ended."""
    assert job.parent is not None
    children = job.parent.children
    assert children is not None
    begins = max((end for end in children.batches if end <= job.position), default=0)
    has_ended = all(one.conclusion is not None for one in children.jobs[:begins])
    return has_ended and children.resume_at is None


def takes_lock(job: Job) -> bool:
    """Returns whether this job takes the lock of its concurrency group itself: instances per server share one."""
    if job.plan.concurrency is None:
        return False
    if job.plan.target is not None:
        return not job.is_instance
    return job.is_instance or job.plan.strategy is None


def asks(job: Job) -> bool:
    """Returns whether the job waits for the list of its servers."""
    is_waiting = job.is_begun and job.children is None and job.status is Status.WAITING
    return is_waiting and job.plan.target is not None and not job.is_instance


def is_next(run: Run, job: Job) -> bool:
    """Returns whether a queued job should have started because nothing in the file delays it."""
    if run.started_at is None:
        return False
    if any(job.scope.jobs[need].conclusion is None for need in job.plan.needs):
        return False
    if not job.is_instance:
        return True
    assert job.parent is not None
    children = job.parent.children
    assert children is not None
    begun = sum(one.status is not Status.QUEUED for one in children.jobs)
    has_room = children.max_parallel is None or active(children.jobs) < children.max_parallel
    return job.position == begun and has_room and batch_is_open(job)


def owner(job: Job) -> str | None:
    """Returns what a job waits for before its steps, empty for nothing; None for a job that executes its steps."""
    if job.children is not None:
        is_open = any(child.conclusion is None for child in job.children.jobs)
        return "its jobs" if is_open or job.children.resume_at is not None else ""
    if not job.is_begun:
        is_asked = job.approval is not None and not job.is_approved and job.approval.rejected_by is None
        wants = job.lock is not None and not job.lock.is_held and job.lock.refusal is None
        return "people" if is_asked else "a group" if wants else ""
    if asks(job):
        return "the fleet"
    return "a timer" if job.retry_at is not None else None


def attempts_max(plan: StepPlan) -> int:
    """Returns how many processes a step may have in total, by its file."""
    if plan.retry is not None:
        return plan.retry.max_attempts
    return LOST_MAX if plan.on_lost is OnLost.RETRY else 1


def tries_max(plan: JobPlan) -> int:
    """Returns how many tries a job may have in total, by its file."""
    return plan.retry.max_attempts if plan.retry is not None else 1


def allows(plan: StepPlan, attempt: Attempt) -> bool:
    """Returns whether the file retries this outcome, limits aside."""
    word = _WORDS.get(attempt.outcome) if attempt.outcome is not None else None
    if word is None:
        return False
    words = {word}
    if word == "failure" and attempt.exit_code is not None:
        words.add(f"exit:{attempt.exit_code}")
    if plan.retry is not None and words & set(plan.retry.never_on):
        return False
    is_listed = plan.retry is not None and bool(words & set(plan.retry.on))
    return is_listed or (word == "lost" and plan.on_lost is OnLost.RETRY)


def is_tried_again(step: Step) -> bool:
    """Returns whether another attempt must follow: the file says so, or agents have refused only a few times."""
    outcomes = [attempt.outcome for attempt in step.attempts[step.earlier :]]
    if outcomes[-1] is Outcome.REFUSED:
        newest = outcomes[-REFUSALS_MAX:]
        return len(newest) < REFUSALS_MAX or any(outcome is not Outcome.REFUSED for outcome in newest)
    ran = sum(outcome is not Outcome.REFUSED for outcome in outcomes)
    return allows(step.plan, step.attempts[-1]) and ran < attempts_max(step.plan)


def hands_back(params: dict[str, Any]) -> bool:
    """Returns whether a script sets an output when it succeeds."""
    return "o" in params["run"].split()


def contradiction(event: events.AttemptFinished, execution: Execution | None) -> str:
    """Describes what really happened and contradicts the outcome; empty if nothing does."""
    outcome = event.outcome
    if outcome is Outcome.REFUSED:
        return "it ran" if execution is not None else ""
    if outcome is Outcome.SUCCESS:
        if execution is None or execution.ended_at is None:
            return "it did not run to its end"
        return "" if (execution.how, execution.exit_code) == ("exited", 0) else f"{execution.how} {execution.exit_code}"
    if outcome is Outcome.FAILURE and event.exit_code is not None:
        if execution is None or execution.ended_at is None:
            return "it did not run to its end"
        return "" if execution.exit_code == event.exit_code else f"its exit code was {execution.exit_code}"
    if outcome in (Outcome.TIMED_OUT, Outcome.CANCELLED) and event.finished_at is not None and execution is not None:
        return "" if execution.ended_at is not None else "it still runs"
    return ""
