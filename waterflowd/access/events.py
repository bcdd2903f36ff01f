"""Events of the `audit` stream: API tokens, what principals did through the API, the use of secrets, sessions of agents.

Rules of this file: as for a run's events (engine/events.py): past tense, readable by all later releases, new fields have
defaults. A token's secret is never stored, only its SHA-256.
"""

from __future__ import annotations

import msgspec


class AccessFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all events about access. `by` is the principal: a token's name or `uid:N`; `at` is the log's clock in ms."""

    at: int
    by: str


class TokenCreated(AccessFact, frozen=True, kw_only=True, tag="token-created"):
    """An API token was created."""

    token: str
    name: str
    role: str
    secret_sha256: str
    #: Groups whose work it may start and stop; empty means all.
    groups: tuple[str, ...] = ()
    expires_at: int | None = None
    #: For the session of a browser: the id of the token with which somebody signed in, or `uid:N`; it ends with that token.
    parent: str | None = None
    #: It also ends when it was not used for so long, in ms.
    idle_ms: int | None = None


class TokenRevoked(AccessFact, frozen=True, kw_only=True, tag="token-revoked"):
    """The token is no longer valid."""

    token: str


class ActionTaken(AccessFact, frozen=True, kw_only=True, tag="action-taken"):
    """A principal did something that the events of the run or fleet do not record with its author."""

    #: `approve-agent`, `revoke-agent`, `drain-agent`, `create-join-token`, `revoke-join-token`, `cancel-run`, `start-run`,
    #: `sync-repository`, `suspend-repository`, `resume-repository`, `add-repository`, `delete-artifact`: a verb and its object.
    what: str
    #: The object: a run's id, a fingerprint, a path.
    target: str
    facts: dict[str, str | int | bool | list[str] | None] = {}


class AccessRefused(AccessFact, frozen=True, kw_only=True, tag="access-refused"):
    """A request or connection was rejected. Strangers can cause any number of these, so their rate is limited.

    `by` is the principal if it is known, otherwise an address or the fingerprint of an agent.
    """

    #: `api`, or `agents` for the agents' ports.
    door: str
    code: str
    #: The request, or the text of the answer.
    target: str
    #: Rejections since the previous record that were not recorded.
    left_out: int = 0


class SecretsUsed(AccessFact, frozen=True, kw_only=True, tag="secrets-used"):
    """The values of secrets were sent to an agent, for one attempt. `by` is the run; its own events say who started it.

    It is durable before the values are sent.
    """

    #: The names in the daemon's sources, never the values.
    names: tuple[str, ...]
    run: str
    #: `JOB/STEP`, and the attempt.
    part: str
    attempt: int
    #: The agent's fingerprint and name.
    agent: str
    server: str


class AgentSession(AccessFact, frozen=True, kw_only=True, tag="agent-session"):
    """A session with an agent began or ended, at a limited rate. `by` is the agent's fingerprint."""

    #: `connected`, `disconnected`, or `cloned`: another server uses the agent's key and was refused.
    what: str
    #: The host's name as the agent reports it, or why the session ended.
    detail: str
    left_out: int = 0


Fact = TokenCreated | TokenRevoked | ActionTaken | AccessRefused | SecretsUsed | AgentSession
