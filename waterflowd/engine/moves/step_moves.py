"""Moves of the current step in a block. See run_moves.py for the rules."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine import events
from waterflowd.engine.fold.evolve import CONCLUSIONS
from waterflowd.engine.moves import block_moves
from waterflowd.engine.rules import (
    approvals,
    child_runs,
    conditions,
    contexts,
    environment_variables,
    rendering,
    retry,
    sleep,
)
from waterflowd.engine.state.blocks import APPROVAL, Attempt, Step, StopUrgency
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model import durations
from waterflowd.model.ids import AttemptNo
from waterflowd.model.plan import SETUP_STEP, OnLost
from waterflowd.model.reasons import Reason, ReasonCode, reason, rejection
from waterflowd.model.statuses import FAILURES, AttemptStatus, Conclusion, Outcome, Status, verb


def of_step(run: Run, job: Job, step: Step, now: int) -> events.RunEvent | None:
    """The next move of the current step of a block."""
    if step.status is Status.QUEUED:
        return _next_step(run, job, step, now)
    if step.has_blocks:
        return _active_blocks(run, job, step, now)
    if step.approval is not None:
        return _active_approval(run, job, step, now)
    attempt = step.last
    if step.is_child_run and attempt is not None and attempt.status is AttemptStatus.PENDING:
        return child_runs.of_attempt(run, job, step, attempt, now)
    return _active_step(run, job, step, now)


# Its turn -------------------------------------------------------------------------------------------------------------


def _next_step(run: Run, job: Job, step: Step, now: int) -> events.RunEvent:
    over = _out_of_time(run, job, step)
    if run.is_forced or over is not None:
        conclusion = Conclusion.CANCELLED if run.is_forced else Conclusion.SKIPPED
        return _complete(run, job, step, conclusion, run.reason if over is None else over, now)
    reused = _reused(run, job, step, now)
    if reused is not None:
        return reused
    # Most steps have no `if`, which means `success()`, and run on a server.
    is_plain = step.plan.condition is None and not step.is_engine_node
    if is_plain and contexts.step_status(job, step.block).success:
        return _queue(job, step, now)
    try:
        known = None if is_plain else environment_variables.known(run, job, step, now)
        env = contexts.for_step(run, job, step.block, now, known)
        if not conditions.holds(step.plan.condition, env):
            return _complete(run, job, step, Conclusion.SKIPPED, _skip_reason(job, step, env), now)
        if step.is_engine_node:
            return _enter(run, job, step, env, now)
    except Rejected as error:
        return _complete(run, job, step, Conclusion.FAILURE, rejection(error), now)
    return _queue(job, step, now)


def _queue(job: Job, step: Step, now: int) -> events.AttemptQueued:
    return events.AttemptQueued(at=now, job=job.id, step=step.id, attempt=AttemptNo(len(step.attempts) + 1))


def _out_of_time(run: Run, job: Job, step: Step) -> Reason | None:
    if run.is_timed_out:
        return run.reason
    if job.is_timed_out:
        return job.reason
    if job.is_skipped:
        return job.stop_reason
    above = step.block.owner
    while above is not None:
        if above.is_timed_out:
            return above.reason
        above = above.block.owner
    return None


def _reused(run: Run, job: Job, step: Step, now: int) -> events.StepCompleted | None:
    if run.reused is None or job.number > 1 or step.plan.id == SETUP_STEP:
        # A step that takes the job's server takes it again.
        return None
    reused = run.reused.steps.get(job.id, {}).get(step.id)
    if reused is None:
        return None
    cause = reason(ReasonCode.REUSED, f"reused from run {run.reused.run}", run=run.reused.run)
    return events.StepCompleted(
        at=now,
        job=job.id,
        step=step.id,
        outcome=reused.outcome,
        conclusion=reused.conclusion,
        outputs=reused.outputs,
        env=reused.env,
        reason=cause,
    )


def _skip_reason(job: Job, step: Step, env: expr.Env) -> Reason:
    if not conditions.names_status(step.plan.condition):
        if job.is_cancelled:
            return job.stop_reason
        failed = step.block.failed_step
        if failed is not None:
            lost = failed.conclusion is Conclusion.LOST
            text = f'step "{failed.name}" {verb(failed.conclusion or Conclusion.FAILURE)}'
            code = ReasonCode.SERVER_LOST if lost else ReasonCode.EARLIER_FAILURE
            return reason(code, text, step=failed.id)
    return conditions.false(step.plan.condition, env)


def _enter(run: Run, job: Job, step: Step, env: expr.Env, now: int) -> events.RunEvent:
    try:
        if step.is_sleep:
            return _sleep(job, step, env, now)
        if step.plan.node == APPROVAL:
            return approvals.request(run, job, step, env, now)
        return block_moves.enter(run, job, step, env, now)
    except ValueError as error:
        cause = reason(ReasonCode.NODE_ERROR, f"{step.plan.node}: {error}")
        return _complete(run, job, step, Conclusion.FAILURE, cause, now)


def _sleep(job: Job, step: Step, env: expr.Env, now: int) -> events.RunEvent:
    due_at = sleep.due_at(expr.render(step.plan.params, env), now)
    until = datetime.fromtimestamp(due_at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    cause = reason(ReasonCode.SLEEPING, f"sleeping for {durations.text(due_at - now)}, until {until}", until=due_at)
    return events.StepSleeping(at=now, job=job.id, step=step.id, due_at=due_at, reason=cause)


# At work --------------------------------------------------------------------------------------------------------------


def _active_blocks(run: Run, job: Job, step: Step, now: int) -> events.RunEvent | None:
    is_stopping = step.is_timed_out or job.is_cancelled or run.is_forced
    if is_stopping or _out_of_time(run, job, step) is not None:
        if step.open_blocks:
            return None
        conclusion, cause = _cut(run, job, step)
        return _complete(run, job, step, conclusion, cause, now)
    try:
        following = block_moves.following(run, job, step, now)
        if following is not None or step.open_blocks:
            return following
        conclusion, cause, outputs = block_moves.end(run, job, step, now)
    except Rejected as error:
        if step.open_blocks:
            # The blocks that run continue to their end; the step cannot end before them.
            return None
        conclusion, outputs = Conclusion.FAILURE, {}
        cause = reason(ReasonCode.EXPRESSION_ERROR, error.text, error=error.code)
    return _complete(run, job, step, conclusion, cause, now, outputs)


def _cut(run: Run, job: Job, step: Step) -> tuple[Conclusion, Reason]:
    if step.is_timed_out:
        return Conclusion.TIMED_OUT, step.reason
    if job.is_timed_out:
        return Conclusion.TIMED_OUT, job.reason
    if run.is_timed_out and not run.is_forced:
        return Conclusion.TIMED_OUT, run.reason
    over = _out_of_time(run, job, step)
    return Conclusion.CANCELLED, job.stop_reason if over is None else over


def _active_approval(run: Run, job: Job, step: Step, now: int) -> events.RunEvent | None:
    assert step.approval is not None
    if step.stop:
        return _complete(run, job, step, Conclusion.CANCELLED, step.stop_reason, now)
    outcome = approvals.outcome(step.approval)
    if outcome is None:
        return None
    outputs = {"approved": outcome is Conclusion.SUCCESS, "by": list(step.approval.approved_by)}
    return _complete(run, job, step, outcome, step.reason, now, outputs)


def _active_step(run: Run, job: Job, step: Step, now: int) -> events.RunEvent | None:
    attempt = step.last
    if attempt is None or step.retry_at is not None or step.is_held:
        # No process of it is running: it sleeps, or waits for its next attempt or for a person.
        return _complete(run, job, step, Conclusion.CANCELLED, step.stop_reason, now) if step.stop else None
    if attempt.status is AttemptStatus.FINISHED:
        return _after_attempt(run, job, step, attempt, now)
    is_pending = attempt.status is AttemptStatus.PENDING
    # What waits for the end of this attempt must not start before its server has confirmed the stop, or has had time for it.
    is_awaited = attempt.lease_ms > 0 or step.plan.on_lost is OnLost.HOLD
    if step.stop and (is_pending or (step.stop is StopUrgency.FORCED and not is_awaited)):
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
            ended = "was refused" if outcome is Outcome.REFUSED else verb(conclusion)
            text = (
                f"attempt {attempt.number} {ended} ({attempt.reason.text}); next attempt in {durations.text(delay_ms)}"
            )
            cause = reason(ReasonCode.RETRY, text, attempt=number)
            return events.RetryScheduled(
                at=now, job=job.id, step=step.id, attempt=number, due_at=now + delay_ms, reason=cause
            )
        if outcome is Outcome.LOST and step.plan.on_lost is OnLost.HOLD:
            text = (
                f"the outcome of attempt {attempt.number} is unknown ({attempt.reason.text}); "
                f"check {attempt.agent_name}, then cancel the run"
            )
            return events.StepHeld(at=now, job=job.id, step=step.id, reason=reason(ReasonCode.HELD, text))
    return _complete(run, job, step, conclusion, attempt.reason, now)


def _delay_ms(run: Run, job: Job, step: Step, attempt: Attempt) -> int | None:
    outcome = attempt.outcome
    assert outcome is not None
    tried = step.attempts[step.earlier :]
    if outcome is Outcome.REFUSED:
        in_a_row = itertools.takewhile(lambda past: past.outcome is Outcome.REFUSED, reversed(tried))
        return retry.refused_delay_ms(sum(1 for _ in in_a_row))
    ran = sum(past.outcome is not Outcome.REFUSED for past in tried)
    return retry.delay_ms(step.plan, outcome, attempt.exit_code, ran, f"{run.id}/{job.id}/{step.id}")


def _complete(
    run: Run,
    job: Job,
    step: Step,
    outcome: Conclusion,
    cause: Reason,
    now: int,
    outputs: dict[str, object] | None = None,
) -> events.StepCompleted:
    conclusion = outcome
    if outcome in FAILURES and step.status is not Status.QUEUED and step.plan.continue_on_error is not False:
        try:
            env = contexts.for_end(run, job, step.block, now, lambda: environment_variables.known(run, job, step, now))
            if rendering.is_continued(step.plan.continue_on_error, env):
                conclusion = Conclusion.SUCCESS
                cause = reason(ReasonCode.CONTINUED, f"{verb(outcome)}, but continue-on-error is set: {cause.text}")
        except Rejected as error:
            cause = reason(ReasonCode.EXPRESSION_ERROR, f"continue-on-error: {error.text}", error=error.code)
    return events.StepCompleted(
        at=now, job=job.id, step=step.id, outcome=outcome, conclusion=conclusion, outputs=outputs, reason=cause
    )
