"""Maintenance of agents: draining, groups, removal, and the keys that were revoked."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.access import roles
from waterflowd.admin.ports import RevokedRow
from waterflowd.api.dependencies import Operator, Ports, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, page
from waterflowd.api.request_bodies import read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.routes.administration.agents import check_agent, find_agent
from waterflowd.api.schemas.agents import (
    AgentSchema,
    GroupsBody,
    RemovedAgentSchema,
    RevokedKeyList,
    RevokedKeySchema,
)
from waterflowd.api.services import Services
from waterflowd.fleet.registry import check_groups

router = APIRouter(tags=["agents"])


@router.get("/v1/agents/revoked", responses={200: returns(RevokedKeyList)})
async def list_revoked(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """The keys of former agents, which are refused, by name."""
    rows, following = page(services.agents.revoked(), _key, limit, cursor)
    return json_response(RevokedKeyList(agents=[RevokedKeySchema.of(row) for row in rows], next=following))


def _key(row: RevokedRow) -> str:
    return f"{row.name} {row.fingerprint}"


@router.post("/v1/agents/{fingerprint:path}/drain", responses={200: returns(AgentSchema)})
async def drain_agent(services: Ports, principal: Operator, fingerprint: str) -> Response:
    """Start no new jobs on the agent. Jobs that have started on it continue."""
    found = _approved(services, principal, fingerprint)
    row = await services.agents.drain(found, principal.name)
    await services.audit.action(principal, "drain-agent", found)
    return json_response(AgentSchema.of(row))


@router.post("/v1/agents/{fingerprint:path}/undrain", responses={200: returns(AgentSchema)})
async def undrain_agent(services: Ports, principal: Operator, fingerprint: str) -> Response:
    """Start new jobs on the agent again."""
    found = _approved(services, principal, fingerprint)
    row = await services.agents.undrain(found, principal.name)
    await services.audit.action(principal, "undrain-agent", found)
    return json_response(AgentSchema.of(row))


@router.post(
    "/v1/agents/{fingerprint:path}/groups",
    openapi_extra=takes(GroupsBody),
    responses={200: returns(AgentSchema)},
)
async def set_groups(request: Request, services: Ports, principal: Operator, fingerprint: str) -> Response:
    """Set the groups of an approved agent: it is in these, and in no others."""
    body = await read_json(request, GroupsBody)
    groups = check_groups(tuple(body.groups))
    roles.check_groups(principal, groups)
    found = _approved(services, principal, fingerprint)
    row = await services.agents.set_groups(found, groups, principal.name)
    await services.audit.action(principal, "set-agent-groups", found, groups=list(groups))
    return json_response(AgentSchema.of(row))


@router.post("/v1/agents/{fingerprint:path}/remove", responses={200: returns(RemovedAgentSchema)})
async def remove_agent(services: Ports, principal: Operator, fingerprint: str) -> Response:
    """Forget an agent without work, or a revoked key."""
    found = _revoked(services, fingerprint)
    if found is None:
        found = _approved(services, principal, fingerprint)
    else:
        # Its groups are no longer known.
        roles.check_groups(principal, ())
    await services.agents.remove(found, principal.name)
    await services.audit.action(principal, "remove-agent", found)
    return json_response(RemovedAgentSchema(fingerprint=found))


@router.get("/v1/agents/{fingerprint:path}", responses={200: returns(AgentSchema)})
async def get_agent(services: Ports, _: Viewer, fingerprint: str) -> Response:
    """One approved agent, by its name or fingerprint."""
    found = find_agent(services, fingerprint)
    for row in services.agents.rows():
        if row.fingerprint == found:
            return json_response(AgentSchema.of(row))
    raise _is_pending(fingerprint)


def _approved(services: Services, principal: roles.Principal, text: str) -> str:
    """The fingerprint of an approved agent that the principal may administer."""
    found = find_agent(services, text)
    if all(row.fingerprint != found for row in services.agents.rows()):
        raise _is_pending(text)
    check_agent(services, principal, found)
    return found


def _is_pending(text: str) -> Rejected:
    shown = escape_for_display(text, 64)
    problem = f"{shown} waits for approval; next: waterflowctl agents approve {shown} --group GROUP"
    return Rejected("WF606", problem, status=409)


def _revoked(services: Services, text: str) -> str | None:
    """The fingerprint of the revoked key with this fingerprint or name; None if an approved agent has it, or nothing."""
    if any(text in (row.fingerprint, row.name) for row in services.agents.rows()):
        return None
    found = [row.fingerprint for row in services.agents.revoked() if text in (row.fingerprint, row.name)]
    if len(found) > 1:
        shown = escape_for_display(text, 60)
        problem = f'several revoked keys have the name "{shown}"; use the fingerprint'
        raise Rejected("WF606", f"{problem}: waterflowctl agents list --all", status=409)
    return found[0] if found else None
