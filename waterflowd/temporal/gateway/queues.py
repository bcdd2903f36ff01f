"""Takes activities from the queues of agents and groups.

Rules of this file: the queue of an agent is polled while the agent has a session here; that of a group while a connected agent
of the group has a free slot, so that an activity goes to a gateway that can grant one. A request that cannot be granted after
all, for example because no free server has its labels, does not hold up those behind it: it waits here, or goes back to the
queue if there are other gateways.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import (
    CustomSlotSupplier,
    FixedSizeSlotSupplier,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
    Worker,
    WorkerTuner,
)

from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import ALL_SERVERS, Registry
from waterflowd.model.ids import AgentId
from waterflowd.temporal import orders, workers
from waterflowd.temporal.gateway.abandoned import InProgress
from waterflowd.temporal.gateway.activities import GatewayActivities
from waterflowd.temporal.gateway.slots import Slots

logger = logging.getLogger("waterflow.gateway")

#: Activities of one agent that are being carried out here, including attempts that wait for a slot. More wait in the queue.
OF_AGENT_MAX = 1_000
#: Activities of one group that are being carried out here; nearly all of them wait for a slot.
OF_GROUP_MAX = 1_000
#: After a worker of Temporal's client has failed.
RESTART_S = 5.0

Activities = Sequence[Callable[..., Awaitable[Any]]]


class Queues:
    """See the module's docstring."""

    def __init__(
        self,
        client: Client,
        activities: GatewayActivities,
        slots: Slots,
        placement: Placement,
        registry: Registry,
        in_progress: InProgress,
    ) -> None:
        self._client = client
        self._in_progress = in_progress
        self._activities = activities
        self._slots = slots
        self._placement = placement
        self._registry = registry
        self._groups: dict[str, asyncio.Task[None]] = {}

    async def poll_agent(self, agent: AgentId) -> None:
        """Carries out the activities of an agent until it is cancelled."""
        supplier = FixedSizeSlotSupplier(OF_AGENT_MAX)
        await self._poll(orders.agent_queue(agent), self._activities.of_agents, supplier)

    async def run(self) -> None:
        """Carries out the activities of the groups of connected agents until it is cancelled."""
        try:
            while True:
                wanted = self._wanted()
                for group in self._groups.keys() - wanted:
                    self._groups.pop(group).cancel()
                for group in sorted(wanted - self._groups.keys()):
                    self._groups[group] = asyncio.create_task(self._poll_group(group), name=f"queue of group {group}")
                # Nothing was awaited since the last change.
                await self._slots.change()
        finally:
            tasks = list(self._groups.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _wanted(self) -> set[str]:
        groups: set[str] = set()
        for agent, server in self._placement.servers.items():
            entry = self._registry.agents.get(agent)
            if server.is_connected and entry is not None:
                groups.update(entry.groups, [ALL_SERVERS])
        return groups

    async def _poll_group(self, group: str) -> None:
        supplier = FreeSlotSupplier(self._slots, group)
        await self._poll(orders.group_queue(group), self._activities.of_groups, supplier)

    async def _poll(
        self, queue: str, activities: Activities, supplier: FixedSizeSlotSupplier | CustomSlotSupplier
    ) -> None:
        none = FixedSizeSlotSupplier(1)
        tuner = WorkerTuner.create_composite(
            workflow_supplier=none, activity_supplier=supplier, local_activity_supplier=none, nexus_supplier=none
        )
        while True:
            try:
                worker = Worker(
                    self._client,
                    task_queue=queue,
                    activities=activities,
                    tuner=tuner,
                    max_concurrent_activity_task_polls=1,
                    max_cached_workflows=0,
                    graceful_shutdown_timeout=timedelta(0),
                    interceptors=[self._in_progress],
                )
                await workers.run(worker)
            except Exception:
                # A supervision point: other queues are not affected.
                logger.exception("cannot take activities from %s; will retry", queue)
            await asyncio.sleep(RESTART_S)


class FreeSlotSupplier(CustomSlotSupplier):
    """Lets a worker ask for as many activities as the group has free slots. Those that already wait do not count."""

    def __init__(self, slots: Slots, group: str) -> None:
        self._slots = slots
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._reserved = 0

    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        """Returns when there is a free slot that no other poll was made for."""
        while self._reserved >= OF_GROUP_MAX or self._polls_and_answers >= self._slots.free_in(self._group):
            await self._slots.change()
        self._reserved += 1
        return SlotPermit()

    @property
    def _polls_and_answers(self) -> int:
        """Permits whose activity may still take a free slot, or has just taken one."""
        return self._reserved - self._slots.waiting_in(self._group)

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        """No activity is taken without a poll."""
        return None

    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        """The activity itself takes the slot."""

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """Called on a thread of Temporal's client."""
        self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._reserved -= 1
        self._slots.assign()
