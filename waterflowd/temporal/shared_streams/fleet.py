"""The stream `fleet`: agents, join tokens and API tokens, which every daemon follows.

Rules of this file:

- The facts are those of the log engine's streams `fleet` and `audit`. A session of a browser is not among them: its cookie is
  for one daemon, which has it in its own log.
- An agent that waits for approval asks one daemon, but any daemon may approve it. So its request is recorded, once in a while
  and at a limited rate, because strangers may ask.
- A daemon that has not followed the stream for `BLIND_S` might not know of a revocation: it opens no new sessions.
- The daemon that starts the stream brings the agents and tokens of its own log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from temporalio.client import Client

from waterflow_agent.errors import Stalled
from waterflowd import ports
from waterflowd.access import events as access_events
from waterflowd.access.tokens import TokenRegistry
from waterflowd.fleet.registry import Registry
from waterflowd.host.agents.enrollment import EnrollmentService, PendingAgent
from waterflowd.host.agents.fleet_changes import FleetChanges
from waterflowd.model.ids import AUDIT, FLEET, AgentId
from waterflowd.rates import TokenBucket
from waterflowd.temporal import facts
from waterflowd.temporal.facts import FactCodec
from waterflowd.temporal.reading.stream_reader import StreamReader
from waterflowd.temporal.shared_streams import fleet_snapshot
from waterflowd.temporal.shared_streams.append_turns import AppendTurns
from waterflowd.temporal.shared_streams.fleet_snapshot import AgentRequested, FleetStreamFact
from waterflowd.temporal.shared_streams.subscriber import StreamSubscriber
from waterflowd.temporal.shared_streams.writer import SharedStreamWriter

#: After this time without news a daemon opens no new sessions.
BLIND_S = 10.0
#: How long a daemon waits for the stream at its start, before it opens its ports without it.
START_S_MAX = 15.0
#: How often a waiting agent is announced to the other daemons, and at which rate new ones are.
ANNOUNCE_MS = 20 * 60_000
_PER_S, _BURST = 0.1, 20
_ANNOUNCED_MAX = 1_000

FACTS = FactCodec("fleet", FleetStreamFact)


def append_turns() -> AppendTurns:
    """The turns of the stream."""

    def compact(stream: str, stored: Sequence[bytes], now: int) -> list[bytes]:
        try:
            found = [FACTS.unpack(stream, fact).event for fact in stored]
        except Stalled:
            return list(stored)
        return [stored[index] for index in fleet_snapshot.kept(found, now)]

    return AppendTurns(compact)


async def read_registry(client: Client) -> Registry:
    """All agents at the moment, for a program that is not a daemon; empty if no daemon has used the namespace yet.

    Raises `Retryable` WF802, and `Stalled` WF401 for a fact of a newer release.
    """
    registry = Registry()
    stored = await StreamReader(client).read(FLEET)
    found = facts.parts(stored.facts if stored is not None else ())
    for fact in (*found.snapshot, *found.later):
        event = FACTS.unpack(FLEET, fact).event
        if not isinstance(event, AgentRequested | access_events.TokenCreated | access_events.TokenRevoked):
            registry.apply(event)
    return registry


class FleetStream:
    """What a daemon needs of the stream. `run` must run while it is used."""

    def __init__(self, client: Client, history: ports.History, clock: ports.Clock) -> None:
        """`history` is that of the daemon's own log."""
        self._history = history
        self._clock = clock
        self._changes: FleetChanges | None = None
        self._tokens: TokenRegistry | None = None
        self._enrollment: EnrollmentService | None = None
        self._bucket = TokenBucket(_PER_S, _BURST, clock.now())
        self._announced: OrderedDict[AgentId, int] = OrderedDict()
        self._subscriber = StreamSubscriber(
            client, FLEET, FACTS, fold=self._fold, clear=self._clear, seed=self._seed, summary="agents and tokens"
        )
        self.writer = SharedStreamWriter(client, FLEET, FACTS, self._subscriber)

    def connect(self, changes: FleetChanges, tokens: TokenRegistry) -> None:
        """Says what the facts are folded into. Called before `run`."""
        self._changes, self._tokens = changes, tokens

    def connect_enrollment(self, enrollment: EnrollmentService) -> None:
        """Says where agents ask for approval. Called before `run`."""
        self._enrollment = enrollment
        enrollment.on_waiting = self._announce

    async def run(self) -> None:
        """Follows the stream forever."""
        await self._subscriber.run()

    async def ready(self) -> None:
        """Returns once everything recorded so far was folded, or after `START_S_MAX`: then the daemon is blind for now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S_MAX):
                await self._subscriber.caught_up()

    def blind(self) -> str:
        """Why this daemon opens no new sessions at the moment; empty if it does."""
        behind_s = self._subscriber.behind_s
        if behind_s <= BLIND_S:
            return ""
        since = "since its start" if behind_s == float("inf") else f"for {behind_s:.0f} s"
        problem = self._subscriber.problem or "Temporal does not answer"
        return (
            f"this daemon has not been able to follow the stream {FLEET} {since}: {problem}; a revocation might be unknown"
            " here, so new sessions are refused until it can; next: check the cluster, or use another daemon"
        )

    # Facts ------------------------------------------------------------------------------------------------------------

    def _fold(self, fact: FleetStreamFact) -> None:
        assert self._changes is not None
        assert self._tokens is not None
        assert self._enrollment is not None
        match fact:
            case AgentRequested():
                self._enrollment.announced(
                    PendingAgent(
                        agent=fact.agent,
                        public_key=fact.public_key,
                        name=fact.name,
                        groups=fact.groups,
                        hostname=fact.hostname,
                        machine_id=fact.machine_id,
                        requested_at=fact.at,
                    )
                )
            case access_events.TokenCreated() | access_events.TokenRevoked():
                self._tokens.apply(fact)
            case _:
                self._changes.apply(fact)

    def _clear(self) -> None:
        assert self._changes is not None
        self._changes.clear()

    async def _seed(self) -> list[bytes]:
        found: list[FleetStreamFact] = [record.event for record in await self._history.read(FLEET)]
        found += shared_facts(record.event for record in await self._history.read(AUDIT))
        found.sort(key=lambda fact: fact.at)
        kept = fleet_snapshot.kept(found, self._clock.now())
        return [FACTS.pack(found[index].at, found[index]) for index in kept]

    def _announce(self, pending: PendingAgent) -> None:
        now, agent = self._clock.now(), pending.agent
        if now - self._announced.get(agent, -ANNOUNCE_MS) < ANNOUNCE_MS or not self._bucket.take(now):
            return
        self._announced[agent] = now
        self._announced.move_to_end(agent)
        if len(self._announced) > _ANNOUNCED_MAX:
            self._announced.popitem(last=False)
        fact = AgentRequested(
            at=now,
            by=agent,
            agent=agent,
            public_key=pending.public_key,
            name=pending.name,
            groups=pending.groups,
            hostname=pending.hostname,
            machine_id=pending.machine_id,
        )
        self.writer.keep(lambda: [fact])


def shared_facts(trail: Iterable[Any]) -> list[access_events.TokenCreated | access_events.TokenRevoked]:
    """Those facts of an audit trail that are about API tokens, and not about sessions of browsers."""
    found: list[access_events.TokenCreated | access_events.TokenRevoked] = []
    tokens: set[str] = set()
    for fact in trail:
        if isinstance(fact, access_events.TokenCreated) and fact.parent is None:
            tokens.add(fact.token)
            found.append(fact)
        elif isinstance(fact, access_events.TokenRevoked) and fact.token in tokens:
            found.append(fact)
    return found


class AuditedWriter:
    """Appends to the stream, and then records the same in the daemon's own audit trail. Implements `ports.StreamWriter`."""

    def __init__(self, writer: ports.StreamWriter, record: Callable[[Sequence[Any]], Any]) -> None:
        """`record` records facts in the audit trail, and is awaited."""
        self._writer = writer
        self._record = record

    async def append(self, decide: Callable[[], Sequence[Any]]) -> None:
        """See the port."""
        decided: list[Any] = []

        def remembered() -> Sequence[Any]:
            facts = decide()
            decided[:] = facts or decided
            return facts

        await self._writer.append(remembered)
        if decided:
            await self._record(decided)

    def keep(self, decide: Callable[[], Sequence[Any]]) -> None:
        """See the port. Not for what principals do: it is not in the audit trail."""
        self._writer.keep(decide)
