"""Who is at the other end, and whether a browser was tricked: the gate that every request passes first.

Rules of this file:

- On the unix socket the file mode says who may connect, the kernel (SO_PEERCRED) says who did, and peers.py what they may.
  The principal is `uid:N`.
- On TCP a request needs `Authorization: Bearer wf_...`, unless the daemon's own configuration says that the address is open.
  A token in the address counts as none: addresses end up in histories and proxies' logs.
- On TCP the `Host` must name this daemon (or a page could reach it by rebinding a DNS name), and an `Origin`, where a browser
  sends one, must be this very host and port (or a page of another site could post here).
- Default deny: only the paths in `PUBLIC` need nobody. Webhooks need no token and no `Host` of ours: they are signed.
- Each principal, and each address without one, has a rate; beyond it the answer is a 429 that costs next to nothing. A wrong
  token has a much lower one, which a right token from the same address does not notice.
- Who is refused leaves a record in the audit trail, at a bounded rate (trail.py).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

from fastapi import Depends, Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.access.audit_trail import Refusals
from waterflowd.access.registry import Principal, Role
from waterflowd.api.problems import problem
from waterflowd.api.services import Services
from waterflowd.rates import BucketPerName

#: For probes, generators of clients, and editors; they tell nothing of what runs.
PUBLIC = frozenset({"/health", "/ready", "/version", "/openapi.json", "/v1/schema"})
#: Where requests are signed in the place of a token.
HOOKS = "/v1/hooks/"
#: Everybody on an open address.
ANONYMOUS = "anonymous"
#: Key in the connection's state that holds the peer's uid on a unix socket.
PEER_UID = "peer_uid"

#: A principal may be ahead of its rate by so many seconds' worth: pages of a list, a screen that loads.
_BURST_S = 5
#: Wrong tokens of one address: a mistake in a script, but no search.
_WRONG_PER_S, _WRONG_BURST = 1.0, 20
_NAMES_MAX = 4_096

_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "localhost.localdomain"})
_HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class Gate:
    """ASGI middleware: admits a request and tells who asks, or answers with a problem."""

    def __init__(self, app: ASGIApp, services: Services, refusals: Refusals) -> None:
        self._app = app
        self._services = services
        self._refusals = refusals
        per_s = services.requests_per_s
        self._rates = BucketPerName(per_s, per_s * _BURST_S, _NAMES_MAX) if per_s else None
        self._wrong = BucketPerName(_WRONG_PER_S, _WRONG_BURST, _NAMES_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on, or answers it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        status = 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        state = scope.setdefault("state", {})
        try:
            principal = self._admit(scope)
            self._check_rate(scope, principal)
        except Rejected as error:
            if error.status != 429:
                self._note(scope, None, error.code)
            await _refusal(error, scope["path"])(scope, receive, send_guarded)
            return
        state["principal"] = principal
        await self._app(scope, receive, send_guarded)
        if status in (401, 403):
            self._note(scope, principal, state.get("refused_code", ""))

    def _note(self, scope: Scope, principal: Principal | None, code: str) -> None:
        by = principal.name if principal is not None else source_of(scope)
        self._refusals.note("api", code, f"{scope['method']} {scope['path']}", by)

    def _check_rate(self, scope: Scope, principal: Principal | None) -> None:
        if self._rates is None:
            return
        # By the token's id where there is one: names may be used again, and all of an open address are one name.
        name = principal.token or principal.name if principal is not None else ""
        now = self._services.clock.now()
        bucket = self._rates.bucket(name if name and name != ANONYMOUS else source_of(scope), now)
        if not bucket.take(now):
            text = f"more than {self._services.requests_per_s} requests a second; wait for {bucket.wait_ms(now)} ms"
            raise Rejected("WF611", text, status=429)

    def _admit(self, scope: Scope) -> Principal | None:
        if scope["method"] == "POST" and scope["path"].startswith(HOOKS):
            # The signature is the permission, and no page can make one.
            return None
        uid = scope["state"].get(PEER_UID)
        if uid is not None:
            return self._peer(uid)
        headers = Headers(scope=scope)
        _check_host(headers, self._services)
        _check_origin(headers, scope["method"])
        principal = self._bearer(headers, scope)
        if principal is not None or scope["path"] in PUBLIC:
            return principal
        if self._services.is_open:
            return Principal(name=ANONYMOUS, role=Role.ADMIN)
        raise Rejected(
            "WF601",
            "this address needs a token: send `Authorization: Bearer wf_...` (an admin makes one with"
            " `waterflowctl tokens create --role viewer`)",
            status=401,
        )

    def _peer(self, uid: int) -> Principal:
        role = self._services.peers.of_uid(uid)
        if role is None:
            raise Rejected("WF602", f"uid {uid} has no role on this socket; see `api.socket-users`", status=403)
        return Principal(name=f"uid:{uid}", role=role)

    def _bearer(self, headers: Headers, scope: Scope) -> Principal | None:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if not secret or scheme.lower() != "bearer":
            return None
        principal = self._services.access.principal(secret.strip(), self._services.clock.now())
        if principal is None and not self._services.is_open:
            if not self._wrong.take(source_of(scope), self._services.clock.now()):
                raise Rejected("WF611", "too many wrong tokens from this address; wait for a while", status=429)
            raise Rejected("WF601", "the token is unknown, revoked or expired", status=401)
        return principal


def _refusal(error: Rejected, path: str) -> Response:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(error.status)
    return problem(error.status, error.text, code=error.code, instance=path, headers=headers)


def source_of(scope: Scope) -> str:
    """The address at the other end, or the uid on a unix socket."""
    uid = scope["state"].get(PEER_UID)
    client = scope.get("client")
    return f"uid:{uid}" if uid is not None else str(client[0]) if client else "unknown"


def _check_host(headers: Headers, services: Services) -> None:
    stated = headers.get("host", "")
    host = host_name(stated)
    if host is None:
        raise Rejected("WF605", "the request has no usable `Host`")
    listen = host_name(services.listen or "")
    if host in _LOOPBACK_NAMES or host in services.hosts or host == listen:
        return
    address = _address(host)
    if address is not None and (address.is_loopback or _is_wildcard(listen)):
        return
    raise Rejected(
        "WF603",
        f"`Host: {escape_for_display(stated)}` is not a name of this daemon; use its address or localhost",
        status=403,
    )


def _check_origin(headers: Headers, method: str) -> None:
    origin = headers.get("origin")
    if origin is not None:
        scheme, separator, place = origin.partition("://")
        if not separator or scheme not in {"http", "https"} or place.lower() != headers.get("host", "").lower():
            raise Rejected("WF603", f"`Origin: {escape_for_display(origin)}` may not use this API", status=403)
    if method not in {"GET", "HEAD"} and headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
        raise Rejected("WF603", "another site's page may not change anything here", status=403)


def host_name(netloc: str) -> str | None:
    """The host in `host`, `host:port` or `[v6]:port`, in small letters; None when it has no such form."""
    text = netloc.strip().lower()
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        return inside if bracket and inside and (not rest or rest.startswith(":")) else None
    name, _, port = text.partition(":")
    if not name or (port and not port.isdecimal()) or "/" in name or "@" in name:
        return None
    return name.rstrip(".") or None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_wildcard(listen: str | None) -> bool:
    address = _address(listen) if listen is not None else None
    return address is not None and address.is_unspecified


def services_of(request: Request) -> Services:
    """The ports that the app was built with."""
    services: Services = request.app.state.services
    return services


def require(request: Request, role: Role) -> Principal:
    """Who asks, when they have at least `role`; `Rejected` 403 otherwise."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None:
        raise Rejected("WF601", "this needs a token", status=401)
    if principal.role < role:
        raise Rejected(
            "WF602", f'the token "{principal.name}" is a {principal.role.word}; this needs a {role.word}', status=403
        )
    return principal


async def _viewer(request: Request) -> Principal:
    return require(request, Role.VIEWER)


async def _runner(request: Request) -> Principal:
    return require(request, Role.RUNNER)


async def _approver(request: Request) -> Principal:
    return require(request, Role.APPROVER)


async def _admin(request: Request) -> Principal:
    return require(request, Role.ADMIN)


#: What a route that takes one of these needs.
ROLE_OF: dict[object, Role] = {
    _viewer: Role.VIEWER,
    _runner: Role.RUNNER,
    _approver: Role.APPROVER,
    _admin: Role.ADMIN,
}


async def _ports(request: Request) -> Services:
    return services_of(request)


Viewer = Annotated[Principal, Depends(_viewer)]
Runner = Annotated[Principal, Depends(_runner)]
Approver = Annotated[Principal, Depends(_approver)]
Admin = Annotated[Principal, Depends(_admin)]
Ports = Annotated[Services, Depends(_ports)]
