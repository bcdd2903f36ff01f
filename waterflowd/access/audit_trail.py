"""The audit trail: who did what to what and when, and who was turned away.

Rules of this file:

- What somebody did is durable before the answer says that it is done.
- Strangers can make refusals as fast as they can send. So a refusal gets a record at a bounded rate, per source and in all;
  the next record says how many are without one. Nobody waits for these records, and a full disk drops them.
"""

from __future__ import annotations

import asyncio

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import WaterflowError
from waterflowd.access.events import AccessRefused, ActionTaken
from waterflowd.access.registry import Principal
from waterflowd.api.services import Services
from waterflowd.model.ids import AUDIT
from waterflowd.rates import BucketPerName, TokenBucket

#: One record a minute for ever is 100 MB in ten years; the first ones are what one wants to see.
PER_S = 1 / 60
BURST = 60
SOURCE_BURST = 6
_SOURCES_MAX = 256


async def note(
    services: Services, principal: Principal, what: str, target: str, **facts: str | int | bool | list[str] | None
) -> None:
    """Records who did what to what; durable when it returns."""
    fact = ActionTaken(at=services.clock.now(), by=principal.name, what=what, target=target, facts=facts)
    await services.runs.record(AUDIT, [fact])


class Refusals:
    """Records of who was turned away, at a bounded rate. Everything is called on the event loop's thread."""

    def __init__(self, services: Services) -> None:
        self._runs = services.runs
        self._clock = services.clock
        now = self._clock.now()
        self._in_all = TokenBucket(PER_S, BURST, now)
        self._per_source = BucketPerName(PER_S, SOURCE_BURST, _SOURCES_MAX)
        self._left_out = 0
        self._writing: set[asyncio.Task[None]] = set()

    def note(self, door: str, code: str, target: str, by: str) -> None:
        """Notes one refusal; `by` is a principal's name, a fingerprint or an address."""
        now = self._clock.now()
        # The narrow bound first: one noisy source does not use up what all share.
        if not self._per_source.take(by, now) or not self._in_all.take(now):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        fact = AccessRefused(
            at=now,
            by=escape_for_display(by),
            door=door,
            code=code,
            target=escape_for_display(target),
            left_out=left_out,
        )
        task = asyncio.get_running_loop().create_task(self._write(fact), name="audit: refusal")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def agent_refused(self, code: str, text: str, who: str) -> None:
        """Notes what the ports for agents refuse."""
        self.note("agents", code, text, who)

    def stop(self) -> None:
        """Gives up on what is not written yet."""
        for task in self._writing:
            task.cancel()

    async def _write(self, fact: AccessRefused) -> None:
        try:
            await self._runs.record(AUDIT, [fact])
        except WaterflowError:
            self._left_out += 1 + fact.left_out
