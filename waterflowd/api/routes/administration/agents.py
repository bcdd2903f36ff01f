"""Agents, join tokens, groups, and the nodes that steps can use."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from waterflow_agent import join_token
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflowd.access import roles
from waterflowd.admin.ports import AgentRow, JoinTokenRow
from waterflowd.api.dependencies import Operator, Ports, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, page
from waterflowd.api.request_bodies import parse_ttl, read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.schemas.agents import (
    AgentList,
    AgentSchema,
    GroupList,
    GroupsBody,
    GroupSchema,
    JoinTokenBody,
    JoinTokenList,
    JoinTokenSchema,
    NewJoinTokenSchema,
    NodeDescriptionSchema,
    NodeList,
    PendingAgentSchema,
    RevokedAgentSchema,
    ServerSchema,
)
from waterflowd.api.services import Services
from waterflowd.api.timestamps import timestamp
from waterflowd.fleet.registry import check_groups

router = APIRouter(tags=["agents"])

#: Shorter prefixes of a fingerprint are too likely to match another agent.
_PREFIX_LENGTH_MIN = len("SHA256:") + 6
_TOKEN_TTL_MS = 3_600_000
_USES_MAX = 100_000


def find_agent(services: Services, text: str) -> str:
    """The fingerprint of the agent that a person names; `Rejected` 404 or 409.

    Anyone who can reach the enrollment port chooses the name of a pending agent, and can compute keys until a prefix of the
    fingerprint fits. So a pending agent is found only by its whole fingerprint. An approved one is also found by its name, or
    by a prefix of its fingerprint with `SHA256:`.
    """
    approved = [(row.fingerprint, row.name) for row in services.agents.rows()]
    is_prefix = text.startswith("SHA256:") and len(text) >= _PREFIX_LENGTH_MIN
    found = [
        fingerprint
        for fingerprint, name in approved
        if text in (fingerprint, name) or (is_prefix and fingerprint.startswith(text))
    ]
    if len(found) == 1:
        return found[0]
    displayed = escape_for_display(text, 60)
    if found:
        raise Rejected("WF606", f'several agents match "{displayed}"; use the fingerprint', status=409)
    if any(row.fingerprint == text for row in services.agents.pending()):
        return text
    raise Rejected(
        "WF604",
        f'agent "{displayed}" not found: an approved agent is named by its name or fingerprint, a pending one by its whole '
        "fingerprint; list agents with `waterflowctl agents`",
        status=404,
    )


@router.get("/v1/agents", responses={200: returns(AgentList)})
async def list_agents(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """Approved agents by name, the agents that wait for approval, and the addresses of this daemon for agents."""
    rows, following = page(services.agents.rows(), _key, limit, cursor)
    return json_response(
        AgentList(
            agents=[AgentSchema.of(row) for row in rows],
            next=following,
            pending=[PendingAgentSchema.of(row) for row in list(services.agents.pending())[:ROWS_MAX]],
            server=ServerSchema.of(services.agents.server()),
        )
    )


def _key(row: AgentRow) -> str:
    return f"{row.name} {row.fingerprint}"


@router.get("/v1/groups", responses={200: returns(GroupList)})
async def list_groups(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """Groups with their agents and slots."""
    groups = GroupSchema.of_agents(services.agents.rows())
    rows, following = page(groups, lambda group: group.name, limit, cursor)
    return json_response(GroupList(groups=rows, next=following))


@router.get("/v1/nodes", responses={200: returns(NodeList)})
async def list_nodes(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """The nodes that steps can use: the built-in ones, and those installed on servers. Nodes of repositories are not listed."""
    nodes = _nodes(services.agents.rows())
    rows, following = page(nodes, lambda node: node.name, limit, cursor)
    return json_response(NodeList(nodes=rows, next=following))


def _nodes(agents: Sequence[AgentRow]) -> list[NodeDescriptionSchema]:
    # When servers have different versions of a node, the first server's is shown.
    own_nodes = {own.name: own for row in reversed(agents) for own in row.own_nodes if own.version}
    return [
        *(NodeDescriptionSchema.of_built_in(node, agents) for node in schema.BUILT_IN.values()),
        *(NodeDescriptionSchema.of_own_node(own, agents) for own in own_nodes.values()),
    ]


@router.get("/v1/agents/tokens", responses={200: returns(JoinTokenList)})
async def list_join_tokens(
    services: Ports, _: Operator, limit: Limit = ROWS_MAX, cursor: PageCursor = None
) -> Response:
    """All join tokens without their secrets, oldest first, including those that are no longer valid."""
    now = services.clock.now()
    tokens, following = page(services.agents.tokens(), _token_key, limit, cursor)
    return json_response(JoinTokenList(tokens=[JoinTokenSchema.of(row, now) for row in tokens], next=following))


def _token_key(row: JoinTokenRow) -> str:
    return f"{row.created_at:020} {row.id}"


@router.post(
    "/v1/agents/tokens",
    status_code=201,
    openapi_extra=takes(JoinTokenBody),
    responses={201: returns(NewJoinTokenSchema)},
)
async def create_join_token(request: Request, services: Ports, principal: Operator) -> Response:
    """Create a join token. It is shown only once."""
    body = await read_json(request, JoinTokenBody)
    groups = check_groups(tuple(body.groups))
    roles.check_groups(principal, groups)
    if body.uses is not None and not 1 <= body.uses <= _USES_MAX:
        raise Rejected("WF605", f"`uses` must be between 1 and {_USES_MAX}, or null", where="uses")
    ttl_ms = parse_ttl(body.ttl, default_ms=_TOKEN_TTL_MS)
    hosts = join_token.hosts_of(body.address) if body.address is not None else []
    token_id, token = await services.agents.create_token(groups, ttl_ms, body.uses, principal.name)
    await services.audit.action(
        principal, "create-join-token", ",".join(groups), token=token_id, uses=body.uses, ttl_s=ttl_ms // 1000
    )
    content = join_token.decode(token)
    if hosts:
        content = content.at(hosts)
    made = NewJoinTokenSchema(
        token=content.encode(),
        address=content.work_endpoint,
        enroll_address=content.enroll_endpoint,
        id=token_id,
        groups=groups,
        uses=body.uses,
        expires_at=timestamp(services.clock.now() + ttl_ms),
    )
    return json_response(made, 201)


@router.post("/v1/agents/tokens/{token_id}/revoke", responses={200: returns(JoinTokenSchema)})
@router.delete("/v1/agents/tokens/{token_id}", responses={200: returns(JoinTokenSchema)})
async def revoke_join_token(services: Ports, principal: Operator, token_id: str) -> Response:
    """Revoke a join token by its id. The agents that it has enrolled stay."""
    for row in services.agents.tokens():
        if row.id == token_id:
            roles.check_groups(principal, row.groups)
    row = await services.agents.revoke_token(token_id, principal.name)
    await services.audit.action(principal, "revoke-join-token", ",".join(row.groups), token=row.id)
    return json_response(JoinTokenSchema.of(row, services.clock.now()))


def check_agent(services: Services, principal: roles.Principal, fingerprint: str) -> None:
    """`Rejected` 403 for an agent of a group that the principal may not use."""
    for row in services.agents.rows():
        if row.fingerprint == fingerprint:
            roles.check_groups(principal, row.groups)


@router.post(
    "/v1/agents/{fingerprint:path}/approve",
    openapi_extra=takes(GroupsBody),
    responses={200: returns(AgentSchema)},
)
async def approve_agent(request: Request, services: Ports, principal: Operator, fingerprint: str) -> Response:
    """Approve a pending agent, or change the groups of an approved one."""
    body = await read_json(request, GroupsBody)
    groups = check_groups(tuple(body.groups))
    roles.check_groups(principal, groups)
    found = find_agent(services, fingerprint)
    check_agent(services, principal, found)
    row = await services.agents.approve(found, groups, principal.name)
    await services.audit.action(principal, "approve-agent", found, groups=list(groups))
    return json_response(AgentSchema.of(row))


@router.post("/v1/agents/{fingerprint:path}/accept", responses={200: returns(AgentSchema)})
async def accept_agent(services: Ports, principal: Operator, fingerprint: str) -> Response:
    """Accept the refused server as the new server of the agent: another machine, or a data directory that was moved."""
    found = find_agent(services, fingerprint)
    check_agent(services, principal, found)
    row = await services.agents.accept(found, principal.name)
    await services.audit.action(principal, "accept-agent", found, hostname=row.hostname)
    return json_response(AgentSchema.of(row))


@router.post("/v1/agents/{fingerprint:path}/revoke", responses={200: returns(RevokedAgentSchema)})
@router.delete("/v1/agents/{fingerprint:path}", responses={200: returns(RevokedAgentSchema)})
async def revoke_agent(services: Ports, principal: Operator, fingerprint: str) -> Response:
    """End the agent's session, and reject its key from now on."""
    found = find_agent(services, fingerprint)
    check_agent(services, principal, found)
    await services.agents.revoke(found, principal.name)
    await services.audit.action(principal, "revoke-agent", found)
    return json_response(RevokedAgentSchema(fingerprint=found))
