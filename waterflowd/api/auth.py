"""Who is at the other end, and whether a browser was tricked: the gate that every request passes first.

Rules of this file:

- The unix socket is for admins: its file mode says who may connect, and the kernel (SO_PEERCRED) says who did. The principal
  is `uid:N`.
- On TCP a request needs `Authorization: Bearer wf_...`, unless the daemon's own configuration says that the address is open.
  A token in the address counts as none: addresses end up in histories and proxies' logs.
- On TCP the `Host` must name this daemon (or a page could reach it by rebinding a DNS name), and an `Origin`, where a browser
  sends one, must be this very host and port (or a page of another site could post here).
- Default deny: only the paths in `PUBLIC` need nobody.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waterflowd.api.access import Principal, Role
from waterflowd.api.problems import printable, problem
from waterflowd.api.services import Services
from waterflowd.errors import Rejected

#: For probes and generators of clients; they tell nothing of what runs.
PUBLIC = frozenset({"/health", "/ready", "/version", "/openapi.json"})
#: Key in the connection's state that holds the peer's uid on a unix socket.
PEER_UID = "peer_uid"

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

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on, or answers it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            principal = self._admit(scope)
        except Rejected as error:
            challenge = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            response = problem(error.status, error.text, code=error.code, instance=scope["path"], headers=challenge)
            await response(scope, receive, send_guarded)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send_guarded)

    def _admit(self, scope: Scope) -> Principal | None:
        uid = scope.get("state", {}).get(PEER_UID)
        if uid is not None:
            return Principal(name=f"uid:{uid}", role=Role.ADMIN)
        headers = Headers(scope=scope)
        _check_host(headers, self._services)
        _check_origin(headers, scope["method"])
        principal = self._bearer(headers)
        if principal is not None or scope["path"] in PUBLIC:
            return principal
        if self._services.is_open:
            return Principal(name="anonymous", role=Role.ADMIN)
        raise Rejected(
            "WF601",
            "this address needs a token: send `Authorization: Bearer wf_...` (an admin makes one with"
            " `waterflowctl tokens create --role viewer`)",
            status=401,
        )

    def _bearer(self, headers: Headers) -> Principal | None:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if not secret or scheme.lower() != "bearer":
            return None
        principal = self._services.access.principal(secret.strip(), self._services.clock.now())
        if principal is None and not self._services.is_open:
            raise Rejected("WF601", "the token is unknown, revoked or expired", status=401)
        return principal


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
        f"`Host: {printable(stated)}` is not a name of this daemon; use its address or localhost",
        status=403,
    )


def _check_origin(headers: Headers, method: str) -> None:
    origin = headers.get("origin")
    if origin is not None:
        scheme, separator, place = origin.partition("://")
        if not separator or scheme not in {"http", "https"} or place.lower() != headers.get("host", "").lower():
            raise Rejected("WF603", f"`Origin: {printable(origin)}` may not use this API", status=403)
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


async def _ports(request: Request) -> Services:
    return services_of(request)


Viewer = Annotated[Principal, Depends(_viewer)]
Runner = Annotated[Principal, Depends(_runner)]
Approver = Annotated[Principal, Depends(_approver)]
Admin = Annotated[Principal, Depends(_admin)]
Ports = Annotated[Services, Depends(_ports)]
