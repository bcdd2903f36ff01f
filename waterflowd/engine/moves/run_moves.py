"""Moves: the events that follow from the state of a run alone, one at a time.

Rules of all modules here: `of_part` and `of_run` read the state and return the next event, or None when nothing follows. `step`
(step.py) applies it and repeats, in the order of the jobs and of their blocks, until nothing follows; so the log explains
every consequence. They read one job (its direct needs, and the job that it is a part of) and one of its blocks, so that the
cost of an event does not grow with the run.

When a run or job has timed out, everything that has not run is skipped, including `always()` steps, so that the run ends in
bounded time. After a cancel, steps and jobs whose `if` is true (`always()`, `cancelled()`) still run, within the job's timeout;
after a forced cancel nothing runs.
"""

from __future__ import annotations

from waterflow_agent.errors import Rejected
from waterflowd.engine import events
from waterflowd.engine.moves import job_moves, step_moves
from waterflowd.engine.rules import completion, contexts
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.plan import ConcurrencyPlan
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import Conclusion, Status, worst


def of_run(run: Run, now: int) -> events.RunEvent | None:
    """The next move of the run itself, once its jobs have none."""
    if not run.seq or run.status is Status.COMPLETED:
        return None
    if run.open_jobs == 0:
        conclusion, cause = _run_end(run)
        return completion.run_completed(run, conclusion, cause, now)
    if run.started_at is not None or is_ending(run):
        return None
    if run.plan.concurrency is not None and run.lock is None:
        return _lock(run, run.plan.concurrency, now)
    if run.lock is not None and not run.lock.is_held:
        return None
    return events.RunStarted(at=now, reason=reason(ReasonCode.STARTED, "started"))


def is_ending(run: Run) -> bool:
    """Whether the run's jobs must end although it never started."""
    return run.is_cancelled or run.is_timed_out or (run.lock is not None and run.lock.refusal is not None)


def _lock(run: Run, plan: ConcurrencyPlan, now: int) -> events.RunEvent:
    try:
        return job_moves.lock_requested(None, plan, contexts.for_run(run, now), now)
    except Rejected as error:
        cause = reason(ReasonCode.EXPRESSION_ERROR, f"concurrency: {error.text}", error=error.code)
        return events.RunCompleted(at=now, conclusion=Conclusion.FAILURE, reason=cause)


def _run_end(run: Run) -> tuple[Conclusion, Reason]:
    if run.is_cancelled or (run.lock is not None and run.lock.refusal is not None):
        return Conclusion.CANCELLED, run.reason
    if run.is_timed_out:
        return Conclusion.TIMED_OUT, run.reason
    jobs = run.scope.jobs.values()
    conclusion = worst(job.conclusion for job in jobs if job.conclusion is not None)
    if conclusion is Conclusion.SUCCESS:
        return conclusion, reason(ReasonCode.SUCCEEDED, "all jobs succeeded")
    first = next(job for job in jobs if job.conclusion is conclusion)
    if conclusion is Conclusion.SKIPPED:
        return conclusion, reason(ReasonCode.CONDITION_FALSE, "all jobs were skipped")
    return conclusion, reason(ReasonCode.FAILED, f'job "{first.id}": {first.reason.text}', job=first.id)


def of_part(run: Run, job: Job, number: int, now: int) -> events.RunEvent | None:
    """The next move of a job and its block of this number; 0 is the root block, and the job as a whole."""
    if job.status is Status.COMPLETED or run.status is Status.COMPLETED:
        return None
    if not job.is_begun or job.children is not None or job.is_template or job.retry_at is not None:
        return job_moves.of_job(run, job, now) if number == 0 else None
    block = job.blocks.get(number) or (job.root if number == 0 else None)
    if block is None:
        return None
    step = block.current
    if step is None:
        return job_moves.end(run, job, now)
    return step_moves.of_step(run, job, step, now)
