"""A gateway without agents: it answers the activities of runs, and notes what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from tests.patience import PATIENCE_S
from waterflowd.engine import inputs
from waterflowd.model.ids import AgentId
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders

AGENT = AgentId("SHA256:one")


@dataclass
class Gateway:
    """One server of the group `web`, which is always free. Steps end when `is_open` is set, and at once by default."""

    tasks: list[orders.TaskOrder] = field(default_factory=list)
    cancels: list[orders.CancelOrder] = field(default_factory=list)
    releases: list[orders.ReleaseOrder] = field(default_factory=list)
    is_open: asyncio.Event = field(default_factory=asyncio.Event)

    @activity.defn(name=orders.PLACE)
    async def place(self, content: bytes) -> bytes:
        """Grants the slot."""
        order = orders.ORDERS.unpack(content)
        attempt = order.attempt
        return orders.INPUTS.pack(
            inputs.SlotGranted(
                job=attempt.job,
                step=attempt.step,
                attempt=attempt.number,
                epoch=1,
                agent=AGENT,
                agent_name="web-1",
                boot_id="boot",
                facts={},
            )
        )

    @activity.defn(name=orders.ATTEMPT)
    async def attempt(self, content: bytes) -> bytes:
        """Carries out the step."""
        order = orders.ORDERS.unpack(content)
        self.tasks.append(order)
        while not self.is_open.is_set():
            activity.heartbeat()
            await asyncio.sleep(0.05)
        key = order.draft.task.key
        return orders.INPUTS.pack(
            inputs.TaskFinished(
                job=key.attempt.job,
                step=key.attempt.step,
                attempt=key.attempt.number,
                epoch=key.epoch,
                agent=AGENT,
                outcome=Outcome.CANCELLED if self.cancels else Outcome.SUCCESS,
                exit_code=0,
                started_at=1,
                finished_at=2,
            )
        )

    @activity.defn(name=orders.CANCEL)
    async def cancel(self, content: bytes) -> bytes:
        """Ends the steps."""
        self.cancels.append(orders.ORDERS.unpack(content))
        self.is_open.set()
        return b""

    @activity.defn(name=orders.RELEASE)
    async def release(self, content: bytes) -> bytes:
        """Notes the release."""
        self.releases.append(orders.ORDERS.unpack(content))
        return b""

    async def has_begun(self, count: int) -> None:
        """Waits until so many attempts have begun."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.tasks) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def running(self, client: Client) -> AsyncIterator[None]:
        """Polls the queues."""
        activities = [self.place, self.attempt, self.cancel, self.release]
        workers = [
            Worker(client, task_queue=queue, activities=activities, graceful_shutdown_timeout=timedelta(0))
            for queue in (orders.group_queue("web"), orders.agent_queue(AGENT))
        ]
        async with workers[0], workers[1]:
            yield
