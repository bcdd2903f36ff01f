"""Validation without a start."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from waterflowd.api import run_starts
from waterflowd.api.gate import Ports, Viewer
from waterflowd.api.request_bodies import answer
from waterflowd.api.run_lookup import Text
from waterflowd.api.views.shapes import WORKFLOW_BODY, Problem, Valid
from waterflowd.model import plan as plans
from waterflowd.model.inputs import check_start

router = APIRouter(tags=["validate"])


@router.post("/v1/validate", openapi_extra=WORKFLOW_BODY, responses={200: {"model": Valid}, 422: {"model": Problem}})
async def validate(request: Request, services: Ports, _: Viewer, path: Text = None) -> Response:
    """Compiles the file that is sent, and checks inputs if there are any; a 422 holds all errors with their places."""
    sent = await run_starts.read_file(request, path)
    plan = plans.decode(await run_starts.compile_file(services, sent))
    if sent.inputs:
        check_start(plan.inputs, sent.inputs)
    jobs = [{"id": job.id, "group": job.group, "steps": len(job.steps)} for job in plan.jobs]
    return answer({"valid": True, "name": plan.name, "path": plan.path, "jobs": jobs, "errors": []})
