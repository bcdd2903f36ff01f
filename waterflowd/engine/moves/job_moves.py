"""Moves of a job as a whole: its gates, expansion and completion. See run_moves.py for the rules.

The gates of a job, in order: its turn among the instances of its job, its needs, its `if`, the approval of its environment, its
slot in a concurrency group. Then it becomes instances, or the jobs that it calls, or waits for a server.
"""

from __future__ import annotations

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine import events
from waterflowd.engine.moves import child_moves
from waterflowd.engine.rules import (
    approvals,
    calls,
    checkout,
    completion,
    conditions,
    contexts,
    environment_variables,
    rendering,
    reports,
    retry,
)
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model import durations
from waterflowd.model.ids import JobId
from waterflowd.model.plan import ConcurrencyPlan, EnvironmentPlan, Offline
from waterflowd.model.reasons import Reason, ReasonCode, reason, rejection
from waterflowd.model.records import ReusedJob
from waterflowd.model.statuses import FAILURES, Conclusion, Status, verb

#: The same as for a group that the file names.
GROUP_LENGTH_MAX = 100
CONCURRENCY_GROUP_LENGTH_MAX = 200

#: The conclusions of steps that a cancel has stopped or prevented from starting.
_CUT_SHORT = (Conclusion.CANCELLED, Conclusion.SKIPPED)

_SUCCEEDED = reason(ReasonCode.SUCCEEDED, "all steps succeeded")


def of_job(run: Run, job: Job, now: int) -> events.RunEvent | None:
    """The next move of a job whose steps are not running."""
    if job.children is not None:
        return child_moves.of_parent(run, job, now)
    ending = _ending(run, job)
    if ending is not None:
        return completion.complete(job, *ending, now)
    if job.is_begun or job.open_needs:
        return None
    if job.is_instance and not job.is_admitted and not child_moves.has_turn(job):
        return None
    try:
        return _gates(run, job, now)
    except Rejected as error:
        return completion.complete(job, Conclusion.FAILURE, rejection(error), now)


def _ending(run: Run, job: Job) -> tuple[Conclusion, Reason] | None:
    """Conclusion and reason of a job whose steps are not running and must not start; None if the job may continue."""
    if run.is_forced:
        return Conclusion.CANCELLED, run.reason
    if run.is_timed_out:
        return Conclusion.TIMED_OUT, run.reason
    if job.is_timed_out:
        return Conclusion.TIMED_OUT, job.reason
    if job.is_cancelled:
        return Conclusion.CANCELLED, job.stop_reason
    if run.started_at is None:
        return Conclusion.CANCELLED, run.reason
    parent = job.parent
    if parent is None or job.status is not Status.QUEUED:
        return None
    assert parent.children is not None
    if parent.children.scope is not None:
        # Called jobs start or end by their own `if`, also after a cancel.
        return None
    if parent.is_cancelled:
        return Conclusion.CANCELLED, parent.stop_reason
    if parent.children.halted is not None and _reused(run, job) is None:
        conclusion = Conclusion.CANCELLED if parent.children.fail_fast else Conclusion.SKIPPED
        return conclusion, parent.children.halted
    return None


def _reused(run: Run, job: Job) -> ReusedJob | None:
    """What the run reuses of the job from an earlier run."""
    return run.reused.jobs.get(job.id) if run.reused is not None else None


# Gates ----------------------------------------------------------------------------------------------------------------


def _gates(run: Run, job: Job, now: int) -> events.RunEvent | None:
    env = contexts.for_job(run, job, now)
    # The condition is evaluated once, without the variables of the environment.
    if job.status is Status.QUEUED and job.environment is None:
        reused = _reused(run, job)
        if reused is not None:
            assert run.reused is not None
            cause = reason(ReasonCode.REUSED, f"reused from run {run.reused.run}", run=run.reused.run)
            conclusion = reused.conclusion
            return events.JobCompleted(
                at=now,
                job=job.id,
                outcome=conclusion,
                conclusion=conclusion,
                outputs=reused.outputs,
                reason=cause,
                report=reused.report,
            )
        if not job.is_instance and not conditions.holds(job.plan.condition, env):
            return _skipped(run, job, env, now)
    plan = job.plan
    if plan.environment is not None and not job.is_instance and not job.is_approved:
        if job.environment is None:
            name = rendering.label(expr.render(plan.environment.name, env))
            return events.EnvironmentEntered(at=now, job=job.id, environment=name)
        gate = _environment(run, job, plan.environment, job.environment, now)
        if gate is not None or (not job.is_approved and job.approval is not None):
            return gate
    if plan.concurrency is not None and _takes_lock(job):
        if job.lock is None:
            return lock_requested(job.id, plan.concurrency, env, now)
        if job.lock.refusal is not None:
            return completion.complete(job, Conclusion.CANCELLED, job.lock.refusal, now)
        if not job.lock.is_held:
            return None
    return _begin(run, job, env, now)


def _takes_lock(job: Job) -> bool:
    """Servers of `target: each` share one slot; instances of a matrix have one each."""
    return not job.is_instance if job.plan.target is not None else not job.is_template


def _skipped(run: Run, job: Job, env: expr.Env, now: int) -> events.JobCompleted:
    caller = job.caller
    if run.is_cancelled if caller is None else caller.is_cancelled:
        cause = run.reason if caller is None else caller.stop_reason
        return completion.complete(job, Conclusion.CANCELLED, cause, now)
    for need in job.plan.needs:
        needed = job.scope.jobs[need]
        if needed.conclusion is not None and not needed.has_success and not conditions.names_status(job.plan.condition):
            culprit = _without_success(needed)
            assert culprit.conclusion is not None
            cause = reason(ReasonCode.NEEDS, f'job "{culprit.plan.id}" {verb(culprit.conclusion)}', job=culprit.plan.id)
            return completion.complete(job, Conclusion.SKIPPED, cause, now)
    return completion.complete(job, Conclusion.SKIPPED, conditions.false(job.plan.condition, env), now)


def _without_success(job: Job) -> Job:
    """The nearest job on the chain of needs that did not succeed: one that succeeded in spite of its own needs is not it."""
    while job.conclusion is Conclusion.SUCCESS:
        needed = (job.scope.jobs[need] for need in job.plan.needs)
        cause = next((each for each in needed if each.conclusion is not None and not each.has_success), None)
        if cause is None:
            break
        job = cause
    return job


def _environment(run: Run, job: Job, plan: EnvironmentPlan, name: str, now: int) -> events.RunEvent | None:
    if job.approval is not None:
        if job.approval.rejected_by is None:
            return None
        cause = reason(
            ReasonCode.REJECTED, f'rejected by {job.approval.rejected_by} for environment "{job.approval.environment}"'
        )
        return completion.complete(job, Conclusion.FAILURE, cause, now)
    policy = run.environments.get(name, events.Policy())
    if not policy.is_ref_allowed:
        text = f'{run.trigger.ref or "a run without a ref"} may not deploy to environment "{name}"'
        cause = reason(ReasonCode.REF_REFUSED, text, environment=name)
        return completion.complete(job, Conclusion.FAILURE, cause, now)
    approvers = policy.approvers or plan.approvers
    may_approve_own = plan.may_approve_own and policy.may_approve_own
    minimum = max(plan.minimum, policy.minimum, 0 if may_approve_own and not approvers else 1)
    if minimum == 0:
        return None
    why = ""
    if not may_approve_own and run.trigger.principal is None:
        # Nobody is known to have started the run, so one approver could be that person.
        if policy.unattended is events.Unattended.REFUSE:
            text = (
                f'environment "{name}" refuses runs without an authenticated starter; start one with waterflowctl run'
            )
            return _unattended(job, name, text, now)
        minimum = max(minimum, 2)
        if approvers and len(approvers) < minimum:
            text = (
                f'environment "{name}" requires two approvers for a run without an authenticated starter, but only '
                f"{approvers[0]} may approve; start one with waterflowctl run"
            )
            return _unattended(job, name, text, now)
        why = f" ({minimum} approvals, because the run has no authenticated starter)"
    approver_text = approvals.any_of(approvers)
    text = f'waiting for {approver_text} to approve environment "{name}"{why}; next: waterflowctl approve {run.id}'
    return events.ApprovalRequested(
        at=now,
        job=job.id,
        environment=name,
        approvers=approvers,
        minimum=minimum,
        may_approve_own=may_approve_own,
        reason=reason(ReasonCode.WAITING_APPROVAL, text, environment=name),
    )


def _unattended(job: Job, environment: str, text: str, now: int) -> events.JobCompleted:
    cause = reason(ReasonCode.UNATTENDED_REFUSED, text, environment=environment)
    return completion.complete(job, Conclusion.FAILURE, cause, now)


def lock_requested(job: JobId | None, plan: ConcurrencyPlan, env: expr.Env, now: int) -> events.LockRequested:
    """Requests a slot in a concurrency group. Raises `Rejected`."""
    group = expr.to_text(expr.render(plan.group, env))
    if not 1 <= len(group) <= CONCURRENCY_GROUP_LENGTH_MAX:
        limit = CONCURRENCY_GROUP_LENGTH_MAX
        raise Rejected("WF111", f"concurrency.group has {len(group)} characters; 1 to {limit} are allowed")
    return events.LockRequested(
        at=now,
        job=job,
        group=group,
        limit=plan.limit,
        queue=plan.queue,
        cancel_in_progress=rendering.is_continued(plan.cancel_in_progress, env),
        reason=reason(ReasonCode.WAITING_LOCK, f'waiting for a slot in concurrency group "{group}"', group=group),
    )


# What a job becomes ---------------------------------------------------------------------------------------------------


def _begin(run: Run, job: Job, env: expr.Env, now: int) -> events.RunEvent:
    plan = job.plan
    if job.is_template and plan.target is None:
        return child_moves.expand(run, job, env, now)
    if plan.call is not None:
        return _enter(run, job, env, now)
    group = job.group if job.pinned is not None else _group(expr.to_text(expr.render(plan.group, env)))
    name = job.name if job.is_instance else rendering.label(expr.render(plan.name, env))
    # An error in an expression ends the job now, and not when its files are needed.
    checkout.parts_of(plan.checkouts, env, "")
    cause = reason(ReasonCode.STARTED, f'waiting for a server of group "{group}"', group=group)
    if job.pinned is not None:
        cause = reason(ReasonCode.STARTED, f"waiting for server {job.pinned_name}", agent=job.pinned_name)
    elif job.kept is not None:
        name_of_server = job.kept.agent_name
        text = f"waiting for server {name_of_server}, which has the job's directory"
        cause = reason(ReasonCode.STARTED, text, agent=name_of_server)
    return events.JobReady(
        at=now,
        job=job.id,
        name=name,
        group=group,
        labels={key: expr.to_text(expr.render(value, env)) for key, value in plan.labels.items()},
        timeout_ms=rendering.minutes_ms(plan.timeout_minutes, env, "timeout-minutes") or 1,
        start_deadline_at=now + _patience_ms(job),
        reason=cause,
    )


def _patience_ms(job: Job) -> int:
    target = job.plan.target
    if job.pinned is not None and target is not None and target.offline is Offline.WAIT:
        return target.wait_ms
    return job.plan.start_timeout_ms


def _group(name: str) -> str:
    if not 1 <= len(name) <= GROUP_LENGTH_MAX:
        raise Rejected("WF111", f"runs-on has {len(name)} characters; the name of a group has 1 to {GROUP_LENGTH_MAX}")
    return name


def _enter(run: Run, job: Job, env: expr.Env, now: int) -> events.JobEntered:
    call = job.plan.call
    assert call is not None
    arguments = expr.render(call.arguments, env)
    assert isinstance(arguments, dict)
    values = calls.resolve_inputs(call.inputs, arguments, call.path)
    return events.JobEntered(
        at=now,
        job=job.id,
        name=job.name if job.is_instance else rendering.label(expr.render(job.plan.name, env)),
        inputs=values,
        vars=rendering.resolve_vars(call.vars, values, run.trigger),
        reason=reason(ReasonCode.STARTED, f"calls {call.path}"),
    )


# Its end --------------------------------------------------------------------------------------------------------------


def end(run: Run, job: Job, now: int) -> events.RunEvent:
    """The completion of a job whose steps are all completed, or its next try."""
    outcome, cause = _outcome(run, job)
    if outcome in FAILURES and job.plan.retry is not None and not job.is_cancelled and not run.is_timed_out:
        seed = f"{run.id}/{job.id}"
        delay_ms = retry.job_delay_ms(job.plan.retry, outcome, job.number, seed)
        if delay_ms is not None:
            number = job.number + 1
            text = f"try {job.number} {verb(outcome)} ({cause.text}); next try in {durations.text(delay_ms)}"
            return events.JobRetryScheduled(
                at=now,
                job=job.id,
                number=number,
                due_at=now + delay_ms,
                reason=reason(ReasonCode.RETRY, text, number=number),
            )
    env = contexts.for_end(run, job, job.root, now, lambda: environment_variables.of_job(run, job, now))
    ended = completion.completed(job, outcome, cause, job.plan.outputs, env, now)
    report = reports.cells(run, job, env)
    return ended if report is None else msgspec.structs.replace(ended, report=report)


def _outcome(run: Run, job: Job) -> tuple[Conclusion, Reason]:
    if job.is_timed_out:
        return Conclusion.TIMED_OUT, job.reason
    if run.is_timed_out:
        return Conclusion.TIMED_OUT, run.reason
    if job.is_skipped:
        return Conclusion.SKIPPED, job.stop_reason
    if job.failed_step is not None:
        failed = job.failed_step
        assert failed.outcome is not None
        text = f'step "{failed.name}": {failed.reason.text}'
        return failed.outcome, reason(ReasonCode.FAILED, text, step=failed.id)
    if job.is_cancelled and any(step.conclusion in _CUT_SHORT for step in job.steps):
        return Conclusion.CANCELLED, job.stop_reason
    return Conclusion.SUCCESS, _SUCCEEDED
