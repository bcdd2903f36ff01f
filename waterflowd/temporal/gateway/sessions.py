"""The session of an agent, and its attempts: what the agent says that it holds, and what has arrived for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from waterflow_agent.wire.messages import AttemptState, Hello, Task, TaskId
from waterflowd.model.ids import AgentId, AttemptId, RunId
from waterflowd.model.reasons import Reason
from waterflowd.model.records import HeldAttempt
from waterflowd.temporal import orders

#: For each agent: ended attempts whose output may still come, and cancels of attempts that have not arrived yet.
REMEMBERED_MAX = 1_000


class Attempt(msgspec.Struct, kw_only=True):
    """An attempt that an agent has, or is about to get."""

    task: TaskId
    #: Its state at the agent, as far as it is known; None if it was only offered.
    state: AttemptState | None = None
    #: None until its activity has arrived.
    order: orders.TaskOrder | None = None
    progress: orders.AttemptProgress = orders.AttemptProgress()
    #: What to offer, until it was offered; it may contain secrets.
    offer: Task | None = None
    #: The agent's attempt by the facts of its run, if they were asked.
    recorded: HeldAttempt | None = None
    #: The facts say that it is not the agent's.
    is_foreign: bool = False
    #: Its activity is here, and gets heartbeats.
    is_attached: bool = False
    #: The agent is to stop it, because no run waits for it.
    is_unwanted: bool = False
    #: The execution that has not had its activity, and since when, by the loop's clock.
    missed_in: str = ""
    missed_since: float = 0.0
    #: Size of the whole output log by the agent's report of the end.
    output_bytes: int = 0

    #: The run was told that it waits for a slot, and not that it has started.
    is_wait_known: bool = False

    @property
    def is_certain(self) -> bool:
        """Whether not only the agent says that it has the attempt."""
        return self.order is not None or self.recorded is not None

    @property
    def is_open(self) -> bool:
        """Whether a run may wait for it."""
        return self.state is not AttemptState.FINISHED and not self.is_unwanted


class Session:
    """The session of an agent."""

    def __init__(self, agent: AgentId, hello: Hello) -> None:
        self.agent = agent
        self.hello = hello
        self.attempts = {held.key.attempt: Attempt(task=held.key, state=held.state) for held in hello.held}
        #: Attempts whose result the run has, and of which output may still come. Others are in the facts of their runs.
        self.ended: OrderedDict[AttemptId, Attempt] = OrderedDict()
        self.cancels: OrderedDict[TaskId, tuple[bool, str]] = OrderedDict()
        #: Who waits for the activity of an attempt, to leave a cancel with it.
        self.arrivals: dict[TaskId, asyncio.Event] = {}
        #: What prepares the offers of attempts that have arrived.
        self.preparing: dict[TaskId, asyncio.Task[Task | Reason]] = {}
        #: Runs of attempts and directories of the agent that had ended at the handshake.
        self.closed_runs: set[RunId] = set()
        #: Attempts that the agent says it holds, and whose activity has not arrived.
        self.expected = {held.key.attempt for held in hello.held if held.state is not AttemptState.FINISHED}
        self.opened_at = asyncio.get_running_loop().time()
        self.has_ended = asyncio.Event()

    async def arrival(self, task: TaskId, wait_s: float) -> Attempt | None:
        """The attempt once its activity is here; None if it is not after `wait_s`, or the session has ended."""
        arrived = self.arrivals.setdefault(task, asyncio.Event())
        waits = [asyncio.create_task(each.wait()) for each in (arrived, self.has_ended)]
        try:
            await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            self.arrivals.pop(task, None)
        found = self.attempt(task)
        return found if found is not None and found.is_attached and not self.has_ended.is_set() else None

    def note_ended(self, attempt: Attempt) -> None:
        """Remembers for a while an attempt whose result the run has."""
        self.ended[attempt.task.attempt] = attempt
        if len(self.ended) > REMEMBERED_MAX:
            self.ended.popitem(last=False)

    def attempt(self, task: TaskId) -> Attempt | None:
        """The attempt under this lease, if it has not ended."""
        found = self.attempts.get(task.attempt)
        return found if found is not None and found.task == task else None


class Prepared(NamedTuple):
    """An attempt that may be offered now."""

    #: None for an attempt that the agent has.
    offer: Task | None
    progress: orders.AttemptProgress
    #: The run was told that it waits.
    is_wait_known: bool = False
