"""API tokens: made, listed and revoked by admins; the secret is shown once."""

from __future__ import annotations

import re
import secrets

import msgspec
from fastapi import APIRouter, Request, Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.access import registry
from waterflowd.access.events import TokenCreated, TokenRevoked
from waterflowd.access.registry import ROLES, TOKEN_PREFIX, hash_secret
from waterflowd.api.gate import Admin, Ports
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, one_of, page
from waterflowd.api.request_bodies import answer, described, read_json
from waterflowd.api.ttl import lifetime_ms
from waterflowd.api.views.rendering import token_json
from waterflowd.api.views.shapes import NewTokenShape, TokenList, TokenShape
from waterflowd.fleet.registry import check_groups
from waterflowd.model.ids import AUDIT

router = APIRouter(tags=["tokens"])

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_SECRET_BYTES = 32
_TTL_MS = 90 * 86_400_000
#: The registry is in memory and on the way of every request.
_TOKENS_MAX = 10_000


class TokenBody(msgspec.Struct, forbid_unknown_fields=True):
    """What the token opens."""

    role: str
    name: str | None = None
    #: Groups whose work it may start and stop; empty for all.
    groups: list[str] = []
    #: `30d`, or seconds; 90 days when it is left out.
    ttl: str | int | None = None


@router.get("/v1/tokens", responses={200: {"model": TokenList}})
async def list_tokens(services: Ports, _: Admin, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """All API tokens, without their secrets."""
    now = services.clock.now()
    rows = services.access.tokens()
    return answer(
        page("tokens", rows, lambda row: row.id, lambda row: token_json(row, now), limit=limit, cursor=cursor)
    )


@router.post(
    "/v1/tokens", status_code=201, openapi_extra=described(TokenBody), responses={201: {"model": NewTokenShape}}
)
async def create_token(request: Request, services: Ports, principal: Admin) -> Response:
    """Makes a token; its secret is in this answer and nowhere else."""
    body = await read_json(request, TokenBody)
    role = one_of(body.role, list(ROLES), "role")
    groups = check_groups(tuple(body.groups)) if body.groups else ()
    registry.check_groups(principal, groups)
    now = services.clock.now()
    token = "t" + secrets.token_hex(5)
    name = body.name if body.name is not None else f"{role}-{token[1:5]}"
    if not _NAME.fullmatch(name):
        raise Rejected("WF605", "`name` is letters, digits, `.`, `_`, `@`, `-`, at most 63 characters", where="name")
    earlier = services.access.find(name)
    if earlier is not None and earlier.is_valid(now):
        raise Rejected("WF606", f'there is a token "{name}" already; revoke it or choose another name', status=409)
    if len(services.access.tokens()) >= _TOKENS_MAX:
        raise Rejected("WF609", f"there are {_TOKENS_MAX} tokens already", status=429)
    secret = TOKEN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    fact = TokenCreated(
        at=now,
        by=principal.name,
        token=token,
        name=name,
        role=role,
        secret_sha256=hash_secret(secret),
        groups=groups,
        expires_at=now + lifetime_ms(body.ttl, default_ms=_TTL_MS),
    )
    await services.runs.record(AUDIT, [fact])
    services.access.apply(fact)
    made = services.access.find(token)
    assert made is not None
    return answer({**token_json(made, now), "secret": secret}, 201)


@router.post("/v1/tokens/{name}/revoke", responses={200: {"model": TokenShape}})
@router.delete("/v1/tokens/{name}", responses={200: {"model": TokenShape}})
async def revoke_token(services: Ports, principal: Admin, name: str) -> Response:
    """Revokes a token by its id or name; open streams that it opened end within 15 seconds."""
    token = services.access.find(name)
    if token is None:
        raise Rejected(
            "WF604", f'there is no token "{escape_for_display(name, 60)}"; see `waterflowctl tokens`', status=404
        )
    registry.check_groups(principal, token.groups)
    now = services.clock.now()
    if token.revoked_at is None:
        fact = TokenRevoked(at=now, by=principal.name, token=token.id)
        await services.runs.record(AUDIT, [fact])
        services.access.apply(fact)
    return answer(token_json(token, now))
