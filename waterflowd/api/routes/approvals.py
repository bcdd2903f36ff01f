"""Approvals: people decide about what waits for them, a job before its environment or an `approval` step.

Rules of this file: the role opens the door, the engine says whose word counts (the approvers that the file or the configuration
names, and never the one who started the run where it says so). A decision is durable and in the audit trail before the answer.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Request, Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.access.audit_trail import note
from waterflowd.access.registry import Principal, check_plan
from waterflowd.api.gate import Approver, Ports
from waterflowd.api.request_bodies import answer, described, read_json
from waterflowd.api.run_lookup import read_run, resolve
from waterflowd.api.services import Services
from waterflowd.api.views.rendering import summary_json
from waterflowd.api.views.run_shapes import RunRow
from waterflowd.engine.rules import approvals
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import RunId

router = APIRouter(tags=["runs"])

#: A sentence or two; it stands in the run's log.
COMMENT_LENGTH_MAX = 1_000
_SHOWN = 10
_Name = Annotated[str, msgspec.Meta(max_length=4_000)]


class Decision(msgspec.Struct, forbid_unknown_fields=True):
    """What is decided about; nothing is needed where only one thing waits."""

    job: _Name | None = None
    step: _Name | None = None
    comment: Annotated[str, msgspec.Meta(max_length=COMMENT_LENGTH_MAX)] = ""


@router.post("/v1/runs/{run_id}/approve", openapi_extra=described(Decision), responses={200: {"model": RunRow}})
async def approve_run(request: Request, services: Ports, principal: Approver, run_id: str) -> Response:
    """Approves what waits for people: `job`, and `step` for a step of it, where more than one thing waits."""
    return await _decide(request, services, principal, resolve(services, run_id), is_approved=True)


@router.post("/v1/runs/{run_id}/reject", openapi_extra=described(Decision), responses={200: {"model": RunRow}})
async def reject_run(request: Request, services: Ports, principal: Approver, run_id: str) -> Response:
    """Rejects what waits for people: the job or step fails."""
    return await _decide(request, services, principal, resolve(services, run_id), is_approved=False)


async def _decide(
    request: Request, services: Services, principal: Principal, run_id: RunId, *, is_approved: bool
) -> Response:
    body = await read_json(request, Decision)
    run = read_run(services, run_id)
    check_plan(principal, run.plan)
    job, step = _chosen(run, body)
    job_id, step_id = job.id, step.id if step is not None else None
    comment = escape_for_display(body.comment, COMMENT_LENGTH_MAX)
    by = principal.name
    row = await services.runs.decide(run_id, job_id, step_id, by, is_approved=is_approved, comment=comment)
    what = "approve-run" if is_approved else "reject-run"
    await note(services, principal, what, run_id, job=job_id, step=step_id, comment=comment)
    return answer(summary_json(row))


def _chosen(run: Run, body: Decision) -> tuple[Job, Step | None]:
    """The one thing that is meant; `Rejected` 409 when nothing waits or more than one thing fits."""
    waiting = approvals.pending(run)
    found = [
        (job, step)
        for job, step, _ in waiting
        if (body.job is None or job.id == body.job)
        and (body.step is None or (step is not None and step.id == body.step))
    ]
    if body.job is not None and body.step is None and len(found) > 1:
        # A job before its environment has no step that could wait.
        found = [(job, step) for job, step in found if step is None] or found
    if len(found) == 1:
        return found[0]
    names = [job.id if step is None else f"{job.id}/{step.id}" for job, step, _ in waiting]
    if not names:
        raise Rejected("WF606", f"nothing of run {run.id} waits for an approval", status=409)
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    said = "several wait" if len(found) > 1 else "that does not wait for one"
    raise Rejected(
        "WF606", f"{said}; what waits for an approval is: {escape_for_display(shown)}", where="job", status=409
    )
