"""Validation of a workflow without starting it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from waterflowd.access import workflow_errors
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.problems import InvalidWorkflow
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.runs import run_starts
from waterflowd.api.runs.run_lookup import Text
from waterflowd.api.schemas.problems import ValidFileSchema
from waterflowd.api.schemas.runs import ValidateBody
from waterflowd.dsl.reporting.diagnostics import Compiled
from waterflowd.model import inputs as input_checks
from waterflowd.model import plan as plans
from waterflowd.reconcile import ref_updates
from waterflowd.reconcile.source import TreeFile

router = APIRouter(tags=["validate"])


@router.post(
    "/v1/validate",
    openapi_extra=takes(ValidateBody, is_yaml=True),
    responses={200: returns(ValidFileSchema), 404: {}},
)
async def validate(
    request: Request, services: Ports, _: Viewer, path: Text = None, repository: Text = None
) -> Response:
    """Compile a workflow that is sent, and check its inputs if there are any. A 422 holds all errors with their places.

    What the configuration does not let the workflow use is an error too.
    """
    sent = await run_starts.read_workflow(request, path, ValidateBody)
    name = repository if repository is not None else sent.repository
    settings = services.access.repository(name) if name is not None else None

    async def read(path: str) -> bytes | None:
        text = sent.files.get(path)
        return text.encode() if text is not None else None

    compiled = await run_starts.compile_workflow(
        request, services, services.validator, sent, read if sent.files or settings is not None else None
    )
    file = ref_updates.file_applied(TreeFile(path=sent.path, blob=""), Compiled(plan=compiled, diagnostics=[]))
    if errors := workflow_errors.access_errors(file, settings, services.access):
        raise InvalidWorkflow(errors)
    plan = plans.decode(compiled)
    if sent.inputs:
        input_checks.check_start(plan.inputs, sent.inputs)
    return json_response(ValidFileSchema.of(plan))
