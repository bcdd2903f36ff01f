"""Retention: which runs and output are removed, by which rules, and when."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from waterflow_agent.errors import Rejected
from waterflowd.admin.ports import RetentionAdmin
from waterflowd.api.dependencies import Admin, Ports, Viewer
from waterflowd.api.responses import json_response, returns
from waterflowd.api.schemas.retention import (
    RemovedRunList,
    RemovedRunSchema,
    RetentionProgressSchema,
    RetentionRowSchema,
    RetentionSchema,
)
from waterflowd.api.services import Services
from waterflowd.api.timestamps import timestamp

router = APIRouter(tags=["system"])

WorkflowName = Annotated[str, Query(max_length=300, description="Name or path of the workflow.")]
RunNumber = Annotated[int, Query(ge=1, le=1 << 53, description="Number of the run.")]


@router.get("/v1/retention", responses={200: returns(RetentionSchema), 409: {}})
async def preview_retention(services: Ports, _: Admin) -> Response:
    """The rules, and what they would remove now. Nothing is changed."""
    return json_response(await _state(services, _of_log(services)))


@router.post("/v1/retention/prune", status_code=202, responses={202: returns(RetentionSchema)})
async def prune(services: Ports, principal: Admin) -> Response:
    """Remove it now instead of within ten minutes, in the background. The answer says what that is."""
    retention = _of_log(services)
    state = await _state(services, retention)
    if not state.rules:
        raise Rejected(
            "WF606", "no rule is set, so nothing is removed; set one in [retention] of waterflowd.toml", status=409
        )
    await services.audit.action(
        principal, "prune", "retention", runs=sum(row.runs for row in state.would_remove), rules=list(state.rules)
    )
    retention.start_now(principal.name)
    return json_response(state, 202)


@router.get("/v1/removed-runs", responses={200: returns(RemovedRunList)})
async def list_removed_runs(services: Ports, _: Viewer, name: WorkflowName, number: RunNumber) -> Response:
    """Runs with this number that were removed, if they are still remembered (the newest 100,000)."""
    rows = await services.retention.removed_runs(name, number) if services.retention is not None else []
    return json_response(RemovedRunList(removed_runs=[RemovedRunSchema.of(row) for row in rows]))


def _of_log(services: Services) -> RetentionAdmin:
    if services.retention is None:
        raise Rejected(
            "WF606",
            "runs are on Temporal, which removes them after the retention period of its namespace;"
            " set that period, and a lifecycle rule of the object store for output",
            status=409,
        )
    return services.retention


async def _state(services: Services, retention: RetentionAdmin) -> RetentionSchema:
    progress = dict(retention.progress)
    ended_at = progress.pop("round_ended_at")
    return RetentionSchema(
        rules={name.removesuffix("_ms").replace("_", "-"): value for name, value in retention.rules.items()},
        would_remove=[RetentionRowSchema.of(row) for row in await retention.preview()],
        removed=msgspec.convert(
            {**progress, "round_ended_at": timestamp(ended_at)}, RetentionProgressSchema, strict=False
        ),
    )
