"""The `workflow/run` node: a step that starts a child run and, unless it says `wait: false`, ends with it.

Rules of this file:

- The step has attempts like a step on a server, but holds no server. An attempt is pending until it ends: first its parameters
  are rendered (`ChildRunRequested`), then the host starts the run (`ChildRunStarted`), and the attempt ends with that run.
- When a step must end, its child run is cancelled and the step ends after it, so that nothing keeps running unnoticed. On a
  forced cancel the step ends at once, and the cancel of its child run is forced too. If the end of the step may start
  something elsewhere, it ends after its child run even then.
"""

from __future__ import annotations

from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine import events, inputs
from waterflowd.engine.rules import contexts, environment_variables, leases, rendering
from waterflowd.engine.state.blocks import Attempt, Step, StopUrgency
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome, verb

#: Outputs that the node sets itself, overriding those of the run.
RUN_ID = "run-id"
CONCLUSION = "conclusion"

_OUTCOMES = {
    Conclusion.SUCCESS: Outcome.SUCCESS,
    # Everything in the run was skipped by its own rules: neither the run nor the step has failed.
    Conclusion.SKIPPED: Outcome.SUCCESS,
}

Events = tuple[events.RunEvent, ...]


# What follows ---------------------------------------------------------------------------------------------------------


def of_attempt(run: Run, job: Job, step: Step, attempt: Attempt, now: int) -> events.RunEvent | None:
    """The next move of a pending attempt."""
    is_forced = step.stop is StopUrgency.FORCED and not is_exclusive(run, job, attempt)
    if is_forced or (attempt.child_run is None and (step.stop or step.is_timed_out)):
        cause = step.stop_reason if step.stop else step.reason
        return _finished(job, step, attempt, _cut_outcome(run, job, step), cause, now)
    if attempt.params is None:
        return _requested(run, job, step, attempt, now)
    if attempt.child_run is not None and not attempt.params["wait"]:
        cause = reason(ReasonCode.SUCCEEDED, f"started run {attempt.child_run}", run=attempt.child_run)
        return _finished(job, step, attempt, Outcome.SUCCESS, cause, now, {RUN_ID: attempt.child_run})
    return None


def is_exclusive(run: Run, job: Job, attempt: Attempt) -> bool:
    """Whether the attempt's child run must have ended before anything that the end of the attempt may start elsewhere."""
    is_awaited = attempt.params is not None and bool(attempt.params["wait"])
    return is_awaited and leases.may_start_something(run, job)


def _cut_outcome(run: Run, job: Job, step: Step) -> Outcome:
    """The outcome of an attempt that must stop."""
    is_late = job.is_timed_out or run.is_timed_out if step.stop else step.is_timed_out
    return Outcome.TIMED_OUT if is_late and not run.is_cancelled else Outcome.CANCELLED


def _requested(run: Run, job: Job, step: Step, attempt: Attempt, now: int) -> events.RunEvent:
    try:
        known = environment_variables.known(run, job, step, now)
        env = contexts.for_step(run, job, step.block, now, known)
        input = expr.render(step.plan.params, env)
        rendering.check_size("the step's parameters", input, rendering.VALUES_BYTES_MAX)
        name = rendering.label(expr.render(step.plan.name, env)) if "${{" in step.plan.name else None
        timeout_ms = rendering.minutes_ms(step.plan.timeout_minutes, env, "timeout-minutes")
        workflow, values, is_awaited = _parameters(input)
    except Rejected as error:
        cause = reason(ReasonCode.EXPRESSION_ERROR, error.text, error=error.code)
        return _finished(job, step, attempt, Outcome.FAILURE, cause, now)
    except ValueError as error:
        cause = reason(ReasonCode.NODE_ERROR, f"{step.plan.node}: {error}")
        return _finished(job, step, attempt, Outcome.FAILURE, cause, now)
    return events.ChildRunRequested(
        at=now,
        job=job.id,
        step=step.id,
        attempt=attempt.number,
        name=name,
        workflow=workflow,
        inputs=values,
        is_awaited=is_awaited,
        deadline_at=None if timeout_ms is None else now + timeout_ms,
        reason=reason(ReasonCode.CHILD_RUN_STARTING, f"starting {workflow}", workflow=workflow),
    )


def _parameters(input: Any) -> tuple[str, dict[str, Any], bool]:
    """Returns workflow, inputs and `wait`. Raises `ValueError` with the reason as a sentence."""
    workflow, values, is_awaited = input.get("workflow"), input.get("inputs"), input.get("wait")
    if not isinstance(workflow, str) or not workflow:
        raise ValueError("workflow must be the path of a workflow file")
    if values is not None and not isinstance(values, dict):
        raise ValueError("inputs must be a mapping of names to values")
    if is_awaited not in (None, True, False, "true", "false"):
        raise ValueError("wait must be true or false")
    return workflow, values or {}, is_awaited not in (False, "false")


def _finished(
    job: Job,
    step: Step,
    attempt: Attempt,
    outcome: Outcome,
    cause: Reason,
    now: int,
    outputs: dict[str, Any] | None = None,
) -> events.AttemptFinished:
    return events.AttemptFinished(
        at=now, job=job.id, step=step.id, attempt=attempt.number, outcome=outcome, outputs=outputs or {}, reason=cause
    )


# What the host says ---------------------------------------------------------------------------------------------------


def created(run: Run, input: inputs.ChildRunCreated, now: int) -> Events:
    """The child run exists."""
    found = _pending(run, input)
    if found is None or found[2].child_run is not None:
        return ()
    text = f"waiting for run {input.run} ({input.name} #{input.number})"
    cause = reason(ReasonCode.WAITING_CHILD_RUN, text, run=input.run, number=input.number)
    return (
        events.ChildRunStarted(
            at=now, job=input.job, step=input.step, attempt=input.attempt, run=input.run, reason=cause
        ),
    )


def not_created(run: Run, input: inputs.ChildRunNotCreated, now: int) -> Events:
    """The child run was not created yet, or never will be."""
    found = _pending(run, input)
    if found is None or found[2].child_run is not None:
        return ()
    job, step, attempt = found
    if input.is_refused:
        return (_finished(job, step, attempt, Outcome.FAILURE, input.reason, now),)
    if attempt.reason == input.reason:
        return ()
    return (events.AttemptWaiting(at=now, job=job.id, step=step.id, attempt=attempt.number, reason=input.reason),)


def ended(run: Run, input: inputs.ChildRunEnded, now: int) -> Events:
    """The child run has ended, and so does the attempt."""
    found = _pending(run, input)
    if found is None or found[2].child_run != input.run:
        return ()
    job, step, attempt = found
    outcome = _OUTCOMES.get(input.conclusion, Outcome.FAILURE)
    if input.conclusion is Conclusion.CANCELLED and (step.stop or step.is_timed_out):
        outcome = _cut_outcome(run, job, step)
    outputs = {**input.outputs, RUN_ID: input.run, CONCLUSION: input.conclusion.value}
    return (_finished(job, step, attempt, outcome, _end_reason(step, outcome, input), now, outputs),)


def _end_reason(step: Step, outcome: Outcome, input: inputs.ChildRunEnded) -> Reason:
    if outcome is Outcome.SUCCESS:
        return reason(ReasonCode.SUCCEEDED, f"run {input.run} {verb(input.conclusion)}", run=input.run)
    if outcome is Outcome.FAILURE:
        text = f"run {input.run} {verb(input.conclusion)}: {input.reason}"
        return reason(ReasonCode.CHILD_RUN_FAILED, text, run=input.run, conclusion=input.conclusion.value)
    return step.stop_reason if step.stop else step.reason


def _pending(
    run: Run, input: inputs.ChildRunCreated | inputs.ChildRunNotCreated | inputs.ChildRunEnded
) -> tuple[Job, Step, Attempt] | None:
    """The attempt that a report names, if it starts or awaits a child run."""
    attempt = run.attempt(input.job, input.step, input.attempt)
    if attempt is None or attempt.status is not AttemptStatus.PENDING or attempt.params is None:
        return None
    job = run.jobs_by_id[input.job]
    step = job.steps_by_id[input.step]
    return (job, step, attempt) if step.is_child_run else None
