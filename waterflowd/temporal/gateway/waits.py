"""Tells a run what an attempt waits for at its gateway, if that takes long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from waterflow_agent.attempts import AttemptId
from waterflow_agent.errors import Retryable
from waterflowd.engine import inputs
from waterflowd.model.reasons import Reason
from waterflowd.temporal import orders
from waterflowd.temporal.gateway.activity_client import ActivityClient

logger = logging.getLogger("waterflow.gateway")

#: How often a wait is looked at after that.
LOOK_S = 20.0


@dataclass
class Wait:
    """The wait of an attempt."""

    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    #: Whether the run may have heard of it.
    is_known: bool = False

    async def lasts(self, duration_s: float) -> bool:
        """Whether it is not over after so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self.is_over.wait()
        return not self.is_over.is_set()


class WaitNotices:
    """See the module's docstring. `told_after_s` is how long an attempt waits until its run hears of it."""

    def __init__(self, activities: ActivityClient, *, told_after_s: float) -> None:
        self._activities = activities
        self._told_after_s = told_after_s

    async def tell(self, name: AttemptId, wait: Wait, cause: Callable[[], Reason | None]) -> None:
        """Tells the run each new cause, until the wait is over. None: there is nothing to tell at the moment."""
        delay_s, told = self._told_after_s, None
        while await wait.lasts(delay_s):
            delay_s = LOOK_S
            found = cause()
            if found is None or found == told:
                continue
            pending = inputs.SlotPending(job=name.job, step=name.step, attempt=name.number, reason=found)
            wait.is_known = True
            try:
                await self._activities.signal(name.run, orders.INPUTS.pack(pending))
            except Retryable as error:
                logger.warning("cannot tell the run that %s waits: %s", name, error)
                continue
            told = found

    @contextlib.asynccontextmanager
    async def telling(self, name: AttemptId, cause: Callable[[Wait], Reason | None]) -> AsyncIterator[None]:
        """Tells it while the block is executed. Afterwards nothing is told any longer."""
        wait = Wait()
        telling = asyncio.create_task(self.tell(name, wait, lambda: cause(wait)), name=f"wait of {name}")
        try:
            yield
        except BaseException:
            telling.cancel()
            raise
        wait.is_over.set()
        await telling
