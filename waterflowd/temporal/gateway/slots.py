"""Slots of the agents that are connected here: who waits for one, and who holds one.

Rules of this file

- `fleet/placement.py` decides, unchanged. What it cannot grant waits here, as long as it takes.
- A slot is held from the grant until the attempt has ended. A grant that no attempt has followed for `GRANT_S` is void: the run
  was cancelled, or its turn never saw the grant. An attempt that comes later waits for a slot again.
- What an agent says that it holds occupies its slots, but under a name of its own: an agent must not be able to influence where
  the attempts of others are placed. The attempt's own name is used once its activity has arrived from the agent's queue.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from waterflow_agent.wire.messages import TaskId
from waterflowd.fleet.placement import Placement, Server, SlotRequest
from waterflowd.fleet.registry import Registry
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId
from waterflowd.model.reasons import Reason

#: How long a granted slot waits for its attempt. A turn takes milliseconds.
GRANT_S = 30.0


class Slots:
    """See the module's docstring."""

    def __init__(self, placement: Placement, registry: Registry) -> None:
        self._placement = placement
        self._registry = registry
        #: By attempt: the answer, and how many wait for it. An activity may be delivered twice.
        self._waiting: dict[AttemptId, tuple[asyncio.Future[Server], int]] = {}
        #: By the group or the agent that was requested: how many wait for a slot there.
        self._waiting_for: Counter[str] = Counter()
        self._grants: dict[AttemptId, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()

    async def take(self, request: SlotRequest) -> Server:
        """Waits for a slot. Its attempt must follow within `GRANT_S`."""
        attempt = request.attempt
        if attempt not in self._waiting:
            answer = self._placement.request(request)
            if isinstance(answer, Server):
                self._granted(answer.agent, attempt)
                return answer
        future, count = self._waiting.get(attempt) or (asyncio.get_running_loop().create_future(), 0)
        self._waiting[attempt] = (future, count + 1)
        requested = request.agent or request.group
        self._waiting_for[requested] += 1
        # Its server may be free: it was only queued behind requests that cannot be granted.
        self.assign()
        try:
            return await asyncio.shield(future)
        finally:
            self._waiting_for[requested] -= 1
            self._leave(attempt, future)

    def _leave(self, attempt: AttemptId, future: asyncio.Future[Server]) -> None:
        _, count = self._waiting[attempt]
        if count > 1:
            self._waiting[attempt] = (future, count - 1)
            return
        del self._waiting[attempt]
        if not future.done():
            self._placement.cancel(attempt)

    def assign(self) -> None:
        """Grants free slots to those who wait: servers, groups or requests have changed, or slots were freed."""
        for request, server in self._placement.assign():
            waiting = self._waiting.get(request.attempt)
            if waiting is None:
                self._placement.free(server.agent, request.attempt)
                continue
            self._granted(server.agent, request.attempt)
            if not waiting[0].done():
                waiting[0].set_result(server)
        self._changed.set()
        self._changed = asyncio.Event()

    def reason(self, attempt: AttemptId) -> Reason | None:
        """What the attempt waits for; None if it does not wait for a slot."""
        return self._placement.waiting_reason(attempt)

    async def change(self) -> None:
        """Returns when servers, groups, slots or requests have changed."""
        await self._changed.wait()

    @property
    def next_change(self) -> asyncio.Event:
        """Is set at the next change."""
        return self._changed

    def free_in(self, group: str) -> int:
        """The free slots of the connected agents of a group that may start new jobs."""
        servers = self._placement.servers
        agents = [agent for agent, entry in self._registry.group(group).items() if not entry.is_draining]
        return sum(max(0, servers[agent].free) for agent in agents if agent in servers)

    def waiting_in(self, group: str) -> int:
        """How many requests wait here for any server of the group."""
        return self._waiting_for[group]

    def _granted(self, agent: AgentId, attempt: AttemptId) -> None:
        self._drop_grant(attempt)
        self._grants[attempt] = asyncio.get_running_loop().call_later(GRANT_S, self.free, agent, attempt)

    def _drop_grant(self, attempt: AttemptId) -> None:
        timer = self._grants.pop(attempt, None)
        if timer is not None:
            timer.cancel()

    def hold(self, agent: AgentId, attempt: AttemptId) -> None:
        """The attempt has arrived: its slot is held until it has ended."""
        self._drop_grant(attempt)
        self._placement.hold(agent, attempt)

    def free(self, agent: AgentId, attempt: AttemptId) -> None:
        """The attempt has ended, or never came."""
        self._drop_grant(attempt)
        self._placement.free(agent, attempt)
        self.assign()

    def claim(self, agent: AgentId, task: TaskId) -> None:
        """The agent says that it holds the attempt."""
        self._placement.hold(agent, _claimed(agent, task))

    def drop_claim(self, agent: AgentId, task: TaskId) -> None:
        """The attempt's own name is known, or the agent no longer holds it."""
        self._placement.free(agent, _claimed(agent, task))

    def close(self) -> None:
        """Ends all timers."""
        for timer in self._grants.values():
            timer.cancel()
        self._grants.clear()


def _claimed(agent: AgentId, task: TaskId) -> AttemptId:
    attempt = task.attempt
    return AttemptId(RunId(agent), JobId(f"{attempt.run}/{task.epoch}/{attempt.job}"), attempt.step, attempt.number)
