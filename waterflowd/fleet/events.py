"""Facts of the `fleet` stream: which agents may work, in which groups, and the join tokens that enroll new ones.

Rules of this file: the same as for a run's events (engine/events.py): past tense, readable forever, new fields have defaults.
A token's secret is never stored, only its SHA-256.
"""

from __future__ import annotations

import msgspec

from waterflowd.model.ids import AgentId


class FleetFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all facts of the fleet. `by` is the principal: a token's name, `uid:N`, or `token:ID` for a join token."""

    at: int
    by: str


class AgentApproved(FleetFact, frozen=True, kw_only=True, tag="agent-approved"):
    """The key was approved as an agent of these groups. A repeated approval replaces name and groups."""

    agent: AgentId
    #: Z85 text of the CURVE public key.
    public_key: str
    name: str
    groups: tuple[str, ...]
    hostname: str = ""
    machine_id: str = ""
    #: Id of the join token that enrolled it; None if a person approved the fingerprint.
    token: str | None = None


class AgentIdentified(FleetFact, frozen=True, kw_only=True, tag="agent-identified"):
    """The agent's key belongs to this machine, installation and boot: by its first session, after a reboot, or by a person.

    Also recorded when its labels, or the server's key that it uses, have changed.
    """

    agent: AgentId
    machine_id: str
    installation: str
    boot_id: str
    #: Fingerprint of the server's key with which the agent has connected; "" if this fact does not say.
    server_key: str = ""
    #: Its labels in that session; None if this fact does not say.
    labels: dict[str, str] | None = None
    #: A person has accepted another machine or installation (`by`); what the former one runs may still be running.
    is_accepted: bool = False


class AgentRevoked(FleetFact, frozen=True, kw_only=True, tag="agent-revoked"):
    """The key is no longer an agent, and cannot become one again without a new approval."""

    agent: AgentId
    #: What the agent was called; "" if this fact does not say.
    name: str = ""


class AgentDrained(FleetFact, frozen=True, kw_only=True, tag="agent-drained"):
    """The agent starts no new jobs from now on. Those that have started on it continue."""

    agent: AgentId


class AgentUndrained(FleetFact, frozen=True, kw_only=True, tag="agent-undrained"):
    """The agent starts new jobs again."""

    agent: AgentId


class AgentGroupsSet(FleetFact, frozen=True, kw_only=True, tag="agent-groups-set"):
    """The agent is in these groups from now on, and in no others."""

    agent: AgentId
    groups: tuple[str, ...]


class AgentRemoved(FleetFact, frozen=True, kw_only=True, tag="agent-removed"):
    """The agent or revoked key is forgotten: the key is as unknown as one that was never approved."""

    agent: AgentId


class JoinTokenCreated(FleetFact, frozen=True, kw_only=True, tag="join-token-created"):
    """A join token was created: valid until `expires_at`, for `uses` agents (None: any number), which join these groups."""

    token: str
    secret_sha256: str
    groups: tuple[str, ...]
    expires_at: int
    uses: int | None = None


class JoinTokenRevoked(FleetFact, frozen=True, kw_only=True, tag="join-token-revoked"):
    """The join token enrolls no more agents. Those that it has enrolled stay."""

    token: str


Fact = (
    AgentApproved
    | AgentIdentified
    | AgentRevoked
    | AgentDrained
    | AgentUndrained
    | AgentGroupsSet
    | AgentRemoved
    | JoinTokenCreated
    | JoinTokenRevoked
)
