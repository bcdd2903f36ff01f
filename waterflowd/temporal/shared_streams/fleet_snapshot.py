"""Which facts of the stream `fleet` still say something: the others are left out of a snapshot.

Rules of this file: pure. What is left folds to the same agents, revoked keys and valid tokens. Forgotten are: all but the
newest boots of an agent, join tokens that no longer enroll, API tokens that ended long ago, and requests that are old or were
decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from waterflowd.access.events import TokenCreated, TokenRevoked
from waterflowd.fleet import events
from waterflowd.model.ids import AgentId

#: Boots of an agent that a snapshot remembers: who comes back with one of them is a clone.
BOOTS_MAX = 4
#: How long an API token is listed after it has ended.
ENDED_MS = 30 * 24 * 3_600_000
#: After this time without a new one, the request of an agent is no longer shown.
REQUEST_MS = 3_600_000


class AgentRequested(events.FleetFact, frozen=True, kw_only=True, tag="agent-requested"):
    """An agent waits for approval. Recorded only where several daemons must know: its request reaches just one of them."""

    agent: AgentId
    public_key: str
    name: str
    groups: tuple[str, ...]
    hostname: str
    machine_id: str


#: Everything that the stream may hold.
FleetStreamFact = (
    events.AgentApproved
    | events.AgentIdentified
    | events.AgentRevoked
    | events.AgentDrained
    | events.AgentUndrained
    | events.AgentGroupsSet
    | events.AgentRemoved
    | events.JoinTokenCreated
    | events.JoinTokenRevoked
    | AgentRequested
    | TokenCreated
    | TokenRevoked
)


def kept(facts: Sequence[FleetStreamFact], now: int) -> list[int]:
    """The indices of the facts that a snapshot needs, in order."""
    found = _Kept()
    for index, fact in enumerate(facts):
        found.add(index, fact)
    return found.indices(facts, now)


class _Agent:
    """What is known of one agent since its newest revocation, as indices."""

    def __init__(self) -> None:
        self.approvals: list[int] = []
        #: The newest fact of each boot, the newest boot last.
        self.identified: dict[str, int] = {}
        self.accepted: int | None = None
        #: The newest fact of a session: that a person accepted something says nothing of labels and of the server's key.
        self.session: int | None = None
        #: That it is draining, and its groups if they were set after the newest approval.
        self.drained: int | None = None
        self.groups: int | None = None
        self.revoked: int | None = None
        self.requested: int | None = None

    def indices(self) -> list[int]:
        if not self.approvals:
            return [index for index in (self.revoked, self.requested) if index is not None]
        # The first approval comes before what was identified, the last one has the groups.
        found = [self.approvals[0], self.approvals[-1], *list(self.identified.values())[-BOOTS_MAX:]]
        newest = (self.accepted, self.session, self.drained, self.groups)
        return found + [index for index in newest if index is not None]


class _Kept:
    def __init__(self) -> None:
        self._agents: dict[AgentId, _Agent] = {}
        #: The newest removal or revocation of each agent.
        self._ended: dict[AgentId, int] = {}
        #: Facts of tokens by id: the creation, the end, and for a join token the approvals that name it.
        self._tokens: dict[str, list[int]] = {}

    def add(self, index: int, fact: FleetStreamFact) -> None:
        match fact:
            case events.AgentApproved(agent=agent, token=token):
                self._agents.setdefault(agent, _Agent()).approvals.append(index)
                self._agents[agent].revoked = self._agents[agent].requested = self._agents[agent].groups = None
                if token in self._tokens:
                    self._tokens[token].append(index)
            case events.AgentIdentified(agent=agent, boot_id=boot):
                known = self._agents.get(agent)
                if known is not None and known.approvals:
                    known.identified.pop(boot, None)
                    known.identified[boot] = index
                    if fact.is_accepted:
                        known.accepted = index
                    if fact.labels is not None:
                        known.session = index
            case events.AgentDrained(agent=agent) | events.AgentUndrained(agent=agent) if agent in self._agents:
                self._agents[agent].drained = index if isinstance(fact, events.AgentDrained) else None
            case events.AgentGroupsSet(agent=agent) if agent in self._agents:
                self._agents[agent].groups = index
            case events.AgentRemoved(agent=agent):
                self._agents.pop(agent, None)
                self._ended[agent] = index
            case events.AgentRevoked(agent=agent):
                self._agents[agent] = _Agent()
                self._agents[agent].revoked = self._ended[agent] = index
            case AgentRequested(agent=agent):
                self._agents.setdefault(agent, _Agent()).requested = index
            case events.JoinTokenCreated(token=token) | TokenCreated(token=token):
                self._tokens[token] = [index]
            case events.JoinTokenRevoked(token=token) | TokenRevoked(token=token):
                self._tokens.setdefault(token, []).append(index)

    def indices(self, facts: Sequence[FleetStreamFact], now: int) -> list[int]:
        found = {index for agent in self._agents.values() for index in agent.indices()}
        for indices in self._tokens.values():
            if _is_needed([facts[index] for index in indices], now):
                found.update(indices)
        found.update(self._needed_ends(facts, found))
        return [index for index in sorted(found) if not _is_old_request(facts[index], now)]

    def _needed_ends(self, facts: Sequence[FleetStreamFact], found: set[int]) -> list[int]:
        """The ends of agents of which an earlier approval is needed, because it counts as a use of its token.

        Without them, a later approval would take over the machine of the earlier one.
        """
        needed = []
        for index in found:
            fact = facts[index]
            ended = self._ended.get(fact.agent) if isinstance(fact, events.AgentApproved) else None
            if ended is not None and index < ended:
                needed.append(ended)
        return needed


def _is_old_request(fact: FleetStreamFact, now: int) -> bool:
    return isinstance(fact, AgentRequested) and now - fact.at > REQUEST_MS


def _is_needed(facts: Sequence[FleetStreamFact], now: int) -> bool:
    created, ends = facts[0], [fact.at for fact in facts if isinstance(fact, events.JoinTokenRevoked | TokenRevoked)]
    match created:
        case events.JoinTokenCreated(expires_at=expires_at):
            return not ends and now < expires_at
        case TokenCreated(expires_at=at):
            ended_at = min([*ends, *([at] if at is not None else [])], default=now)
            return now - ended_at < ENDED_MS
    # The end of a token that was forgotten before.
    return False
