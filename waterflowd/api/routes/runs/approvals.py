"""Approvals: people decide about jobs that wait before an environment, and about `approval` steps.

Rules of this file: the role permits the request; the engine decides whether the principal is an approver. A decision is durable
and in the audit trail before the answer.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.access.roles import Principal, check_plan
from waterflowd.api.dependencies import Approver, Ports
from waterflowd.api.request_bodies import read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.runs.run_lookup import read_run, resolve
from waterflowd.api.schemas.runs import COMMENT_LENGTH_MAX, DecisionBody, RunSummarySchema
from waterflowd.api.services import Services
from waterflowd.engine.rules import approvals
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import RunId

router = APIRouter(tags=["runs"])

_NAMES_SHOWN = 10


@router.post("/v1/runs/{run_id}/approve", openapi_extra=takes(DecisionBody), responses={200: returns(RunSummarySchema)})
async def approve_run(request: Request, services: Ports, principal: Approver, run_id: str) -> Response:
    """Approve the part of the run that waits. Name its `job`, and its `step`, when more than one part waits."""
    return await _decide(request, services, principal, await resolve(services, run_id), is_approved=True)


@router.post("/v1/runs/{run_id}/reject", openapi_extra=takes(DecisionBody), responses={200: returns(RunSummarySchema)})
async def reject_run(request: Request, services: Ports, principal: Approver, run_id: str) -> Response:
    """Reject the part of the run that waits: the job or step fails."""
    return await _decide(request, services, principal, await resolve(services, run_id), is_approved=False)


async def _decide(
    request: Request, services: Services, principal: Principal, run_id: RunId, *, is_approved: bool
) -> Response:
    body = await read_json(request, DecisionBody)
    run = await read_run(services, run_id)
    check_plan(principal, run.plan)
    job, step = _find_pending(run, body)
    job_id, step_id = job.id, step.id if step is not None else None
    comment = escape_for_display(body.comment, COMMENT_LENGTH_MAX)
    row = await services.runs.decide(run_id, job_id, step_id, principal.name, is_approved=is_approved, comment=comment)
    action = "approve-run" if is_approved else "reject-run"
    await services.audit.action(principal, action, run_id, job=job_id, step=step_id, comment=comment)
    return json_response(RunSummarySchema.of(row))


def _find_pending(run: Run, body: DecisionBody) -> tuple[Job, Step | None]:
    """The job or step that the body names; `Rejected` 409 when none or several match."""
    pending = approvals.pending(run)
    found = [
        (job, step)
        for job, step, _ in pending
        if (body.job is None or job.id == body.job)
        and (body.step is None or (step is not None and step.id == body.step))
    ]
    if body.job is not None and body.step is None and len(found) > 1:
        # A job that waits before its environment has no steps yet that could wait.
        found = [(job, step) for job, step in found if step is None] or found
    if len(found) == 1:
        return found[0]
    names = [job.id if step is None else f"{job.id}/{step.id}" for job, step, _ in pending]
    if not names:
        raise Rejected("WF606", f"run {run.id} is not waiting for an approval", status=409)
    listed = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    problem = "several parts are waiting; name one" if len(found) > 1 else "this part is not waiting for an approval"
    raise Rejected(
        "WF606", f"{problem}; waiting for an approval: {escape_for_display(listed)}", where="job", status=409
    )
