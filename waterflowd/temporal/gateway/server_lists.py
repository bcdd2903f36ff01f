"""Tells runs at once when a job that waits for the servers of its group has some.

Rules of this file: it only makes runs faster. Every daemon that has the run in memory may send the signal, and a job without
one looks again after a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from waterflow_agent.errors import Retryable
from waterflowd.engine import inputs
from waterflowd.model.ids import RunId
from waterflowd.temporal import orders
from waterflowd.temporal.gateway.activity_client import ActivityClient
from waterflowd.temporal.gateway.slots import Slots

logger = logging.getLogger("waterflow.gateway")

#: Changes come in groups, for example while agents connect.
PAUSE_S = 0.2

ChangedLists = Callable[[], Sequence[tuple[RunId, inputs.ServersListed]]]


class ServerLists:
    """See the module's docstring."""

    def __init__(self, activities: ActivityClient, slots: Slots, changed: ChangedLists) -> None:
        self._activities = activities
        self._slots = slots
        self._changed = changed

    async def run(self) -> None:
        """Tells runs until it is cancelled."""
        while True:
            has_changed = self._slots.next_change
            for run, listed in self._changed():
                try:
                    await self._activities.signal(run, orders.INPUTS.pack(listed))
                except Retryable as error:
                    logger.debug("cannot tell run %s of new servers: %s", run, error)
            await has_changed.wait()
            await asyncio.sleep(PAUSE_S)
