"""The registry: the fold of the `fleet` stream. Which keys are agents, of which groups, and which join tokens enroll new ones.

Rules of this file: `apply` handles every logged fact and decides nothing; the queries below it change nothing. The uses of a
token are counted from the approvals that name it, so a use and the approval are one fact.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.fleet import events
from waterflowd.model.ids import AgentId

#: Names of groups and agents. They appear in commands, file names and URLs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Built-in group of all servers; never assigned.
ALL_SERVERS = "all-servers"
GROUPS_MAX = 32
#: Earlier boots of an agent that are remembered.
BOOTS_MAX = 64


class Enrolled(msgspec.Struct, kw_only=True):
    """One agent that may work."""

    agent: AgentId
    public_key: str
    name: str
    groups: tuple[str, ...]
    hostname: str
    machine_id: str
    approved_at: int
    approved_by: str
    #: What the key belongs to besides the machine; "" until the first session.
    installation: str = ""
    boot_id: str = ""
    #: Earlier boots, which cannot come back.
    past_boots: tuple[str, ...] = ()
    #: When its boot last changed, and when a person last accepted another machine or installation; 0 for never.
    boot_changed_at: int = 0
    accepted_at: int = 0
    #: Fingerprint of the server's key that the agent used in its newest session; "" before the first one.
    server_key: str = ""
    #: Its labels in its newest session, with whichever daemon.
    labels: dict[str, str] = {}
    #: Since when it starts no new jobs, and who decided that; 0 if it does.
    drained_at: int = 0
    drained_by: str = ""

    @property
    def is_draining(self) -> bool:
        """Whether it starts no new jobs."""
        return self.drained_at != 0

    def has(self, labels: tuple[tuple[str, str], ...]) -> bool:
        """Whether the agent had all of these labels in its newest session."""
        return all(self.labels.get(name) == value for name, value in labels)


class RevokedKey(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a former agent, which must not enroll again with a token that it still has."""

    agent: AgentId
    #: What the agent was called; "" if that is not known.
    name: str
    revoked_at: int
    revoked_by: str


class JoinToken(msgspec.Struct, kw_only=True):
    """One join token, without its secret."""

    token: str
    secret_sha256: str
    groups: tuple[str, ...]
    expires_at: int
    uses: int | None
    used: int
    created_at: int
    created_by: str
    revoked_at: int | None = None

    def is_valid(self, now: int) -> bool:
        """True until the token is revoked, expires, or is used up."""
        return self.revoked_at is None and now < self.expires_at and (self.uses is None or self.used < self.uses)


class Registry:
    """Agents and join tokens as of the facts applied so far."""

    def __init__(self) -> None:
        self.agents: dict[AgentId, Enrolled] = {}
        self.tokens: dict[str, JoinToken] = {}
        self.revoked: dict[AgentId, RevokedKey] = {}
        self._keys: dict[str, AgentId] = {}
        self._groups: dict[str, dict[AgentId, Enrolled]] = {}

    @classmethod
    def of(cls, facts: Iterable[events.Fact]) -> Registry:
        """The registry of all facts of the stream."""
        made = cls()
        for fact in facts:
            made.apply(fact)
        return made

    def clear(self) -> None:
        """Forgets all facts."""
        self.agents.clear()
        self.tokens.clear()
        self.revoked.clear()
        self._keys.clear()
        self._groups.clear()

    def apply(self, fact: events.Fact) -> None:
        """Folds one fact."""
        match fact:
            case events.AgentApproved():
                known = self.agents.get(fact.agent)
                self._remove(fact.agent)
                self._add(fact)
                if known is not None:
                    _copy_identity(known, self.agents[fact.agent])
                self.revoked.pop(fact.agent, None)
            case events.AgentIdentified():
                entry = self.agents.get(fact.agent)
                if entry is not None:
                    _identify(entry, fact)
            case events.AgentDrained(agent=agent, at=at, by=by):
                self._drain(agent, at, by)
            case events.AgentUndrained(agent=agent):
                self._drain(agent, 0, "")
            case events.AgentGroupsSet():
                self._set_groups(fact)
            case events.AgentRevoked(agent=agent):
                self._remove(agent)
                self.revoked[agent] = RevokedKey(agent=agent, name=fact.name, revoked_at=fact.at, revoked_by=fact.by)
            case events.AgentRemoved(agent=agent):
                self._remove(agent)
                self.revoked.pop(agent, None)
            case events.JoinTokenCreated():
                self.tokens[fact.token] = JoinToken(
                    token=fact.token,
                    secret_sha256=fact.secret_sha256,
                    groups=fact.groups,
                    expires_at=fact.expires_at,
                    uses=fact.uses,
                    used=0,
                    created_at=fact.at,
                    created_by=fact.by,
                )
            case events.JoinTokenRevoked():
                token = self.tokens.get(fact.token)
                if token is not None and token.revoked_at is None:
                    token.revoked_at = fact.at

    def _add(self, fact: events.AgentApproved) -> None:
        entry = Enrolled(
            agent=fact.agent,
            public_key=fact.public_key,
            name=fact.name,
            groups=fact.groups,
            hostname=fact.hostname,
            machine_id=fact.machine_id,
            approved_at=fact.at,
            approved_by=fact.by,
        )
        self.agents[fact.agent] = entry
        self._keys[fact.public_key] = fact.agent
        self._join_groups(entry)
        token = self.tokens.get(fact.token) if fact.token is not None else None
        if token is not None:
            token.used += 1

    def _remove(self, agent: AgentId) -> None:
        entry = self.agents.pop(agent, None)
        if entry is None:
            return
        self._keys.pop(entry.public_key, None)
        self._leave_groups(entry)

    def _join_groups(self, entry: Enrolled) -> None:
        for group in entry.groups:
            self._groups.setdefault(group, {})[entry.agent] = entry

    def _leave_groups(self, entry: Enrolled) -> None:
        for group in entry.groups:
            members = self._groups[group]
            del members[entry.agent]
            if not members:
                del self._groups[group]

    def _set_groups(self, fact: events.AgentGroupsSet) -> None:
        entry = self.agents.get(fact.agent)
        if entry is not None:
            self._leave_groups(entry)
            entry.groups = fact.groups
            self._join_groups(entry)

    def _drain(self, agent: AgentId, at: int, by: str) -> None:
        entry = self.agents.get(agent)
        if entry is not None:
            entry.drained_at, entry.drained_by = at, by

    def agent_of_key(self, public_key: str) -> AgentId | None:
        """The agent with this public key (Z85), or None."""
        return self._keys.get(public_key)

    def group(self, name: str) -> dict[AgentId, Enrolled]:
        """The agents of a group; all agents for the built-in group."""
        return self.agents if name == ALL_SERVERS else self._groups.get(name, {})

    @property
    def groups(self) -> dict[str, dict[AgentId, Enrolled]]:
        """All groups that have an agent."""
        return self._groups

    def check_token(self, text: str, now: int) -> JoinToken:
        """The token that `ID.SECRET` names. Raises `Rejected` WF224 if it is unknown, wrong, revoked, used up or expired."""
        token = self.tokens.get(text.partition(".")[0])
        if token is None or not _has_secret(token, text):
            raise _unusable("is not known here")
        if token.revoked_at is not None:
            raise _unusable("has been revoked")
        if now >= token.expires_at:
            raise _unusable("has expired")
        if token.uses is not None and token.used >= token.uses:
            raise _unusable("is used up")
        return token

    def is_spent(self, text: str, now: int) -> bool:
        """Whether `ID.SECRET` is a token of this registry that enrolls no more agents."""
        token = self.tokens.get(text.partition(".")[0])
        return token is not None and _has_secret(token, text) and not token.is_valid(now)


def _has_secret(token: JoinToken, text: str) -> bool:
    digest = hashlib.sha256(text.partition(".")[2].encode()).hexdigest()
    return hmac.compare_digest(digest, token.secret_sha256)


def _copy_identity(known: Enrolled, entry: Enrolled) -> None:
    """Another name or other groups do not change what the key belongs to."""
    entry.machine_id, entry.installation, entry.boot_id = known.machine_id, known.installation, known.boot_id
    entry.past_boots, entry.server_key, entry.labels = known.past_boots, known.server_key, known.labels
    entry.boot_changed_at, entry.accepted_at = known.boot_changed_at, known.accepted_at
    entry.drained_at, entry.drained_by = known.drained_at, known.drained_by


def _identify(entry: Enrolled, fact: events.AgentIdentified) -> None:
    if entry.boot_id and entry.boot_id != fact.boot_id:
        entry.past_boots = (*entry.past_boots[1 - BOOTS_MAX :], entry.boot_id)
        entry.boot_changed_at = fact.at
    entry.past_boots = tuple(boot for boot in entry.past_boots if boot != fact.boot_id)
    entry.machine_id, entry.installation, entry.boot_id = fact.machine_id, fact.installation, fact.boot_id
    if fact.server_key:
        entry.server_key = fact.server_key
    if fact.labels is not None:
        entry.labels = fact.labels
    if fact.is_accepted:
        entry.accepted_at = fact.at


def _unusable(problem: str) -> Rejected:
    next_step = "make a new one: waterflowctl agents tokens create --group GROUP"
    return Rejected("WF224", f"the join token {problem}; {next_step}")


def check_groups(groups: tuple[str, ...]) -> tuple[str, ...]:
    """The groups without duplicates. Raises `Rejected` WF225 for invalid names."""
    unique = tuple(dict.fromkeys(groups))
    if not unique:
        raise Rejected("WF225", "at least one group is needed: --group NAME")
    if len(unique) > GROUPS_MAX:
        raise Rejected("WF225", f"an agent may be in {GROUPS_MAX} groups at most")
    for group in unique:
        if group == ALL_SERVERS:
            raise Rejected("WF225", f'"{ALL_SERVERS}" is a built-in group of every server and cannot be assigned')
        if not NAME.fullmatch(group):
            raise Rejected("WF225", f'"{group[:64]}" cannot be a group: letters, digits, ".", "_" and "-", at most 64')
    return unique


def free_name(requested: str, agent: AgentId, registry: Registry) -> str:
    """A display name that no other agent has: the requested one if possible, else with a number."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", requested)[:48].lstrip("._-") or "agent"
    taken = {entry.name for entry in registry.agents.values() if entry.agent != agent}
    if plain not in taken:
        return plain
    return next(name for number in range(2, len(taken) + 3) if (name := f"{plain}-{number}") not in taken)
