"""Moves: what follows from the state of a run by itself, one event at a time.

Rules of this file: `of_job` and `of_run` look at the state and give the next event, or None when nothing follows. `step`
(step.py) applies it and asks again, in the order of the file, until nothing follows; so the log explains every consequence.
They look at one job (and its direct needs) alone, so that an event's cost does not grow with the run.

When a run or job is out of time, what is left of it is skipped, `always()` steps included: the run's end is bounded. After a
cancel, steps and jobs whose `if` holds (`always()`, `cancelled()`) still run, within the job's time; by force nothing runs.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

from waterflowd import expr
from waterflowd.engine import contexts, events, rendering, retry, sleep
from waterflowd.engine.decide import duration
from waterflowd.engine.evolve import CONCLUSIONS
from waterflowd.engine.state import Attempt, Job, Run, Step, Stop
from waterflowd.errors import Rejected
from waterflowd.model.ids import AttemptNo
from waterflowd.model.plan import OnLost
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import FAILURES, AttemptStatus, Conclusion, Outcome, Status, worst

#: A job's outputs, encoded.
OUTPUTS_BYTES_MAX = 1 << 20
#: The same as for a group that the file names.
GROUP_LENGTH_MAX = 100

#: What a step's conclusion is when a cancel has kept it from its end or its start.
_CUT_SHORT = (Conclusion.CANCELLED, Conclusion.SKIPPED)

_SUCCEEDED = reason(ReasonCode.SUCCEEDED, "all steps succeeded")


def of_run(run: Run, now: int) -> events.RunEvent | None:
    """What follows for the run itself, once nothing follows for its jobs."""
    if run.status is Status.QUEUED and run.seq:
        return events.RunStarted(at=now, reason=reason(ReasonCode.STARTED, "started"))
    if run.open_jobs == 0 and run.status is not Status.COMPLETED:
        conclusion, why = _run_end(run)
        return events.RunCompleted(at=now, conclusion=conclusion, reason=why)
    return None


def _run_end(run: Run) -> tuple[Conclusion, Reason]:
    if run.is_cancelled:
        return Conclusion.CANCELLED, run.reason
    if run.is_timed_out:
        return Conclusion.TIMED_OUT, run.reason
    conclusion = worst(job.conclusion for job in run.jobs if job.conclusion is not None)
    if conclusion is Conclusion.SUCCESS:
        return conclusion, reason(ReasonCode.SUCCEEDED, "all jobs succeeded")
    first = next(job for job in run.jobs if job.conclusion is conclusion)
    if conclusion is Conclusion.SKIPPED:
        return conclusion, reason(ReasonCode.CONDITION_FALSE, "all jobs were skipped")
    return conclusion, reason(ReasonCode.FAILED, f'job "{first.id}": {first.reason.text}', job=first.id)


def of_job(run: Run, job: Job, now: int) -> events.RunEvent | None:
    """What follows for one job."""
    if job.status is Status.COMPLETED or run.status is Status.COMPLETED:
        return None
    if job.status is Status.QUEUED:
        return _queued_job(run, job, now)
    step = job.current
    if step is None:
        return _job_end(run, job, now)
    if step.status is Status.QUEUED:
        return _next_step(run, job, step, now)
    return _active_step(run, job, step, now)


def _queued_job(run: Run, job: Job, now: int) -> events.RunEvent | None:
    if run.is_forced or run.is_timed_out:
        conclusion = Conclusion.TIMED_OUT if run.is_timed_out else Conclusion.CANCELLED
        return _complete_job(job, conclusion, run.reason, now)
    if job.open_needs:
        return None
    env = contexts.for_job(run, job, now)
    try:
        if not _holds(job.plan.condition, env):
            return _skipped_job(run, job, env, now)
        name = rendering.label(expr.render(job.plan.name, env))
        group = _group(rendering.text(expr.render(job.plan.group, env)))
        timeout_ms = rendering.minutes_ms(job.plan.timeout_minutes, env, "timeout-minutes") or 1
    except Rejected as error:
        why = reason(ReasonCode.EXPRESSION_ERROR, error.text, error=error.code)
        return _complete_job(job, Conclusion.FAILURE, why, now)
    return events.JobReady(
        at=now,
        job=job.id,
        name=name,
        group=group,
        timeout_ms=timeout_ms,
        start_deadline_at=now + job.plan.start_timeout_ms,
        reason=reason(ReasonCode.STARTED, f'waits for a server of group "{group}"', group=group),
    )


def _group(name: str) -> str:
    if not 1 <= len(name) <= GROUP_LENGTH_MAX:
        raise Rejected(
            "WF111", f"runs-on is a text of {len(name)} characters; a group's name has 1 to {GROUP_LENGTH_MAX}"
        )
    return name


def _holds(condition: str | None, env: expr.Env) -> bool:
    if condition is None:
        assert env.status is not None
        return env.status.success
    return expr.evaluate_condition(expr.parse_condition(condition), env)


def _skipped_job(run: Run, job: Job, env: expr.Env, now: int) -> events.JobCompleted:
    if run.is_cancelled:
        return _complete_job(job, Conclusion.CANCELLED, run.reason, now)
    for need in job.plan.needs:
        needed = run.jobs_by_id[need]
        if needed.conclusion is not None and not needed.has_success and not _names_status(job.plan.condition):
            why = reason(ReasonCode.NEEDS, f'job "{need}" ended {needed.conclusion.value}', job=need)
            return _complete_job(job, Conclusion.SKIPPED, why, now)
    return _complete_job(job, Conclusion.SKIPPED, _false(job.plan.condition, env), now)


def _names_status(condition: str | None) -> bool:
    """Whether the condition decides about failures by itself, rather than by the implied `success()`."""
    return condition is not None and not expr.is_success_implied(expr.parse_condition(condition))


def _false(condition: str | None, env: expr.Env) -> Reason:
    shown = expr.explain(expr.parse_condition(condition), env) if condition is not None else "success()"
    return reason(ReasonCode.CONDITION_FALSE, f"if was false: {shown}", condition=condition)


def _complete_job(job: Job, conclusion: Conclusion, why: Reason, now: int) -> events.JobCompleted:
    return events.JobCompleted(at=now, job=job.id, outcome=conclusion, conclusion=conclusion, reason=why)


def _next_step(run: Run, job: Job, step: Step, now: int) -> events.RunEvent:
    if run.is_forced or run.is_timed_out or job.is_timed_out:
        conclusion = Conclusion.CANCELLED if run.is_forced else Conclusion.SKIPPED
        return _complete_step(step, job, conclusion, run.reason if run.is_forced else _out_of_time(run, job), now)
    try:
        is_static = step.plan.condition is None and not step.is_sleep
        known = None if is_static else rendering.known_environment(run, job, step, now)
        env = contexts.for_step(run, job, now, known)
        if not _holds(step.plan.condition, env):
            return _complete_step(step, job, Conclusion.SKIPPED, _skip_reason(run, job, step, env), now)
        if step.is_sleep:
            return _sleep(run, job, step, env, now)
    except Rejected as error:
        why = reason(ReasonCode.EXPRESSION_ERROR, error.text, error=error.code)
        return _complete_step(step, job, Conclusion.FAILURE, why, now)
    return events.AttemptQueued(at=now, job=job.id, step=step.id, attempt=AttemptNo(1))


def _out_of_time(run: Run, job: Job) -> Reason:
    return job.reason if job.is_timed_out else run.reason


def _skip_reason(run: Run, job: Job, step: Step, env: expr.Env) -> Reason:
    if not _names_status(step.plan.condition):
        if job.is_cancelled:
            return run.reason
        if job.failed_step is not None:
            failed = job.failed_step
            lost = failed.conclusion is Conclusion.LOST
            text = f'step "{failed.name}" ended {failed.conclusion.value if failed.conclusion else "badly"}'
            code = ReasonCode.SERVER_LOST if lost else ReasonCode.EARLIER_FAILURE
            return reason(code, text, step=failed.id)
    return _false(step.plan.condition, env)


def _sleep(run: Run, job: Job, step: Step, env: expr.Env, now: int) -> events.RunEvent:
    try:
        due_at = sleep.due_at(expr.render(step.plan.params, env), now)
    except ValueError as error:
        why = reason(ReasonCode.NODE_ERROR, f"sleep: {error}")
        return _complete_step(step, job, Conclusion.FAILURE, why, now)
    shown = datetime.fromtimestamp(due_at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    why = reason(ReasonCode.SLEEPING, f"sleeps {duration(due_at - now)}, until {shown}", until=due_at)
    return events.StepSleeping(at=now, job=job.id, step=step.id, due_at=due_at, reason=why)


def _active_step(run: Run, job: Job, step: Step, now: int) -> events.RunEvent | None:
    attempt = step.last
    if attempt is None or step.retry_at is not None or step.is_held:
        # Nothing of it runs: it sleeps, waits for its next attempt, or for a person.
        return _complete_step(step, job, Conclusion.CANCELLED, step.stop_reason, now) if step.stop else None
    if attempt.status is AttemptStatus.FINISHED:
        return _after_attempt(run, job, step, attempt, now)
    if step.stop is Stop.FORCED or (step.stop and attempt.status is AttemptStatus.PENDING):
        is_late = job.is_timed_out or run.is_timed_out
        return events.AttemptFinished(
            at=now,
            job=job.id,
            step=step.id,
            attempt=attempt.number,
            outcome=Outcome.TIMED_OUT if is_late and not run.is_cancelled else Outcome.CANCELLED,
            reason=step.stop_reason,
        )
    return None


def _after_attempt(run: Run, job: Job, step: Step, attempt: Attempt, now: int) -> events.RunEvent:
    outcome = attempt.outcome
    assert outcome is not None
    conclusion = CONCLUSIONS[outcome]
    if not step.stop and conclusion in FAILURES:
        delay_ms = _delay_ms(run, job, step, attempt)
        if delay_ms is not None:
            number = AttemptNo(len(step.attempts) + 1)
            ended = "was refused" if outcome is Outcome.REFUSED else f"ended {conclusion.value}"
            text = f"attempt {attempt.number} {ended} ({attempt.reason.text}); next in {duration(delay_ms)}"
            why = reason(ReasonCode.RETRY, text, attempt=number)
            return events.RetryScheduled(
                at=now, job=job.id, step=step.id, attempt=number, due_at=now + delay_ms, reason=why
            )
        if outcome is Outcome.LOST and step.plan.on_lost is OnLost.HOLD:
            text = (
                f"nobody can know how attempt {attempt.number} ended ({attempt.reason.text}); "
                f"look at {attempt.agent_name}, then cancel the run"
            )
            return events.StepHeld(at=now, job=job.id, step=step.id, reason=reason(ReasonCode.HELD, text))
    return _complete_step(step, job, conclusion, attempt.reason, now, run)


def _delay_ms(run: Run, job: Job, step: Step, attempt: Attempt) -> int | None:
    outcome = attempt.outcome
    assert outcome is not None
    if outcome is Outcome.REFUSED:
        in_a_row = itertools.takewhile(lambda past: past.outcome is Outcome.REFUSED, reversed(step.attempts))
        return retry.refused_delay_ms(sum(1 for _ in in_a_row))
    ran = sum(past.outcome is not Outcome.REFUSED for past in step.attempts)
    return retry.delay_ms(step.plan, outcome, attempt.exit_code, ran, f"{run.id}/{job.id}/{step.id}")


def _complete_step(
    step: Step, job: Job, outcome: Conclusion, why: Reason, now: int, run: Run | None = None
) -> events.StepCompleted:
    conclusion = outcome
    if run is not None and outcome in FAILURES and step.plan.continue_on_error is not False:
        try:
            if rendering.is_continued(step.plan.continue_on_error, contexts.for_step(run, job, now)):
                conclusion = Conclusion.SUCCESS
                why = reason(ReasonCode.CONTINUED, f"{outcome.value}, and the job goes on: {why.text}")
        except Rejected as error:
            why = reason(ReasonCode.EXPRESSION_ERROR, f"continue-on-error: {error.text}", error=error.code)
    return events.StepCompleted(at=now, job=job.id, step=step.id, outcome=outcome, conclusion=conclusion, reason=why)


def _job_end(run: Run, job: Job, now: int) -> events.JobCompleted:
    outcome, why = _job_outcome(run, job)
    env = contexts.for_step(run, job, now)
    outputs: dict[str, object] = {}
    conclusion = outcome
    try:
        if job.plan.outputs:
            rendered = expr.render(job.plan.outputs, env)
            assert isinstance(rendered, dict)
            rendering.check_size("the job's outputs", rendered, OUTPUTS_BYTES_MAX)
            outputs = rendered
        if outcome in FAILURES and rendering.is_continued(job.plan.continue_on_error, env):
            conclusion = Conclusion.SUCCESS
            why = reason(ReasonCode.CONTINUED, f"{outcome.value}, and the run goes on: {why.text}")
    except Rejected as error:
        why = reason(ReasonCode.EXPRESSION_ERROR, error.text, error=error.code)
        outcome = conclusion = worst((outcome, Conclusion.FAILURE))
    return events.JobCompleted(at=now, job=job.id, outcome=outcome, conclusion=conclusion, outputs=outputs, reason=why)


def _job_outcome(run: Run, job: Job) -> tuple[Conclusion, Reason]:
    if job.is_timed_out:
        return Conclusion.TIMED_OUT, job.reason
    if run.is_timed_out:
        return Conclusion.TIMED_OUT, run.reason
    if job.failed_step is not None:
        failed = job.failed_step
        assert failed.outcome is not None
        text = f'step "{failed.name}": {failed.reason.text}'
        return failed.outcome, reason(ReasonCode.FAILED, text, step=failed.id)
    if job.is_cancelled and any(step.conclusion in _CUT_SHORT for step in job.steps):
        return Conclusion.CANCELLED, run.reason
    return Conclusion.SUCCESS, _SUCCEEDED
