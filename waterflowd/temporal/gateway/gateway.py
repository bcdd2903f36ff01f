"""The gateway's parts, connected."""

from __future__ import annotations

import asyncio

from temporalio.client import Client

from waterflowd import ports
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.temporal.gateway import attempts
from waterflowd.temporal.gateway.abandoned import PAUSES, AbandonedActivities, InProgress, Pauses
from waterflowd.temporal.gateway.activities import GatewayActivities
from waterflowd.temporal.gateway.activity_client import ActivityClient
from waterflowd.temporal.gateway.attempts import GatewayAttempts
from waterflowd.temporal.gateway.offers import Offers
from waterflowd.temporal.gateway.other_gateways import OtherGateways
from waterflowd.temporal.gateway.queues import Queues
from waterflowd.temporal.gateway.secret_reader import SecretReader, Secrets
from waterflowd.temporal.gateway.server_lists import ChangedLists, ServerLists
from waterflowd.temporal.gateway.slots import Slots
from waterflowd.temporal.gateway.waits import WaitNotices
from waterflowd.temporal.own_slots import LeaseTerms

#: A gateway that has not reached Temporal for so long sends its agents to others.
ABSENT_AFTER_S = 30.0


class Gateway:
    """A daemon as its agents see it: `attempts` is for `host.agents.AgentHandler`, whose `arrived` it needs in return."""

    def __init__(
        self,
        client: Client,
        placement: Placement,
        registry: Registry,
        link: ports.Link,
        clock: ports.Clock,
        *,
        terms: LeaseTerms,
        secrets: Secrets,
        changed_lists: ChangedLists = lambda: (),
        has_others: bool = False,
        heartbeat_s: float = attempts.HEARTBEAT_S,
        started_after_s: float = attempts.STARTED_AFTER_S,
        missing_s: float = attempts.MISSING_S,
        confirm_s: float = attempts.CONFIRM_S,
        pauses: Pauses = PAUSES,
    ) -> None:
        """`has_others`: agents have the addresses of several daemons."""
        self._has_others = has_others
        slots = Slots(placement, registry)
        loop = asyncio.get_running_loop()
        placement.on_enrollment = lambda: loop.call_soon(slots.assign)
        activity_client = ActivityClient(client)
        self.attempts = GatewayAttempts(
            activity_client,
            slots,
            registry,
            link,
            heartbeat_s=heartbeat_s,
            started_after_s=started_after_s,
            missing_s=missing_s,
            confirm_s=confirm_s,
        )
        reader = SecretReader(secrets)
        notices = WaitNotices(activity_client, told_after_s=started_after_s)
        activities = GatewayActivities(
            self.attempts,
            slots,
            placement,
            registry,
            link,
            clock,
            terms=terms,
            secrets=reader,
            offers=Offers(activity_client, slots, reader, notices),
            notices=notices,
            others=OtherGateways(client),
        )
        #: What this process carries out; its other workers tell it as well.
        self.in_progress = InProgress()
        self.abandoned = AbandonedActivities(
            activity_client, client.identity, self.in_progress, self.attempts.is_attached, pauses
        )
        self.attempts.left = self.abandoned.look
        self._lists = ServerLists(activity_client, slots, changed_lists)
        self._queues = Queues(client, activities, slots, placement, registry, self.in_progress)
        self.attempts.poll = self._queues.poll_agent
        #: To be called when a secret was read, or could not be read.
        self.secrets_read = reader.changed

    def absence(self) -> str:
        """Why agents must look for another daemon now; "" if they need not, or have no other address."""
        since = self.abandoned.away_since
        if not self._has_others or since is None or asyncio.get_running_loop().time() < since + ABSENT_AFTER_S:
            return ""
        return f"this daemon has not reached Temporal for {ABSENT_AFTER_S:g} s; another one may"

    async def run(self) -> None:
        """Works until it is cancelled; then everything goes back to the queues, where another gateway takes it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queues.run(), name="queues of groups")
                group.create_task(self._lists.run(), name="lists of servers")
                group.create_task(self.attempts.run(), name="heartbeats of attempts")
                group.create_task(self.abandoned.run(), name="abandoned activities")
        finally:
            await self.attempts.close()
