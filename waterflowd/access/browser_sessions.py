"""Sessions of browsers: somebody signs in with a token, or with the code of a link, and their browser gets a token of its own.

Rules of this file:

- A session has the name, role and groups of the principal who signs in, and ends with the token that was shown.
- It ends after 12 hours without use, and after 7 days in any case. A session cannot create links, so it cannot extend itself.
- A code is valid for one use within a minute. Codes are in memory: a restart of the daemon ends them.
- A principal has at most 32 sessions; another one ends the session that was used least recently. Each session takes space in
  the log, so a principal can begin only a few in a short time.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.access.events import Fact, TokenCreated, TokenRevoked
from waterflowd.access.peer_roles import PeerRoles
from waterflowd.access.roles import ANONYMOUS, Principal
from waterflowd.access.tokens import SESSION_ID_PREFIX, SESSION_PREFIX, Token, TokenRegistry, hash_secret
from waterflowd.model.ids import AUDIT
from waterflowd.ports import Clock, Runs
from waterflowd.rates import BucketPerName

IDLE_MS = 12 * 3_600_000
LIFE_MS = 7 * 86_400_000
LINK_MS = 60_000
PER_PRINCIPAL_MAX = 32
#: All sessions are in memory.
SESSIONS_MAX = 2_000
#: Links that were not used yet; the oldest one makes room.
_LINKS_MAX = 256
#: Sessions that one principal may begin: at once, and per second on average.
_BURST, _PER_S = 10, 1 / 30
_NAMES_MAX = 4_096
_SECRET_BYTES = 32
#: 128 bits, valid for a minute.
_CODE_BYTES = 16


class _Link(msgspec.Struct, frozen=True):
    principal: Principal
    expires_at: int


class BrowserSessions:
    """Begins and ends sessions. What a method changes is durable when it returns."""

    def __init__(self, registry: TokenRegistry, runs: Runs, clock: Clock, peers: PeerRoles) -> None:
        self._registry = registry
        self._runs = runs
        self._clock = clock
        self._peers = peers
        self._links: OrderedDict[str, _Link] = OrderedDict()
        self._rates = BucketPerName(_PER_S, _BURST, _NAMES_MAX)

    def create_link(self, principal: Principal) -> tuple[str, int]:
        """A code with which a browser can begin a session of this principal, and when it expires, in ms."""
        if principal.parent is not None:
            text = "a browser's session cannot create links; use a token, or `waterflowctl web` on the daemon's machine"
            raise Rejected("WF602", text, status=403)
        code = secrets.token_urlsafe(_CODE_BYTES)
        expires_at = self._clock.now() + LINK_MS
        self._links[hash_secret(code)] = _Link(principal, expires_at)
        while len(self._links) > _LINKS_MAX:
            self._links.popitem(last=False)
        return code, expires_at

    def redeem(self, code: str) -> Principal | None:
        """The principal of a link, which becomes invalid; None when the code is unknown, used or expired."""
        link, now = self._links.pop(hash_secret(code), None), self._clock.now()
        if link is None or now >= link.expires_at or not self._registry.is_current(link.principal, now):
            return None
        return link.principal

    async def begin(self, principal: Principal) -> tuple[Token, str]:
        """A new session of the principal, and its secret. `Rejected` 429 (WF609, WF611) beyond a limit."""
        now = self._clock.now()
        parent = principal.token or principal.name
        assert principal.parent is None
        assert parent != ANONYMOUS
        rate = self._rates.bucket(parent, now)
        if not rate.take(now):
            wait_ms = rate.wait_ms(now)
            text = f"too many sessions of {principal.name} began; wait {wait_ms // 1000 + 1} s"
            raise Rejected("WF611", text, status=429, after_s=wait_ms / 1000)
        sessions = self._registry.sessions(now)
        own = [session for session in sessions if session.parent == parent]
        if len(sessions) >= SESSIONS_MAX and len(own) < PER_PRINCIPAL_MAX:
            text = f"the limit of {SESSIONS_MAX} sessions is reached; try again when one has ended"
            raise Rejected("WF609", text, status=429)
        shown = self._registry.find(principal.token) if principal.token is not None else None
        expires_at = now + LIFE_MS
        if shown is not None and shown.expires_at is not None:
            expires_at = min(expires_at, shown.expires_at)
        secret = SESSION_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        created = TokenCreated(
            at=now,
            by=principal.name,
            token=SESSION_ID_PREFIX + secrets.token_hex(8),
            name=principal.name,
            role=principal.role.value,
            secret_sha256=hash_secret(secret),
            groups=principal.groups,
            expires_at=expires_at,
            parent=parent,
            idle_ms=IDLE_MS,
        )
        facts: list[Fact] = [created]
        if len(own) >= PER_PRINCIPAL_MAX:
            oldest = min(own, key=lambda session: max(session.used_at or 0, session.idle_from))
            facts.insert(0, TokenRevoked(at=now, by=principal.name, token=oldest.id))
        await self._record(facts)
        session = self._registry.find(created.token)
        assert session is not None
        return session, secret

    async def end(self, principal: Principal) -> None:
        """Ends the session that the principal uses; `Rejected` WF606 (409) when it uses none."""
        if principal.parent is None or principal.token is None:
            text = "this request belongs to no browser's session; revoke a token with `waterflowctl tokens revoke`"
            raise Rejected("WF606", text, status=409)
        await self._record([TokenRevoked(at=self._clock.now(), by=principal.name, token=principal.token)])

    def principal(self, secret: str) -> Principal | None:
        """The principal of a session; None when no valid session has this secret.

        A user of the unix socket must still have the role that the session has.
        """
        principal = self._registry.session(secret, self._clock.now())
        if principal is not None and principal.parent is not None and principal.parent.startswith("uid:"):
            role = self._peers.of_uid(int(principal.parent.removeprefix("uid:")))
            if role is None or not role.includes(principal.role):
                return None
        return principal

    async def _record(self, facts: list[Fact]) -> None:
        await self._runs.record(AUDIT, facts)
        for fact in facts:
            self._registry.apply(fact)
