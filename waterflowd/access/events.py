"""Facts of the `audit` stream: API tokens, and who did what through the API.

Rules of this file: the same as for a run's events (engine/events.py): past tense, for ever readable, new fields with defaults.
A token's secret is never stored, only its SHA-256.
"""

from __future__ import annotations

import msgspec


class AccessFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all facts about access. `by` is the principal: a token's name or `uid:N`; `at` is the log's clock in ms."""

    at: int
    by: str


class TokenCreated(AccessFact, frozen=True, kw_only=True, tag="token-created"):
    """An API token exists."""

    token: str
    name: str
    role: str
    secret_sha256: str
    #: Groups whose work it may start and stop; empty means all.
    groups: tuple[str, ...] = ()
    expires_at: int | None = None


class TokenRevoked(AccessFact, frozen=True, kw_only=True, tag="token-revoked"):
    """The token is good for nothing from now on."""

    token: str


class ActionTaken(AccessFact, frozen=True, kw_only=True, tag="action-taken"):
    """Somebody did something that the run's or the fleet's own events do not name with its author."""

    #: `approve-agent`, `revoke-agent`, `create-join-token`, `cancel-run`, `start-run`, `sync-repository`,
    #: `suspend-repository`, `resume-repository`; a verb and what it is done to.
    what: str
    #: What it was done to: a run's id, a fingerprint, a path.
    target: str
    facts: dict[str, str | int | bool | list[str] | None] = {}


class AccessRefused(AccessFact, frozen=True, kw_only=True, tag="access-refused"):
    """Somebody was turned away. Strangers can make as many of these as there are packets, so few get a record.

    `by` is the principal where one is known, else an address, or an agent's fingerprint.
    """

    #: `api`, or `agents` for the agents' ports.
    door: str
    code: str
    #: What was asked for, or the sentence that was answered.
    target: str
    #: How many refusals since the last record have none of their own.
    left_out: int = 0


Fact = TokenCreated | TokenRevoked | ActionTaken | AccessRefused
