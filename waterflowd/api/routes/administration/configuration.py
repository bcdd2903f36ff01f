"""The daemon's configuration, which is read again on request."""

from __future__ import annotations

from fastapi import APIRouter, Response

from waterflow_agent.errors import Rejected
from waterflowd.api.dependencies import Admin, Ports
from waterflowd.api.responses import json_response, returns
from waterflowd.api.schemas.configuration import KeyChangeSchema, ReloadSchema

router = APIRouter(tags=["system"])


@router.post("/v1/reload", responses={200: returns(ReloadSchema), 422: {}})
async def reload(services: Ports, principal: Admin) -> Response:
    """Read the configuration again, and apply what can be applied without a restart. An error in it changes nothing."""
    if services.reloader is None:
        raise Rejected("WF606", "this daemon cannot read its configuration again; restart it", status=409)
    try:
        found = await services.reloader.reload()
    except Rejected as error:
        raise Rejected(error.code, f"{error.text}; nothing was changed", where=error.where, status=422) from error
    changes = [KeyChangeSchema.of(change) for change in found.changes]
    facts = {"applied": found.applied, "needs_restart": found.needs_restart}
    await services.audit.action(principal, "reload", found.source, **facts)
    return json_response(ReloadSchema(source=found.source, changes=changes))
