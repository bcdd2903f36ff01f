"""Approvals: pending approvals, who may decide them, and the effect of a decision.

Rules of this file: only `refusal` determines who may not decide. The API calls it to answer with a reason; `decide` calls it
again because an input may be stale. Names are compared only with the principal that authenticated when the run was started,
never with the author of a commit, which anybody can forge.
"""

from __future__ import annotations

from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine import events, inputs
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.gates import Approval
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model import durations
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.statuses import Conclusion, Status

#: Largest number of people that one approval may require.
MINIMUM_MAX = 20
#: Recorded as the decider when the timeout decides.
TIMEOUT = "timeout"


def request(run: Run, job: Job, step: Step, env: expr.Env, now: int) -> events.ApprovalRequested:
    """Starts an `approval` step. Raises `Rejected`, or `ValueError` with the reason as a sentence."""
    params = expr.render(step.plan.params, env)
    assert isinstance(params, dict)
    approvers = _approvers(params.get("approvers"))
    minimum = expr.to_number(params.get("minimum", 1))
    if not 1 <= minimum <= MINIMUM_MAX or minimum != int(minimum):
        raise ValueError(f"minimum is {minimum:g}; it must be a whole number from 1 to {MINIMUM_MAX}")
    if approvers and minimum > len(approvers):
        raise ValueError(f"minimum is {minimum:g}, but there are only {len(approvers)} approvers")
    timeout = params.get("timeout")
    default = params.get("default") or "reject"
    if default not in ("approve", "reject"):
        raise ValueError("default must be approve or reject")
    message = expr.to_text(params.get("message") or "")
    approver_text = any_of(approvers)
    text = f"waiting for {approver_text} to approve{': ' + message if message else ''}; next: waterflowctl approve {run.id}"
    return events.ApprovalRequested(
        at=now,
        job=job.id,
        step=step.id,
        approvers=approvers,
        minimum=int(minimum),
        due_at=None if timeout is None else now + _milliseconds(timeout),
        default=default,
        reason=reason(ReasonCode.WAITING_APPROVAL, text, message=message),
    )


def any_of(approvers: tuple[str, ...]) -> str:
    """The approvers as text: `alice, bob or carol`."""
    if len(approvers) > 1:
        return f"{', '.join(approvers[:-1])} or {approvers[-1]}"
    return approvers[0] if approvers else "an approver"


def _approvers(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    names = value if isinstance(value, list) else [name.strip() for name in expr.to_text(value).split(",")]
    return tuple(dict.fromkeys(expr.to_text(name) for name in names if name))


def _milliseconds(value: Any) -> int:
    if isinstance(value, str):
        return durations.parse(value)
    number = expr.to_number(value)
    if not 0 < number <= durations.parse("366d") / 1000:
        raise ValueError("timeout must be a number of seconds or a duration such as 2d")
    return round(number * 1000)


def outcome(approval: Approval) -> Conclusion | None:
    """The decision; None while more decisions are needed."""
    if approval.rejected_by is not None:
        return Conclusion.FAILURE
    return Conclusion.SUCCESS if len(approval.approved_by) >= approval.minimum else None


def pending(run: Run) -> list[tuple[Job, Step | None, Approval]]:
    """The approvals that the run waits for, in the order of its jobs."""
    found: list[tuple[Job, Step | None, Approval]] = []
    if run.is_completed:
        return found
    for job in run.jobs:
        if job.status is Status.COMPLETED:
            continue
        if job.approval is not None and not job.is_approved and outcome(job.approval) is None:
            found.append((job, None, job.approval))
        found += [(job, step, step.approval) for step in job.active_steps() if step.approval is not None]
    return found


def find(run: Run, job: str, step: str | None) -> Approval | None:
    """The approval of this job or step, while it waits for people."""
    for owner, inner, approval in pending(run):
        if owner.id == job and (inner.id if inner is not None else None) == step:
            return approval
    return None


def refusal(run: Run, approval: Approval, by: str) -> str:
    """Why this person may not decide; empty if they may."""
    if approval.approvers and by not in approval.approvers:
        return f"{by} may not approve this; approvers: {', '.join(approval.approvers)}"
    if not approval.may_approve_own and by == run.trigger.principal:
        return f"{by} started the run and may not approve it"
    return f"{by} has already approved this" if by in approval.approved_by else ""


def check(run: Run, input: inputs.DecideApproval) -> None:
    """Raises `Rejected` WF606 (409) if the job or step does not wait for approval, WF602 (403) if the person may not decide."""
    approval = find(run, input.job, input.step)
    if approval is None:
        where = input.job if input.step is None else f"{input.job}/{input.step}"
        raise Rejected("WF606", f"{where} of run {run.id} is not waiting for approval", status=409)
    text = refusal(run, approval, input.by)
    if text:
        raise Rejected("WF602", text, status=403)


def decide(run: Run, input: inputs.DecideApproval, now: int) -> tuple[events.RunEvent, ...]:
    """Records a person's decision; nothing if it is stale or they may not decide."""
    approval = find(run, input.job, input.step)
    if approval is None or refusal(run, approval, input.by):
        return ()
    return (_decided(input.job, input.step, approval, input.by, input.is_approved, input.comment, now),)


def timeout_decisions(job: Job, step: Step, now: int) -> tuple[events.RunEvent, ...]:
    """No decision was made in time: the default decides."""
    approval = step.approval
    assert approval is not None
    if approval.default == "reject":
        return (_decided(job.id, step.id, approval, TIMEOUT, False, "", now),)
    missing = approval.minimum - len(approval.approved_by)
    return tuple(_decided(job.id, step.id, approval, TIMEOUT, True, "", now) for _ in range(missing))


def _decided(
    job: Any, step: Any, approval: Approval, by: str, is_approved: bool, comment: str, now: int
) -> events.ApprovalDecided:
    verb = "approved" if is_approved else "rejected"
    text = f"{verb} by {by}" + (f": {comment}" if comment else "")
    if is_approved and len(approval.approved_by) + 1 < approval.minimum:
        missing = approval.minimum - len(approval.approved_by) - 1
        text += f"; {missing} more {'approval' if missing == 1 else 'approvals'} needed"
    code = ReasonCode.APPROVED if is_approved else ReasonCode.REJECTED
    return events.ApprovalDecided(
        at=now, job=job, step=step, by=by, is_approved=is_approved, comment=comment, reason=reason(code, text, by=by)
    )
