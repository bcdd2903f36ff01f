"""The oracle: what the rules of the language say, written a second time and from the other side.

Rules of this file: nothing of the engine's own decisions is used, only its state's fields and the plan; where both are wrong
in the same way, nobody notices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from waterflowd.engine import Run, events
from waterflowd.engine.inputs import Timer, TimerKind
from waterflowd.engine.state import Attempt, Job, Step
from waterflowd.model.ids import JobId
from waterflowd.model.plan import OnLost, StepPlan
from waterflowd.model.statuses import Outcome

if TYPE_CHECKING:
    from waterflowd.testing.sim.truth import Execution

#: Attempts in a row that agents may refuse before the step fails, and attempts of `on-lost: retry` without a `retry`.
REFUSALS_MAX = 6
LOST_MAX = 3
#: How long after the grace a stop that is not answered has an end.
STOP_ANSWER_MS = 60_000
_WORDS = {Outcome.FAILURE: "failure", Outcome.TIMED_OUT: "timeout", Outcome.LOST: "lost"}


def timers(job: Job) -> set[Timer]:
    """The timers that an active job needs."""
    needed: set[Timer] = set()
    if not job.is_timed_out and job.deadline_at is not None:
        needed.add(Timer(kind=TimerKind.JOB_TIMEOUT, due_at=job.deadline_at, job=job.id))
    elif not job.is_timed_out and job.start_deadline_at is not None:
        needed.add(Timer(kind=TimerKind.JOB_START, due_at=job.start_deadline_at, job=job.id))
    step = job.current
    if step is not None and step.due_at is not None:
        needed.add(Timer(kind=TimerKind.STEP_SLEEP, due_at=step.due_at, job=job.id, step=step.id))
    if step is not None and step.retry_at is not None:
        needed.add(Timer(kind=TimerKind.STEP_RETRY, due_at=step.retry_at, job=job.id, step=step.id))
    if step is not None and step.stop and step.last is not None and step.last.is_open:
        due_at = step.stop_at + step.plan.stop.grace_ms + STOP_ANSWER_MS
        needed.add(Timer(kind=TimerKind.STEP_STOP, due_at=due_at, job=job.id, step=step.id))
    return needed


def is_over(run: Run, job: JobId) -> bool:
    """Whether the job has its conclusion."""
    return run.jobs_by_id[job].conclusion is not None


def attempts_max(plan: StepPlan) -> int:
    """How many processes a step may have in all, by its file."""
    if plan.retry is not None:
        return plan.retry.max_attempts
    return LOST_MAX if plan.on_lost is OnLost.RETRY else 1


def allows(plan: StepPlan, attempt: Attempt) -> bool:
    """Whether the file wants an outcome tried again, were there no bound."""
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
    """Whether another attempt must follow: the file says so, or agents have refused the newest ones only a few times."""
    outcomes = [attempt.outcome for attempt in step.attempts]
    if outcomes[-1] is Outcome.REFUSED:
        newest = outcomes[-REFUSALS_MAX:]
        return len(newest) < REFUSALS_MAX or any(outcome is not Outcome.REFUSED for outcome in newest)
    ran = sum(outcome is not Outcome.REFUSED for outcome in outcomes)
    return allows(step.plan, step.attempts[-1]) and ran < attempts_max(step.plan)


def hands_back(params: dict[str, Any]) -> bool:
    """Whether a script hands back an output when it succeeds."""
    return "o" in params["run"].split()


def contradiction(event: events.AttemptFinished, execution: Execution | None) -> str:
    """What really happened and speaks against the outcome; empty when nothing does."""
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
