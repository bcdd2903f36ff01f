"""What needs a person now."""

from __future__ import annotations

from fastapi import APIRouter, Response

from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs.attention import attention
from waterflowd.api.schemas.attention import AttentionSchema

router = APIRouter(tags=["system"])


@router.get("/v1/attention", responses={200: returns(AttentionSchema)})
async def show_attention(services: Ports, _: Viewer) -> Response:
    """What needs a person now: approvals, failures that no later success has cleared, and what does not work."""
    return json_response(await attention(services))
