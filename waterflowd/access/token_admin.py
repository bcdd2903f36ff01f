"""Administration of API tokens: create and revoke."""

from __future__ import annotations

import re
import secrets

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.access.events import TokenCreated, TokenRevoked
from waterflowd.access.roles import Principal, Role, check_groups
from waterflowd.access.tokens import TOKEN_PREFIX, Token, TokenRegistry, hash_secret
from waterflowd.ports import Clock, StreamWriter

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_SECRET_BYTES = 32
#: The registry is in memory, and every request looks into it.
_TOKENS_MAX = 10_000


class TokenAdmin:
    """Creates and revokes API tokens. What a method changes is durable when it returns."""

    def __init__(self, registry: TokenRegistry, writer: StreamWriter, clock: Clock) -> None:
        """`writer` appends to the stream of tokens, and what it folds changes `registry`."""
        self._registry = registry
        self._writer = writer
        self._clock = clock

    def tokens(self) -> list[Token]:
        """All tokens, including revoked and expired ones."""
        return self._registry.tokens()

    async def create(
        self, principal: Principal, role: Role, name: str | None, groups: tuple[str, ...], ttl_ms: int
    ) -> tuple[Token, str]:
        """A new token and its secret. `Rejected` for a name that is invalid or in use, and beyond the principal's groups."""
        check_groups(principal, groups)
        now = self._clock.now()
        token_id = "t" + secrets.token_hex(5)
        name = name if name is not None else f"{role.value}-{token_id[1:5]}"
        if not _NAME.fullmatch(name):
            text = "`name` must consist of letters, digits, `.`, `_`, `@`, `-`, at most 63 characters"
            raise Rejected("WF605", text, where="name")
        secret = TOKEN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        event = TokenCreated(
            at=now,
            by=principal.name,
            token=token_id,
            name=name,
            role=role.value,
            secret_sha256=hash_secret(secret),
            groups=groups,
            expires_at=now + ttl_ms,
        )

        def decide() -> list[TokenCreated]:
            if self._registry.find(token_id) is not None:
                return []
            self._check_free(name, now)
            return [event]

        await self._writer.append(decide)
        created = self._registry.find(token_id)
        assert created is not None
        return created, secret

    async def revoke(self, principal: Principal, name: str) -> Token:
        """Revokes a token by its id or name. Idempotent. `Rejected` WF604 (404) for an unknown one."""
        token = self._registry.find(name)
        if token is None:
            text = f'token "{escape_for_display(name, 60)}" not found; list tokens with `waterflowctl tokens`'
            raise Rejected("WF604", text, status=404)
        check_groups(principal, token.groups)
        event = TokenRevoked(at=self._clock.now(), by=principal.name, token=token.id)
        await self._writer.append(lambda: [event] if token.revoked_at is None else [])
        return token

    def _check_free(self, name: str, now: int) -> None:
        existing = self._registry.find(name)
        if existing is not None and existing.is_valid(now):
            text = f'a token named "{name}" already exists; revoke it or choose another name'
            raise Rejected("WF606", text, status=409)
        if sum(token.parent is None for token in self._registry.tokens()) >= _TOKENS_MAX:
            raise Rejected("WF609", f"the limit of {_TOKENS_MAX} tokens is reached", status=429)
