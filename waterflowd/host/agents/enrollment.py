"""Enrollment: decides who may become an agent. Facts go to the `fleet` stream; the registry is their fold.

Rules of this file: an answer is sent only when its fact is durable. Groups come from the join token or from the person who
approves, never from the agent; its request is only shown to that person. Pending agents are kept in memory, bounded, by
their proven key; they repeat their request, so a restart loses nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from waterflow_agent import keys
from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected
from waterflow_agent.join_token import JoinToken as TokenText
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.fleet import events
from waterflowd.fleet.registry import JoinToken, Registry, check_groups, free_name
from waterflowd.model.ids import AgentId

#: Pending agents; beyond it the oldest is dropped, and asks again.
PENDING_MAX = 100
#: How long a pending agent waits before it sends its request again.
RETRY_MS = 5_000
#: How long an agent is pending after its newest request.
PENDING_MS = 3_600_000
TOKEN_TTL_MS_MAX = 30 * 24 * 3_600_000
#: Join tokens that are valid at the same time.
TOKENS_MAX = 10_000


class PendingAgent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that waits for approval."""

    agent: AgentId
    public_key: str
    name: str
    groups: tuple[str, ...]
    hostname: str
    machine_id: str
    requested_at: int


class DaemonEndpoints(msgspec.Struct, frozen=True, kw_only=True):
    """How agents reach this daemon; part of a join token."""

    work: str
    enroll: str
    server_key: str


class EnrollmentService:
    """Implements `ports.Enroller`, and the administration of agents."""

    def __init__(
        self,
        registry: Registry,
        fleet: ports.StreamWriter,
        clock: ports.Clock,
        fingerprint: Callable[[str], str] = keys.fingerprint,
    ) -> None:
        """`fleet` appends to the `fleet` stream, and what it folds changes `registry`."""
        self._registry = registry
        self._fleet = fleet
        self._clock = clock
        self._fingerprint = fingerprint
        self._pending: OrderedDict[AgentId, PendingAgent] = OrderedDict()
        self.endpoints = DaemonEndpoints(work="", enroll="", server_key="")
        #: Called with each request that waits for approval.
        self.on_waiting: Callable[[PendingAgent], None] = lambda pending: None

    def is_approved(self, public_key: str) -> bool:
        """See `ports.Enroller`."""
        return self._registry.agent_of_key(public_key) is not None

    def describe(self, agent: AgentId) -> tuple[str, list[str]]:
        """Name and groups of an agent."""
        entry = self._registry.agents.get(agent)
        return (entry.name, list(entry.groups)) if entry is not None else (agent, [])

    async def request(self, public_key: str, request: messages.EnrollRequest) -> messages.EnrollAnswer:
        """See `ports.Enroller`."""
        agent = AgentId(self._fingerprint(public_key))
        entry = self._registry.agents.get(agent)
        if entry is not None:
            return self._welcome(agent, request, f"welcome, {entry.name}")
        pending = PendingAgent(
            agent=agent,
            public_key=public_key,
            name=request.name[:64],
            groups=tuple(group[:64] for group in request.groups[:16]),
            hostname=request.hostname[:255],
            machine_id=request.machine_id[:64],
            requested_at=self._clock.now(),
        )
        for name in (request.name, request.hostname):
            if keys.looks_like_fingerprint(name):
                text = f"the name {quote(name, 60)} looks like a fingerprint; set `name` of the agent to another one"
                return self._answer("refused", agent, text)
        if not request.token or agent in self._registry.revoked:
            return self._wait(pending)
        try:
            await self._fleet.append(lambda: self._joined(pending, request.token))
        except Rejected as error:
            return self._answer("refused", agent, error.text)
        self._pending.pop(agent, None)
        return self._welcome(agent, request, "welcome")

    def _welcome(self, agent: AgentId, request: messages.EnrollRequest, text: str) -> messages.EnrollAnswer:
        is_spent = self._registry.is_spent(request.token, self._clock.now())
        return msgspec.structs.replace(self._answer("approved", agent, text), is_token_spent=is_spent)

    def announced(self, pending: PendingAgent) -> None:
        """An agent waits for approval, here or at another daemon."""
        self._pending[pending.agent] = pending
        self._pending.move_to_end(pending.agent)
        if len(self._pending) > PENDING_MAX:
            self._pending.popitem(last=False)

    def _wait(self, pending: PendingAgent) -> messages.EnrollAnswer:
        agent = pending.agent
        self.announced(pending)
        self.on_waiting(pending)
        text = f"waiting for approval: waterflowctl agents approve {agent} --group GROUP"
        return self._answer("pending", agent, text, after_ms=RETRY_MS)

    def _joined(self, pending: PendingAgent, text: str) -> list[events.Fact]:
        """The approval by a token; nothing when an earlier request of the same key was approved already."""
        if pending.agent in self._registry.agents:
            return []
        token = self._registry.check_token(text, self._clock.now())
        return [self._approval(pending, token.groups, f"token:{token.token}", token.token)]

    def _answer(self, state: str, agent: AgentId, text: str, after_ms: int = 0) -> messages.EnrollAnswer:
        name, groups = self.describe(agent)
        return messages.EnrollAnswer(state, text, agent, name, groups, self.endpoints.work, after_ms)

    def _approval(
        self, pending: PendingAgent, groups: tuple[str, ...], by: str, token: str | None
    ) -> events.AgentApproved:
        return events.AgentApproved(
            at=self._clock.now(),
            by=by,
            agent=pending.agent,
            public_key=pending.public_key,
            name=free_name(pending.name or pending.hostname, pending.agent, self._registry),
            groups=groups,
            hostname=pending.hostname,
            machine_id=pending.machine_id,
            token=token,
        )

    # Administration ---------------------------------------------------------------------------------------------------

    async def create_token(self, groups: tuple[str, ...], ttl_ms: int, uses: int | None, by: str) -> str:
        """A new join token as one line of text. Raises `Rejected` for invalid groups, time to live or uses."""
        groups = check_groups(groups)
        if not 1_000 <= ttl_ms <= TOKEN_TTL_MS_MAX:
            raise Rejected("WF226", "a join token is valid for 1 second to 30 days")
        if uses is not None and uses < 1:
            raise Rejected("WF226", "a join token needs at least one use")
        name, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        now = self._clock.now()
        if sum(token.is_valid(now) for token in self._registry.tokens.values()) >= TOKENS_MAX:
            raise Rejected("WF609", f"the limit of {TOKENS_MAX} valid join tokens is reached; revoke some", status=429)
        fact = events.JoinTokenCreated(
            at=now,
            by=by,
            token=name,
            secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
            groups=groups,
            expires_at=now + ttl_ms,
            uses=uses,
        )
        await self._fleet.append(lambda: [] if name in self._registry.tokens else [fact])
        return TokenText(
            enroll_endpoint=self.endpoints.enroll,
            work_endpoint=self.endpoints.work,
            server_key=self.endpoints.server_key,
            token_id=name,
            secret=secret,
        ).encode()

    def tokens(self) -> list[JoinToken]:
        """All join tokens, oldest first, including those that are no longer valid."""
        return list(self._registry.tokens.values())

    async def revoke_token(self, token_id: str, by: str) -> JoinToken:
        """Revokes a join token. Idempotent. `Rejected` WF604 (404) for an unknown id."""
        token = self._registry.tokens.get(token_id)
        if token is None:
            text = f"join token {quote(token_id, 60)} not found; list join tokens with `waterflowctl agents tokens`"
            raise Rejected("WF604", text, status=404)
        fact = events.JoinTokenRevoked(at=self._clock.now(), by=by, token=token_id)
        await self._fleet.append(lambda: [fact] if self._registry.tokens[token_id].revoked_at is None else [])
        return self._registry.tokens[token_id]

    async def approve(self, fingerprint: str, groups: tuple[str, ...], by: str) -> AgentId:
        """Approves a pending agent, or changes an agent's groups. `Rejected` WF227 (404) for an unknown fingerprint."""
        groups = check_groups(groups)
        agent = self._known(fingerprint)
        entry = self._registry.agents.get(agent)
        pending = self._pending.get(agent)
        if pending is None and entry is not None:
            pending = PendingAgent(
                agent=agent,
                public_key=entry.public_key,
                name=entry.name,
                groups=entry.groups,
                hostname=entry.hostname,
                machine_id=entry.machine_id,
                requested_at=entry.approved_at,
            )
        assert pending is not None, "an agent that is neither pending nor approved is not known"
        known, approved = pending, False

        def approval() -> list[events.Fact]:
            nonlocal approved
            entry = self._registry.agents.get(agent)
            if approved and entry is not None and (entry.groups, entry.approved_by) == (groups, by):
                return []
            approved = True
            return [self._approval(known, groups, by, None)]

        await self._fleet.append(approval)
        self._pending.pop(agent, None)
        return agent

    async def revoke(self, fingerprint: str, by: str) -> None:
        """Revokes an agent; its running attempts are lost. `Rejected` WF227 (404) for an unknown fingerprint."""
        agent = self._known(fingerprint)
        if self._pending.pop(agent, None) is not None and agent not in self._registry.agents:
            return
        known = self._registry.agents.get(agent)
        fact = events.AgentRevoked(at=self._clock.now(), by=by, agent=agent, name=known.name if known else "")
        await self._fleet.append(lambda: [fact] if agent in self._registry.agents else [])

    def _known(self, fingerprint: str) -> AgentId:
        """The pending or approved agent with exactly this fingerprint."""
        agent = AgentId(fingerprint)
        if agent not in self._registry.agents and agent not in self._pending:
            text = f"no agent has the fingerprint {quote(fingerprint, 64)}; waterflowctl agents lists them"
            raise Rejected("WF227", text, status=404)
        return agent

    def pending(self) -> list[PendingAgent]:
        """The agents that wait for approval, oldest first."""
        since = self._clock.now() - PENDING_MS
        return [
            pending
            for agent, pending in self._pending.items()
            if agent not in self._registry.agents and pending.requested_at >= since
        ]
