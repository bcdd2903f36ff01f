"""API tokens, for admins. The secret of a token is shown only once."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from waterflowd.access.roles import ROLE_NAMES, Role
from waterflowd.api.dependencies import Admin, Ports
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, one_of, page
from waterflowd.api.request_bodies import parse_ttl, read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.schemas.access import NewTokenSchema, TokenBody, TokenList, TokenSchema
from waterflowd.fleet.registry import check_groups

router = APIRouter(tags=["tokens"])

_TTL_MS = 90 * 86_400_000


@router.get("/v1/tokens", responses={200: returns(TokenList)})
async def list_tokens(services: Ports, _: Admin, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """All API tokens, without their secrets."""
    now = services.clock.now()
    tokens, following = page(services.token_admin.tokens(), lambda token: token.id, limit, cursor)
    return json_response(TokenList(tokens=[TokenSchema.of(token, now) for token in tokens], next=following))


@router.post("/v1/tokens", status_code=201, openapi_extra=takes(TokenBody), responses={201: returns(NewTokenSchema)})
async def create_token(request: Request, services: Ports, principal: Admin) -> Response:
    """Create an API token. Only this answer contains its secret."""
    body = await read_json(request, TokenBody)
    role = Role(one_of(body.role, ROLE_NAMES, "role"))
    groups = check_groups(tuple(body.groups)) if body.groups else ()
    ttl_ms = parse_ttl(body.ttl, default_ms=_TTL_MS)
    token, secret = await services.token_admin.create(principal, role, body.name, groups, ttl_ms)
    return json_response(NewTokenSchema.of_new(token, secret), 201)


@router.post("/v1/tokens/{name}/revoke", responses={200: returns(TokenSchema)})
@router.delete("/v1/tokens/{name}", responses={200: returns(TokenSchema)})
async def revoke_token(services: Ports, principal: Admin, name: str) -> Response:
    """Revoke a token by its id or name. Streams that it opened end within 15 seconds."""
    token = await services.token_admin.revoke(principal, name)
    return json_response(TokenSchema.of(token, services.clock.now()))
