"""Who may do what: roles, principals, and the registry of API tokens.

Rules of this file: pure; the time is an argument. The registry is the fold of the `audit` stream and forgets nothing but
secrets, which it never had: a token is looked up by the SHA-256 of its 256 random bits, compared in constant time.

Roles are nested: a viewer reads, a runner starts and cancels, an approver lets agents in and syncs, an admin does all of it
and makes tokens. A token may be bound to groups: then it starts and stops only what runs on these groups, lets agents
into no others, and makes no token that may more than itself. What it may see is its role's business alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from enum import IntEnum
from typing import NoReturn

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.access.events import AccessRefused, ActionTaken, Fact, TokenCreated, TokenRevoked
from waterflowd.model.plan import Plan, leaf_jobs

#: What every token begins with, so that scanners of leaked secrets can find it.
TOKEN_PREFIX = "wf_"
#: `wf_` and 43 characters of base 64; anything longer is not hashed at all.
TOKEN_LENGTH_MAX = 64


class Role(IntEnum):
    """What a principal may do; each role includes the ones before it."""

    #: Reads everything but secrets, which nobody reads.
    VIEWER = 1
    #: Starts and cancels runs.
    RUNNER = 2
    #: Approves and revokes agents, makes join tokens, syncs repositories.
    APPROVER = 3
    #: Makes and revokes API tokens.
    ADMIN = 4

    @property
    def word(self) -> str:
        """The role as the CLI and the API spell it."""
        return self.name.lower()


ROLES: dict[str, Role] = {role.word: role for role in Role}


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: a token's name, `uid:N` of the unix socket, or `anonymous` on an open address."""

    name: str
    role: Role
    #: Groups it may use; empty means all.
    groups: tuple[str, ...] = ()
    #: Id of the token, None without one.
    token: str | None = None


class Token(msgspec.Struct, kw_only=True):
    """One API token as it is now."""

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
        """True while the token opens anything."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Access:
    """The registry of API tokens."""

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self._tokens: dict[str, Token] = {}
        self._ids_by_hash: dict[str, str] = {}
        for fact in facts:
            self.apply(fact)

    def apply(self, fact: Fact) -> None:
        """Folds one durable fact; the same fact again changes nothing."""
        match fact:
            case TokenCreated():
                if fact.token not in self._tokens:
                    self._tokens[fact.token] = Token(
                        id=fact.token,
                        name=fact.name,
                        role=ROLES.get(fact.role, Role.VIEWER),
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
            case ActionTaken() | AccessRefused():
                pass

    def tokens(self) -> list[Token]:
        """All tokens, oldest first, revoked and expired ones too."""
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
        """Who holds `secret`; None when no valid token has it."""
        if not secret.startswith(TOKEN_PREFIX) or len(secret) > TOKEN_LENGTH_MAX:
            return None
        digest = hash_secret(secret)
        token = self._tokens.get(self._ids_by_hash.get(digest, ""))
        if token is None or not hmac.compare_digest(token.secret_sha256, digest) or not token.is_valid(now):
            return None
        token.used_at = now
        return Principal(name=token.name, role=token.role, groups=token.groups, token=token.id)

    def is_current(self, principal: Principal, now: int) -> bool:
        """Whether what opened the door still does; streams ask again and again."""
        if principal.token is None:
            return True
        token = self._tokens.get(principal.token)
        return token is not None and token.is_valid(now)


def hash_secret(secret: str) -> str:
    """SHA-256 in hexadecimal; enough for 256 random bits, which no dictionary holds."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def may_use(principal: Principal, group: str) -> bool:
    """Whether the principal may use a group: the one place that knows what a token's groups mean."""
    return not principal.groups or "*" in principal.groups or group in principal.groups


def check_plan(principal: Principal, plan: Plan) -> None:
    """`Rejected` WF602 (403) when the plan uses a group that the principal may not use."""
    for job in leaf_jobs(plan.jobs):
        if not may_use(principal, job.group):
            _refuse(principal, f'job "{job.id}" runs on "{job.group}"', f"jobs.{job.id}.runs-on")


def check_groups(principal: Principal, groups: Iterable[str]) -> None:
    """`Rejected` WF602 (403) when the principal would open a group to others that it may not use itself.

    No group at all, or `*`, means every group, and that only a principal without bounds may give.
    """
    given = tuple(groups) or ("*",)
    for group in given:
        if not may_use(principal, group):
            shown = "every group" if group == "*" else f'the group "{group}"'
            _refuse(principal, f"this is about {shown}", "groups")


def _refuse(principal: Principal, what: str, where: str) -> NoReturn:
    raise Rejected(
        "WF602",
        f'{what}, and the token "{principal.name}" may use only {", ".join(principal.groups)}; '
        "ask an admin for a token with that group",
        where=where,
        status=403,
    )
