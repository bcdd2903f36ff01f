"""Sessions of browsers: signing in with a token or with the code of a link, and signing out."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import ANONYMOUS, Principal
from waterflowd.api.access import hosts, session_cookie
from waterflowd.api.access.auth import PEER_UID, source_of
from waterflowd.api.access.wrong_secrets import WrongSecrets
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.request_bodies import read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.schemas.access import SessionLinkSchema, SessionSchema, SignInBody, Way
from waterflowd.api.services import Services
from waterflowd.api.timestamps import timestamp

router = APIRouter(tags=["sessions"])

_SIGN_IN_PATH = "/signin"


@router.post(
    "/v1/session",
    status_code=201,
    openapi_extra=takes(SignInBody) | {"x-signs-in": True},
    responses={201: returns(SessionSchema)},
)
async def sign_in(request: Request, services: Ports) -> Response:
    """Begin a session: the answer sets the cookie of this browser. For pages of this daemon only."""
    body = await read_json(request, SignInBody)
    if (body.token is None) == (body.code is None):
        raise Rejected("WF605", "send either `token` or `code`", where="token")
    principal = _signing_in(body, services)
    if principal is None:
        wrong: WrongSecrets = request.app.state.wrong_secrets
        wrong.count(source_of(request.scope), services.clock.now())
        text = "the token is unknown, revoked or expired"
        if body.code is not None:
            text = "the link was already used, or is older than a minute; make a new one with `waterflowctl web`"
        raise Rejected("WF601", text, status=401)
    session, secret = await services.sessions.begin(principal)
    content = SessionSchema(
        by=session.name,
        role=session.role,
        groups=session.groups,
        way="session",
        expires_at=timestamp(session.ends_at),
    )
    return json_response(content, 201, {"set-cookie": session_cookie.made(secret, request.headers, services)})


def _signing_in(body: SignInBody, services: Services) -> Principal | None:
    if body.token is not None:
        return services.tokens.principal(body.token.strip(), services.clock.now())
    return services.sessions.redeem(body.code or "")


@router.get("/v1/session", responses={200: returns(SessionSchema)})
async def show_session(request: Request, services: Ports, principal: Viewer) -> Response:
    """Who sends this request, and how they are known."""
    token = services.tokens.find(principal.token) if principal.token is not None else None
    way: Way = "session" if principal.parent is not None else "token" if principal.token is not None else "open"
    if hasattr(request.state, PEER_UID):
        way = "socket"
    content = SessionSchema(
        by=principal.name,
        role=principal.role,
        groups=principal.groups,
        way=way,
        expires_at=timestamp(token.ends_at) if token is not None else None,
    )
    return json_response(content)


@router.delete("/v1/session", status_code=204)
async def sign_out(request: Request, services: Ports, principal: Viewer) -> Response:
    """End the session of this browser. Its streams end within 15 seconds."""
    await services.sessions.end(principal)
    return Response(status_code=204, headers={"set-cookie": session_cookie.made("", request.headers, services)})


@router.post("/v1/session-links", status_code=201, responses={201: returns(SessionLinkSchema)})
async def create_link(services: Ports, principal: Viewer) -> Response:
    """Create an address that signs a browser in as the author of this request: for one use, within a minute."""
    base = hosts.base_url(services)
    if not base:
        text = "the API has no TCP address, so no browser can reach it; set `api.listen`"
        raise Rejected("WF606", text, status=409)
    if principal.name == ANONYMOUS:
        # Nobody needs to sign in there.
        return json_response(SessionLinkSchema(url=f"{base}/", expires_at=None), 201)
    code, expires_at = services.sessions.create_link(principal)
    # Browsers do not send the fragment, so the code is in no log.
    return json_response(SessionLinkSchema(url=f"{base}{_SIGN_IN_PATH}#{code}", expires_at=timestamp(expires_at)), 201)
