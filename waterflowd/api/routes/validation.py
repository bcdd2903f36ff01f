"""Validation of a workflow without starting it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from waterflowd.api import run_starts
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.run_lookup import Text
from waterflowd.api.schemas.problems import ValidFileSchema
from waterflowd.api.schemas.runs import StartRunBody
from waterflowd.model import inputs as input_checks
from waterflowd.model import plan as plans

router = APIRouter(tags=["validate"])


@router.post("/v1/validate", openapi_extra=takes(StartRunBody, is_yaml=True), responses={200: returns(ValidFileSchema)})
async def validate(request: Request, services: Ports, _: Viewer, path: Text = None) -> Response:
    """Compile a workflow that is sent, and check its inputs if there are any. A 422 holds all errors with their places."""
    sent = await run_starts.read_workflow(request, path)
    plan = plans.decode(await run_starts.compile_workflow(request, services, services.validator, sent))
    if sent.inputs:
        input_checks.check_start(plan.inputs, sent.inputs)
    return json_response(ValidFileSchema.of(plan))
