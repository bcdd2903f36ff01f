"""Asks runs whether an attempt is the agent's, when output of it was sent by an agent that is not known to have it.

Rules of this file: the recorded facts answer, which may mean to read a whole run. So each agent has one question at a time,
about one run, and there are only a few questions altogether; an agent that claimed what it does not have waits before its next
one. Output is not kept meanwhile: the answer tells the agent where to continue. Without an answer it sends its output again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from waterflow_agent.errors import WaterflowError
from waterflow_agent.wire.messages import TaskId
from waterflowd.model.ids import AgentId
from waterflowd.model.records import HeldAttempt

logger = logging.getLogger("waterflow.host")

#: Attempts of one agent that wait for an answer; it sends the output of others again.
WAITING_MAX = 1_000
#: Runs that are read at the same time.
QUESTIONS_MAX = 4
#: Before the next question about an agent that does not have what it claimed. Others never claim such a thing.
FOREIGN_PAUSE_S = 1.0

#: `ports.Attempts.confirm`.
Confirm = Callable[[AgentId, Sequence[TaskId]], Awaitable[list[HeldAttempt | None]]]
#: Takes an answer: the attempt, if it is the agent's, and the end of the output that was sent of it.
Answered = Callable[[AgentId, TaskId, HeldAttempt | None, int], None]


class OutputOwners:
    """See the module's docstring."""

    def __init__(self, confirm: Confirm, answered: Answered) -> None:
        self._confirm = confirm
        self._answered = answered
        #: For each agent with questions: its attempts, with the end of the output that was sent.
        self._waiting: dict[AgentId, dict[TaskId, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions = asyncio.Semaphore(QUESTIONS_MAX)

    def ask(self, agent: AgentId, key: TaskId, end: int) -> None:
        """The agent has sent output of the attempt up to `end`. Calls back once it is known whether it has the attempt."""
        waiting = self._waiting.get(agent)
        if waiting is None:
            waiting = self._waiting[agent] = {}
            task = asyncio.create_task(self._ask_all(agent, waiting), name=f"output of {agent}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if key in waiting or len(waiting) < WAITING_MAX:
            waiting[key] = max(end, waiting.get(key, 0))

    async def _ask_all(self, agent: AgentId, waiting: dict[TaskId, int]) -> None:
        try:
            while waiting:
                run = next(iter(waiting)).attempt.run
                keys = [key for key in waiting if key.attempt.run == run]
                found = await self._ask(agent, keys)
                for key, attempt in found.items():
                    self._answered(agent, key, attempt, waiting[key])
                for key in keys:
                    del waiting[key]
                if None in found.values():
                    await asyncio.sleep(FOREIGN_PAUSE_S)
        finally:
            del self._waiting[agent]

    async def _ask(self, agent: AgentId, keys: list[TaskId]) -> dict[TaskId, HeldAttempt | None]:
        """Empty if it cannot be known now."""
        try:
            async with self._questions:
                found = await self._confirm(agent, keys)
        except WaterflowError as error:
            logger.warning("cannot find out yet whether agent %s has %s: %s", agent, keys[0].attempt, error)
            return {}
        return dict(zip(keys, found, strict=True))
