"""Agents: who works, who wants to, in which groups, and with which nodes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflowd.access import registry
from waterflowd.access.audit_trail import note
from waterflowd.admin.ports import AgentRow
from waterflowd.api.gate import Approver, Ports, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, page
from waterflowd.api.request_bodies import answer, described, read_json
from waterflowd.api.services import Services
from waterflowd.api.ttl import lifetime_ms
from waterflowd.api.views.rendering import agent_json, groups_json, pending_json, time_text
from waterflowd.api.views.shapes import (
    AgentList,
    AgentShape,
    GroupList,
    JoinTokenShape,
    NodeList,
    Problem,
    RevokedAgent,
)
from waterflowd.fleet.registry import check_groups

router = APIRouter(tags=["agents"])

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
#: Shorter pieces of a fingerprint are too easily somebody else's.
_PREFIX_LENGTH_MIN = len("SHA256:") + 6
_TOKEN_TTL_MS = 3_600_000
_USES_MAX = 100_000


class JoinTokenBody(msgspec.Struct, forbid_unknown_fields=True):
    """What a join token opens."""

    groups: list[str]
    #: `1h`, or seconds.
    ttl: str | int | None = None
    #: How many agents; null for any number.
    uses: int | None = 1


class GroupsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Groups of an agent."""

    groups: list[str]


def find_fingerprint(services: Services, text: str) -> str:
    """The fingerprint that a whole or partial one, or an agent's name, means; `Rejected` 404 or 409."""
    if _FINGERPRINT.fullmatch(text):
        return text
    rows = [(row.fingerprint, row.name) for row in services.agents.rows()]
    rows += [(row.fingerprint, row.name) for row in services.agents.pending()]
    found = {print_ for print_, name in rows if name == text}
    if not found and len(text) >= _PREFIX_LENGTH_MIN:
        found = {print_ for print_, _ in rows if print_.startswith(text)}
    if len(found) == 1:
        return found.pop()
    shown = escape_for_display(text, 60)
    if found:
        raise Rejected("WF606", f'several agents are called "{shown}"; use the fingerprint', status=409)
    raise Rejected("WF604", f'there is no agent "{shown}"; see `waterflowctl agents`', status=404)


@router.get("/v1/agents", responses={200: {"model": AgentList}})
async def list_agents(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """Approved agents by name, in `pending` the keys that wait for a person, and where agents find this `server`."""
    answered = page("agents", services.agents.rows(), _place, agent_json, limit=limit, cursor=cursor)
    answered["pending"] = [pending_json(row) for row in list(services.agents.pending())[:ROWS_MAX]]
    answered["server"] = msgspec.to_builtins(services.agents.server())
    return answer(answered)


def _place(row: AgentRow) -> str:
    return f"{row.name} {row.fingerprint}"


@router.get("/v1/groups", responses={200: {"model": GroupList}})
async def list_groups(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """Groups with their agents and slots."""
    rows = groups_json(services.agents.rows())
    return answer(page("groups", rows, lambda row: str(row["name"]), dict, limit=limit, cursor=cursor))


@router.get("/v1/nodes", responses={200: {"model": NodeList}})
async def list_nodes(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """What a step can use: nodes of Waterflow, and own nodes of the servers. Those of repositories are in their files."""
    agents = services.agents.rows()
    rows = [_node_json(known, agents) for known in schema.BUILT_IN.values()] + _own_nodes_json(agents)
    return answer(page("nodes", rows, lambda row: str(row["name"]), dict, limit=limit, cursor=cursor))


def _own_nodes_json(agents: Sequence[AgentRow]) -> list[dict[str, Any]]:
    """By name; where servers differ, as the first one has it."""
    found = {own.name: own for row in reversed(agents) for own in row.own_nodes if own.version}
    return [
        {
            "name": own.name,
            "summary": own.summary,
            "runs_in": schema.RunsIn.HOST.value,
            "origin": own.origin,
            "parameters": [{"name": name, "required": is_required} for name, is_required in own.parameters],
            "outputs": [],
            "aliases": [],
            "agents": sum(own.name in row.nodes for row in agents),
        }
        for own in found.values()
    ]


def _node_json(known: schema.NodeSchema, agents: Sequence[AgentRow]) -> dict[str, Any]:
    fields = msgspec.structs.fields(known.parameters)
    return {
        "name": known.name,
        "summary": known.summary,
        "runs_in": known.runs_in.value,
        "origin": "waterflow",
        "parameters": [{"name": field.encode_name, "required": field.required} for field in fields],
        "outputs": list(known.outputs),
        "aliases": list(known.aliases),
        "agents": sum(known.name in row.nodes for row in agents),
    }


@router.post(
    "/v1/agents/tokens",
    status_code=201,
    openapi_extra=described(JoinTokenBody),
    responses={201: {"model": JoinTokenShape}, 400: {"model": Problem}},
)
async def create_join_token(request: Request, services: Ports, principal: Approver) -> Response:
    """Makes a join token; it is shown this once."""
    body = await read_json(request, JoinTokenBody)
    groups = check_groups(tuple(body.groups))
    registry.check_groups(principal, groups)
    if body.uses is not None and not 1 <= body.uses <= _USES_MAX:
        raise Rejected("WF605", f"`uses` is 1 to {_USES_MAX}, or null", where="uses")
    ttl_ms = lifetime_ms(body.ttl, default_ms=_TOKEN_TTL_MS)
    token = await services.agents.create_token(groups, ttl_ms, body.uses, principal.name)
    await note(services, principal, "create-join-token", ",".join(groups), uses=body.uses, ttl_s=ttl_ms // 1000)
    expires_at = time_text(services.clock.now() + ttl_ms)
    return answer({"token": token, "groups": list(groups), "uses": body.uses, "expires_at": expires_at}, 201)


def _check_agent(services: Services, principal: registry.Principal, fingerprint: str) -> None:
    """`Rejected` 403 for an agent that works for groups which the principal may not use."""
    for row in services.agents.rows():
        if row.fingerprint == fingerprint:
            registry.check_groups(principal, row.groups)


@router.post(
    "/v1/agents/{fingerprint:path}/approve", openapi_extra=described(GroupsBody), responses={200: {"model": AgentShape}}
)
async def approve_agent(request: Request, services: Ports, principal: Approver, fingerprint: str) -> Response:
    """Makes the key an agent of these groups."""
    body = await read_json(request, GroupsBody)
    groups = check_groups(tuple(body.groups))
    registry.check_groups(principal, groups)
    found = find_fingerprint(services, fingerprint)
    _check_agent(services, principal, found)
    row = await services.agents.approve(found, groups, principal.name)
    await note(services, principal, "approve-agent", found, groups=list(groups))
    return answer(agent_json(row))


@router.post("/v1/agents/{fingerprint:path}/revoke", responses={200: {"model": RevokedAgent}})
@router.delete("/v1/agents/{fingerprint:path}", responses={200: {"model": RevokedAgent}})
async def revoke_agent(services: Ports, principal: Approver, fingerprint: str) -> Response:
    """Ends the agent's session and refuses its key from now on."""
    found = find_fingerprint(services, fingerprint)
    _check_agent(services, principal, found)
    await services.agents.revoke(found, principal.name)
    await note(services, principal, "revoke-agent", found)
    return answer({"fingerprint": found, "status": "revoked"})
