"""API tokens, and the registry that knows them.

Rules of this file: pure; the time is an argument. The registry is the fold of the `audit` stream. It never sees a secret: a
token is looked up by the SHA-256 of its 256 random bits, compared in constant time.
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
#: `wf_` and 43 characters of base 64; longer texts are rejected without hashing.
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

    def is_valid(self, now: int) -> bool:
        """True until the token is revoked or expires."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class TokenRegistry:
    """The registry of API tokens."""

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self._tokens: dict[str, Token] = {}
        self._ids_by_hash: dict[str, str] = {}
        for fact in facts:
            self.apply(fact)

    def apply(self, fact: Fact) -> None:
        """Applies one durable event. Idempotent."""
        match fact:
            case TokenCreated():
                if fact.token not in self._tokens:
                    self._tokens[fact.token] = Token(
                        id=fact.token,
                        name=fact.name,
                        role=Role(fact.role) if fact.role in ROLE_NAMES else Role.VIEWER,
                        groups=fact.groups,
                        secret_sha256=fact.secret_sha256,
                        created_at=fact.at,
                        created_by=fact.by,
                        expires_at=fact.expires_at,
                    )
                    self._ids_by_hash[fact.secret_sha256] = fact.token
            case TokenRevoked():
                token = self._tokens.get(fact.token)
                if token is not None and token.revoked_at is None:
                    token.revoked_at = fact.at
            case ActionTaken() | AccessRefused() | SecretsUsed() | AgentSession():
                pass

    def tokens(self) -> list[Token]:
        """All tokens, oldest first, including revoked and expired ones."""
        return list(self._tokens.values())

    def find(self, name: str) -> Token | None:
        """The token with this id, or the newest one with this name that is not revoked."""
        known = self._tokens.get(name)
        if known is not None:
            return known
        return next(
            (token for token in reversed(self.tokens()) if token.name == name and token.revoked_at is None), None
        )

    def principal(self, secret: str, now: int) -> Principal | None:
        """The principal whose token has this secret; None when no valid token has it."""
        if not secret.startswith(TOKEN_PREFIX) or len(secret) > TOKEN_LENGTH_MAX:
            return None
        digest = hash_secret(secret)
        token = self._tokens.get(self._ids_by_hash.get(digest, ""))
        if token is None or not hmac.compare_digest(token.secret_sha256, digest) or not token.is_valid(now):
            return None
        token.used_at = now
        return Principal(name=token.name, role=token.role, groups=token.groups, token=token.id)

    def is_current(self, principal: Principal, now: int) -> bool:
        """Whether the principal's token is still valid; checked repeatedly by open streams."""
        if principal.token is None:
            return True
        token = self._tokens.get(principal.token)
        return token is not None and token.is_valid(now)


def hash_secret(secret: str) -> str:
    """SHA-256 in hexadecimal. Sufficient for 256 random bits, which no dictionary attack can guess."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
