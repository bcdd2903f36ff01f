"""Finds activities that Temporal believes this daemon is carrying out, and that it is not, and returns them to their queues.

Temporal records the start of an activity before its daemon has got it. If the daemon or the server dies in between, or the
daemon stops polling at that moment because its agent was disconnected, no process has the activity; nor has any what a killed
daemon had begun. Temporal itself would notice only after the activity's timeout: a minute for most.

Rules of this file

- An activity is abandoned if this process, or an earlier one of the same daemon, has taken it, and the process does not have it
  now. What other daemons have taken is not judged.
- What has just been taken may still be on its way, so only what is found twice, `certain_s` apart, is returned. A mistake would
  do no harm: every activity may be carried out any number of times.
- Lists of open runs are a moment late, so each search is repeated once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from waterflow_agent.errors import Retryable
from waterflowd.temporal.gateway.activity_client import ActivityClient, TakenActivity

logger = logging.getLogger("waterflow.gateway")

#: Open runs that one search looks at. Beyond it, timeouts decide.
RUNS_MAX = 10_000


class Pauses(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in s."""

    #: How long an answer of Temporal may take to arrive in this process.
    certain_s: float = 2.0
    #: Between two searches.
    again_s: float = 4.0
    #: How often Temporal is asked whether it answers: after an outage, starts of activities may be lost.
    probe_s: float = 2.0


PAUSES = Pauses()


class InProgress(Interceptor):
    """What this process carries out at the moment: an interceptor for all of its workers."""

    def __init__(self) -> None:
        self._running: Counter[tuple[str, str]] = Counter()

    def has(self, stream: str, identifier: str) -> bool:
        """Whether the activity of a stream is being carried out here."""
        return (stream, identifier) in self._running

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See `Interceptor`."""
        return _Counting(next, self._running)


class _Counting(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, running: Counter[tuple[str, str]]) -> None:
        super().__init__(following)
        self._running = running

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        if info.is_local:
            return await super().execute_activity(input)
        key = (info.workflow_id or "", info.activity_id)
        self._running[key] += 1
        try:
            return await super().execute_activity(input)
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]


class AbandonedActivities:
    """See the module's docstring."""

    def __init__(
        self,
        activities: ActivityClient,
        identity: str,
        in_progress: InProgress,
        is_attached: Callable[[str, str], bool],
        pauses: Pauses = PAUSES,
    ) -> None:
        """`identity` is that of this process, `DAEMON/PROCESS`; `is_attached` tells of activities that agents carry out."""
        self._activities = activities
        self._identity = identity
        self._daemon = identity.rpartition("/")[0]
        self._in_progress = in_progress
        self._is_attached = is_attached
        self._pauses = pauses
        self._wanted = asyncio.Event()
        #: Since when Temporal has not answered, by the loop's clock; None if it has answered the newest question.
        self.away_since: float | None = None
        #: No search is in progress, or waits for its turn.
        self.is_idle = False

    def look(self) -> None:
        """Something has happened after which activities may be abandoned."""
        self.is_idle = False
        self._wanted.set()

    async def run(self) -> None:
        """Searches at the start, on request and after outages, until it is cancelled."""
        self.look()
        while True:
            try:
                async with asyncio.timeout(self._pauses.probe_s):
                    await self._wanted.wait()
            except TimeoutError:
                await self._probe()
                continue
            self._wanted.clear()
            try:
                await self._search()
                await asyncio.sleep(self._pauses.again_s)
                await self._search()
            except Retryable:
                # After the outage.
                self._note(answered=False)
            self.is_idle = not self._wanted.is_set()

    async def _probe(self) -> None:
        was_away = self.is_away
        self._note(answered=await self._activities.answers())
        if was_away and not self.is_away:
            self.look()

    @property
    def is_away(self) -> bool:
        """Whether Temporal has not answered the newest question."""
        return self.away_since is not None

    def _note(self, *, answered: bool) -> None:
        if answered:
            self.away_since = None
        elif self.away_since is None:
            self.away_since = asyncio.get_running_loop().time()

    async def _search(self) -> None:
        """Raises `Retryable`."""
        candidates = await self._abandoned(await self._activities.open_runs(RUNS_MAX))
        if candidates:
            await asyncio.sleep(self._pauses.certain_s)
            found = candidates & await self._abandoned(list({each.stream for each in candidates}))
            for each in sorted(found):
                logger.info("returning %s of %s to its queue: no process has it", each.identifier, each.stream)
            await asyncio.gather(*(self._activities.give_back_taken(each, "no process had it") for each in found))

    async def _abandoned(self, streams: list[str]) -> set[TakenActivity]:
        taken = await asyncio.gather(*(self._activities.taken(stream) for stream in streams))
        return {each for of_stream in taken for each in of_stream if self._is_abandoned(each)}

    def _is_abandoned(self, taken: TakenActivity) -> bool:
        if taken.identity == self._identity:
            where = (taken.stream, taken.identifier)
            return not self._in_progress.has(*where) and not self._is_attached(*where)
        return bool(self._daemon) and taken.identity.rpartition("/")[0] == self._daemon
