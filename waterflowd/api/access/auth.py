"""Authentication, and protection against requests that a browser was tricked into: every request passes here first.

Rules of this file:

- On the unix socket the file mode decides who may connect, the kernel (SO_PEERCRED) identifies the user, and the table of peer
  roles (access/peer_roles.py) decides what they may do. The principal is `uid:N`.
- On TCP a request needs `Authorization: Bearer wf_...`, or the cookie of a browser's session (session_cookie.py), unless the
  configuration declares the address open. A token in the URL is ignored, because URLs end up in histories and in the logs of
  proxies.
- On TCP `Host` must name this daemon (DNS rebinding), and `Origin`, if a browser sends one, must be the same host and port
  (cross-site requests). One route has one other origin (cross_origin.py).
- Default deny: only the paths in `PUBLIC`, the web pages, which hold no data, and signing in need no principal. Webhooks need
  neither a token nor a `Host`: they are signed.
- Each principal, and each address without one, has a rate limit, a limit on the event loop's time, and limits on the requests
  and streams at a time (quotas.py); beyond one the answer is a 429 that costs next to nothing. Wrong tokens have a much lower
  limit, which does not affect a valid token from the same address.
- Rejections are recorded in the audit trail, at a limited rate (access/audit_trail.py).
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import ANONYMOUS, Principal, Role
from waterflowd.api.access import cross_origin, hosts, session_cookie
from waterflowd.api.access.quotas import Admission, Pools, source_of_address
from waterflowd.api.access.wrong_secrets import WrongSecrets
from waterflowd.api.loop_time import Meter, Timed
from waterflowd.api.problems import problem, retry_after
from waterflowd.api.services import Services
from waterflowd.rates import BucketPerName

#: For probes, client generators and editors; these paths reveal nothing about runs.
PUBLIC = frozenset({"/health", "/ready", "/version", "/openapi.json", "/v1/schema"})
#: A POST to this path begins the session of a browser.
SIGN_IN = "/v1/session"
#: Requests below this path are signed and carry no token.
HOOKS = "/v1/hooks/"
#: Key of the connection state that holds the uid of the peer on a unix socket.
PEER_UID = "peer_uid"
#: Key of the connection state that says why the connection is refused.
REFUSAL = "refusal"
#: Key of the request state that holds its `Admission`.
ADMISSION = "admission"

#: The burst in seconds of the rate: enough for the pages of a list, or a screen that loads.
_BURST_S = 5
#: Processor time of the event loop that the requests of one client may take, in ms: at once, and per second on average. The
#: usual request takes one. The burst is half that of an agent (dispatch/sessions.py).
TIME_MS_BURST, TIME_MS_PER_S = 1_000.0, 250.0
_NAMES_MAX = 4_096

_HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class AuthMiddleware:
    """ASGI middleware: adds the principal to the request, or answers with a problem."""

    def __init__(self, app: ASGIApp, services: Services, pools: Pools, wrong: WrongSecrets) -> None:
        self._app = app
        self._services = services
        self._pools = pools
        per_s = services.requests_per_s
        self._rates = BucketPerName(per_s, per_s * _BURST_S, _NAMES_MAX) if per_s else None
        self._times = BucketPerName(TIME_MS_PER_S, TIME_MS_BURST, _NAMES_MAX) if per_s else None
        self._wrong = wrong

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards one request, or answers it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_local = PEER_UID in scope.setdefault("state", {})
        meter = Meter((self._pools.unix if is_local else self._pools.tcp).share)
        await Timed(self._answer(scope, receive, send, meter), meter)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, meter: Meter) -> None:
        status = 0
        origin = cross_origin.allowed_origin(scope, self._services.temporal_ui)

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if origin is not None:
                    headers.update(cross_origin.headers(scope, origin))
            await send(message)

        state = scope["state"]
        try:
            if REFUSAL in state:
                raise Rejected("WF609", state[REFUSAL], status=429)
            principal = self._admit(scope, origin)
            client = _client_of(scope, principal)
            self._check_rate(client)
            if cross_origin.is_preflight(scope, origin):
                await Response(status_code=204)(scope, receive, send_guarded)
                return
            admission = Admission(self._pools.unix if PEER_UID in state else self._pools.tcp, client, meter)
        except Rejected as error:
            if error.status != 429:
                self._record(scope, None, error.code)
            await _problem(error, scope["path"], closes=REFUSAL in state)(scope, receive, send_guarded)
            return
        state["principal"], state[ADMISSION] = principal, admission
        if self._times is not None:
            # Only now: a client that is refused would never get out of its debt otherwise.
            meter.charge_to(self._times, client, self._services.clock.now)
        try:
            await self._app(scope, receive, send_guarded)
        finally:
            admission.release()
        if status in (401, 403):
            self._record(scope, principal, state.get("refused_code", ""))

    def _record(self, scope: Scope, principal: Principal | None, code: str) -> None:
        by = principal.name if principal is not None else source_of(scope)
        self._services.audit.rejection("api", code, f"{scope['method']} {scope['path']}", by)

    def _check_rate(self, client: str) -> None:
        if self._rates is None or self._times is None:
            return
        now = self._services.clock.now()
        times = self._times.bucket(client, now)
        if times.is_spent(now):
            wait_ms = times.wait_ms(now)
            text = (
                f"your requests have taken more than {TIME_MS_PER_S:g} ms of the daemon's time per second; "
                f"wait {wait_ms} ms, and ask for less or less often"
            )
            raise Rejected("WF611", text, status=429, after_s=wait_ms / 1000)
        bucket = self._rates.bucket(client, now)
        if not bucket.take(now):
            text = f"rate limit of {self._services.requests_per_s} requests per second exceeded; wait {bucket.wait_ms(now)} ms"
            raise Rejected("WF611", text, status=429)

    def _admit(self, scope: Scope, origin: str | None) -> Principal | None:
        """The principal, if the request needs one; `origin` is another origin that may send it."""
        if scope["method"] == "POST" and scope["path"].startswith(HOOKS):
            # The signature is the permission, and no web page can produce it.
            return None
        uid = scope["state"].get(PEER_UID)
        if uid is not None:
            return self._peer(uid)
        headers = Headers(scope=scope)
        hosts.check_host(headers, self._services)
        if origin is None:
            hosts.check_origin(headers, scope["method"], self._services.api_url)
        if self._services.web is not None and self._services.web.is_public(scope["method"], scope["path"], headers):
            return None
        if is_sign_in(scope):
            session_cookie.check_page(headers, scope["method"])
            return None
        self._check_blind(headers, scope)
        principal = self._bearer(headers, scope)
        cookie = session_cookie.secret(headers, self._services) if origin is None else None
        if cookie is not None:
            principal = self._services.sessions.principal(cookie)
            if principal is not None:
                session_cookie.check_page(headers, scope["method"])
        if principal is not None or scope["path"] in PUBLIC or cross_origin.is_preflight(scope, origin):
            return principal
        if self._services.is_open:
            return Principal(name=ANONYMOUS, role=Role.ADMIN)
        if cookie is not None:
            raise Rejected("WF601", "the session has ended; sign in again", status=401)
        raise Rejected(
            "WF601",
            "a token is required: send `Authorization: Bearer wf_...` (an admin creates one with"
            " `waterflowctl tokens create --role viewer`)",
            status=401,
        )

    def _check_blind(self, headers: Headers, scope: Scope) -> None:
        """Raises `Rejected` WF814 when a token that was revoked elsewhere would still be accepted here."""
        has_token = "authorization" in headers or "cookie" in headers
        if has_token and scope["path"] not in PUBLIC and (text := self._services.blind()):
            raise Rejected("WF814", text, status=503)

    def _peer(self, uid: int) -> Principal:
        role = self._services.peers.of_uid(uid)
        if role is None:
            raise Rejected("WF602", f"uid {uid} has no role on this socket; add it to `api.socket-users`", status=403)
        return Principal(name=f"uid:{uid}", role=role)

    def _bearer(self, headers: Headers, scope: Scope) -> Principal | None:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if not secret or scheme.lower() != "bearer":
            return None
        principal = self._services.tokens.principal(secret.strip(), self._services.clock.now())
        if principal is None and not self._services.is_open:
            self._wrong.count(source_of(scope), self._services.clock.now())
            raise Rejected("WF601", "the token is unknown, revoked or expired", status=401)
        return principal


def _client_of(scope: Scope, principal: Principal | None) -> str:
    """The name of the client for limits: by the id of the token, if there is one, because names may be reused.

    All sessions of a token count as this token. Without a principal, and on an open address, where everyone has the same name,
    it is the address.
    """
    name = principal.parent or principal.token or principal.name if principal is not None else ""
    if name and name != ANONYMOUS:
        return name
    return source_of_address(source_of(scope))


def _problem(error: Rejected, path: str, *, closes: bool = False) -> Response:
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif error.is_limit:
        headers["Retry-After"] = retry_after(error.after_s)
    if closes:
        headers["Connection"] = "close"
    return problem(error.status, error.text, code=error.code, instance=path, headers=headers)


def source_of(scope: Scope) -> str:
    """The address of the client, or its uid on a unix socket."""
    uid = scope["state"].get(PEER_UID)
    client = scope.get("client")
    return f"uid:{uid}" if uid is not None else str(client[0]) if client else "unknown"


def is_sign_in(scope: Scope) -> bool:
    """Whether the request begins a session: it needs no principal, because its body proves who sends it."""
    return (scope["method"], scope["path"]) == ("POST", SIGN_IN)
