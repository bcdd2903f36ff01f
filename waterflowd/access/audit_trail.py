"""The audit trail: who did what and when, which agents connected, and which requests and connections were rejected.

Rules of this file:

- An action is durable before the answer reports it.
- Strangers can cause rejections as fast as they can send. So rejections are recorded at a limited rate, per source and in
  total; the next record holds the number of those that were left out. No answer waits for these records, and a full disk drops
  them.
"""

from __future__ import annotations

import asyncio

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import WaterflowError
from waterflowd.access.events import AccessRefused, ActionTaken, AgentSession
from waterflowd.access.roles import Principal
from waterflowd.model.ids import AUDIT
from waterflowd.ports import Clock, Runs
from waterflowd.rates import BucketPerName, TokenBucket

#: One record a minute adds up to 100 MB in ten years; the burst keeps the first, most interesting ones.
PER_S = 1 / 60
BURST = 60
SOURCE_BURST = 6
_SOURCES_MAX = 256
#: Sessions: a daemon that restarts has one per agent at once; an agent that flaps has a few, then one a minute.
SESSIONS_PER_S = 2.0
SESSIONS_BURST = 5_000
SESSION_BURST = 10
_AGENTS_MAX = 8_192


class AuditTrail:
    """Records actions and rejections. All methods are called on the event loop's thread."""

    def __init__(self, runs: Runs, clock: Clock) -> None:
        self._runs = runs
        self._clock = clock
        self._total = TokenBucket(PER_S, BURST, clock.now())
        self._per_source = BucketPerName(PER_S, SOURCE_BURST, _SOURCES_MAX)
        self._left_out = 0
        self._sessions = TokenBucket(SESSIONS_PER_S, SESSIONS_BURST, clock.now())
        self._per_agent = BucketPerName(PER_S, SESSION_BURST, _AGENTS_MAX)
        self._sessions_left_out = 0
        self._writing: set[asyncio.Task[None]] = set()

    async def action(
        self, principal: Principal, what: str, target: str, **facts: str | int | bool | list[str] | None
    ) -> None:
        """Records an action of a principal; durable when it returns."""
        event = ActionTaken(at=self._clock.now(), by=principal.name, what=what, target=target, facts=facts)
        await self._runs.record(AUDIT, [event])

    def rejection(self, door: str, code: str, target: str, by: str) -> None:
        """Records one rejection soon; `by` is a principal's name, a fingerprint or an address."""
        now = self._clock.now()
        # The narrow limit first: one noisy source must not use up the total.
        if not self._per_source.take(by, now) or not self._total.take(now):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        event = AccessRefused(
            at=now,
            by=escape_for_display(by),
            door=door,
            code=code,
            target=escape_for_display(target),
            left_out=left_out,
        )
        self._record_soon(event)

    def agent_session(self, agent: str, what: str, detail: str) -> None:
        """Records soon that a session began or ended (`connected`, `disconnected`), or that a clone was refused (`cloned`)."""
        now = self._clock.now()
        if not self._per_agent.take(agent, now) or not self._sessions.take(now):
            self._sessions_left_out += 1
            return
        left_out, self._sessions_left_out = self._sessions_left_out, 0
        self._record_soon(
            AgentSession(at=now, by=agent, what=what, detail=escape_for_display(detail), left_out=left_out)
        )

    def _record_soon(self, event: AccessRefused | AgentSession) -> None:
        task = asyncio.get_running_loop().create_task(self._write(event), name="audit trail")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def agent_rejected(self, code: str, text: str, who: str) -> None:
        """Records what the ports for agents rejected."""
        self.rejection("agents", code, text, who)

    def stop(self) -> None:
        """Drops what has not been written yet."""
        for task in self._writing:
            task.cancel()

    async def _write(self, event: AccessRefused | AgentSession) -> None:
        try:
            await self._runs.record(AUDIT, [event])
        except WaterflowError:
            if isinstance(event, AgentSession):
                self._sessions_left_out += 1 + event.left_out
            else:
                self._left_out += 1 + event.left_out
