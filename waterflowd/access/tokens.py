"""API tokens, and the registry that knows them.

Rules of this file: pure; the time is an argument. The registry is the fold of the `audit` stream. It never sees a secret: a
token is looked up by the SHA-256 of its 256 random bits, compared in constant time.

The session of a browser is a token too: it has a `parent`, acts under its parent's name, and ends with it. Its secret is only
valid in a cookie, and that of any other token only in a header. Sessions that have ended are forgotten when another one begins.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

import msgspec

from waterflowd.access.events import (
    AccessRefused,
    ActionTaken,
    AgentSession,
    Fact,
    SecretsUsed,
    TokenCreated,
    TokenRevoked,
)
from waterflowd.access.roles import ROLE_NAMES, Principal, Role

#: The prefix of every token, by which scanners for leaked secrets find it.
TOKEN_PREFIX = "wf_"
#: The prefix of the secret of a browser's session.
SESSION_PREFIX = "wfs_"
#: Ids of sessions begin with this, those of other tokens with `t`.
SESSION_ID_PREFIX = "s"
#: A prefix and 43 characters of base 64; longer texts are rejected without hashing.
TOKEN_LENGTH_MAX = 64


class Token(msgspec.Struct, kw_only=True):
    """The current state of an API token."""

    id: str
    name: str
    role: Role
    groups: tuple[str, ...]
    secret_sha256: str
    created_at: int
    created_by: str
    expires_at: int | None
    revoked_at: int | None = None
    #: Last use in ms since the daemon's start; not in the log.
    used_at: int | None = None
    #: Of a browser's session: the id of the token that it belongs to, or `uid:N`.
    parent: str | None = None
    idle_ms: int | None = None
    #: The start of the time without use, until the first one. The start of the daemon counts as a use.
    idle_from: int = 0

    def is_valid(self, now: int) -> bool:
        """True until the token is revoked or expires, or was not used for too long."""
        ends_at = self.ends_at
        return self.revoked_at is None and (ends_at is None or now < ends_at)

    @property
    def ends_at(self) -> int | None:
        """When the token expires if it is not used again."""
        if self.idle_ms is None:
            return self.expires_at
        idle_at = max(self.used_at or 0, self.idle_from) + self.idle_ms
        return idle_at if self.expires_at is None else min(idle_at, self.expires_at)


class TokenRegistry:
    """The registry of API tokens."""

    def __init__(self, facts: Iterable[Fact] = (), *, started_at: int = 0) -> None:
        """`started_at` is when the daemon started, in ms."""
        self._tokens: dict[str, Token] = {}
        self._ids_by_hash: dict[str, str] = {}
        #: Ids of sessions by parent, oldest first.
        self._sessions: dict[str, list[str]] = {}
        self._started_at = started_at
        for fact in facts:
            self.apply(fact)

    def apply(self, fact: Fact) -> None:
        """Applies one durable event. Idempotent."""
        match fact:
            case TokenCreated():
                if fact.token not in self._tokens:
                    parent = self._tokens.get(fact.parent) if fact.parent is not None else None
                    self._tokens[fact.token] = Token(
                        id=fact.token,
                        name=fact.name,
                        role=Role(fact.role) if fact.role in ROLE_NAMES else Role.VIEWER,
                        groups=fact.groups,
                        secret_sha256=fact.secret_sha256,
                        created_at=fact.at,
                        created_by=fact.by,
                        expires_at=fact.expires_at,
                        parent=fact.parent,
                        # Its parent may have been revoked while it was written.
                        revoked_at=parent.revoked_at if parent is not None else None,
                        idle_ms=fact.idle_ms,
                        idle_from=max(fact.at, self._started_at),
                    )
                    self._ids_by_hash[fact.secret_sha256] = fact.token
                    if fact.parent is not None:
                        self._forget(fact.parent, fact.at)
                        self._sessions.setdefault(fact.parent, []).append(fact.token)
            case TokenRevoked():
                for name in (fact.token, *self._sessions.get(fact.token, ())):
                    token = self._tokens.get(name)
                    if token is not None and token.revoked_at is None:
                        token.revoked_at = fact.at
            case ActionTaken() | AccessRefused() | SecretsUsed() | AgentSession():
                pass

    def tokens(self) -> list[Token]:
        """All tokens, oldest first, including revoked and expired ones."""
        return list(self._tokens.values())

    def find(self, name: str) -> Token | None:
        """The token with this id, or the newest one with this name that is not revoked. Sessions have no name of their own."""
        known = self._tokens.get(name)
        if known is not None:
            return known
        return next(
            (
                token
                for token in reversed(self.tokens())
                if token.name == name and token.revoked_at is None and token.parent is None
            ),
            None,
        )

    def sessions(self, now: int) -> list[Token]:
        """The sessions of browsers that are valid. Forgets those that have ended."""
        for parent in list(self._sessions):
            self._forget(parent, now)
        return [self._tokens[name] for names in self._sessions.values() for name in names]

    def _forget(self, parent: str, now: int) -> None:
        """Forgets the sessions that have ended."""
        names = self._sessions.pop(parent, [])
        valid = [name for name in names if self._tokens[name].is_valid(now)]
        for name in set(names) - set(valid):
            del self._ids_by_hash[self._tokens.pop(name).secret_sha256]
        if valid:
            self._sessions[parent] = valid

    def principal(self, secret: str, now: int) -> Principal | None:
        """The principal whose token has this secret; None when no valid token has it."""
        return self._principal(secret, now) if secret.startswith(TOKEN_PREFIX) else None

    def session(self, secret: str, now: int) -> Principal | None:
        """The principal whose browser's session has this secret; None when no valid session has it."""
        return self._principal(secret, now) if secret.startswith(SESSION_PREFIX) else None

    def _principal(self, secret: str, now: int) -> Principal | None:
        if len(secret) > TOKEN_LENGTH_MAX:
            return None
        digest = hash_secret(secret)
        token = self._tokens.get(self._ids_by_hash.get(digest, ""))
        if token is None or not hmac.compare_digest(token.secret_sha256, digest) or not token.is_valid(now):
            return None
        token.used_at = now
        return Principal(name=token.name, role=token.role, groups=token.groups, token=token.id, parent=token.parent)

    def is_current(self, principal: Principal, now: int) -> bool:
        """Whether the principal's token is still valid; checked repeatedly by open streams."""
        if principal.token is None:
            return True
        token = self._tokens.get(principal.token)
        return token is not None and token.is_valid(now)


def is_session_id(token: str) -> bool:
    """Whether the id of a token is that of a browser's session, which may have been forgotten."""
    return token.startswith(SESSION_ID_PREFIX)


def hash_secret(secret: str) -> str:
    """SHA-256 in hexadecimal. Sufficient for 256 random bits, which no dictionary attack can guess."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
