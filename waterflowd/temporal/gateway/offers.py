"""Prepares the offers of attempts: each waits until its agent has a slot for it, and its secrets are read.

Rules of this file

- An attempt that waits is queued: nothing of it has started, its lease and its timeout begin later, and a cancel ends it here.
- The offer is valid for the boot of the server in which it is made. Where the next gateway could not know that, Temporal has
  the boot before the agent has the offer: after a wait, and if the server was rebooted since the turn.
- A wait of `NOTE_AFTER_S` is noted in a heartbeat, and each `HEARTBEAT_S` again. A run hears of one that takes longer than it
  takes to hear of a start.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import msgspec

from waterflow_agent.attempts import AttemptId
from waterflow_agent.errors import Retryable
from waterflow_agent.wire.messages import Task, TaskId
from waterflowd.engine import inputs
from waterflowd.fleet.placement import SlotRequest
from waterflowd.model.reasons import Reason
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders
from waterflowd.temporal.gateway.activity_client import ActivityClient, Lease, confirmed
from waterflowd.temporal.gateway.secret_reader import SecretReader
from waterflowd.temporal.gateway.sessions import Prepared, Session
from waterflowd.temporal.gateway.slots import Slots
from waterflowd.temporal.gateway.waits import Wait, WaitNotices

logger = logging.getLogger("waterflow.gateway")

#: Most attempts get their slot at once, because the job's last step has just freed it.
NOTE_AFTER_S = 1.0
HEARTBEAT_S = 20.0


@dataclass(kw_only=True)
class _Wait(Wait):
    """An attempt that waits."""

    order: orders.TaskOrder
    progress: orders.AttemptProgress
    preparing: asyncio.Task[Task | Reason]
    is_noted: bool = False
    #: Its run has cancelled the activity, or no longer has it.
    is_unwanted: bool = False


class Offers:
    """See the module's docstring."""

    def __init__(self, activities: ActivityClient, slots: Slots, secrets: SecretReader, notices: WaitNotices) -> None:
        self._activities = activities
        self._slots = slots
        self._secrets = secrets
        self._notices = notices

    async def prepare(
        self, session: Session, order: orders.TaskOrder, stored: orders.AttemptProgress, *, was_offered: bool
    ) -> Prepared | Reason | None:
        """Waits for everything that the offer needs; None if the attempt was cancelled meanwhile; or why it is impossible.

        `stored` is its newest heartbeat; `was_offered` is False if that was certainly never done before.
        """
        draft = order.draft.task
        task = draft.key
        if task in session.cancels:
            return None
        # "" if it was never offered.
        boot_id = (draft.boot_id if stored.boot_id is None else stored.boot_id) if was_offered else ""
        preparing = session.preparing[task] = asyncio.create_task(self._task(session, order, was_offered=was_offered))
        progress = stored if boot_id else msgspec.structs.replace(stored, boot_id="")
        wait = _Wait(order=order, progress=progress, preparing=preparing)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._note(session, wait), name=f"heartbeats of {task.attempt}")
            telling = self._notices.tell(task.attempt, wait, lambda: self._cause(task.attempt))
            group.create_task(telling, name=f"wait of {task.attempt}")
            offer = await self._prepared(session, task, wait)
        if not isinstance(offer, Task):
            return offer
        if boot_id:
            return Prepared(msgspec.structs.replace(offer, boot_id=boot_id), stored, wait.is_known)
        here = session.hello.boot_id
        progress = msgspec.structs.replace(stored, boot_id=here)
        must_note = wait.is_noted or stored.boot_id is not None or here != draft.boot_id
        if must_note and not await self._has_boot(session, task, progress):
            return None
        return Prepared(msgspec.structs.replace(offer, boot_id=here), progress, wait.is_known)

    async def _prepared(self, session: Session, task: TaskId, wait: _Wait) -> Task | Reason | None:
        preparing = wait.preparing
        try:
            return await preparing
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if (task in session.cancels or wait.is_unwanted) and current is not None and not current.cancelling():
                return None
            preparing.cancel()
            raise
        finally:
            wait.is_over.set()
            if session.preparing.get(task) is preparing:
                del session.preparing[task]

    async def _task(self, session: Session, order: orders.TaskOrder, *, was_offered: bool) -> Task | Reason:
        task = order.draft.task
        name = task.key.attempt
        obstacle = None if was_offered else await self._secrets.obstacle(name, order.draft.secrets)
        if obstacle is not None:
            return obstacle
        request = SlotRequest(attempt=name, group=task.group, node=task.node, agent=session.agent)
        server = await self._slots.take(request)
        return await self._secrets.fill(order.draft, order.agent, server.instance)

    async def _has_boot(self, session: Session, task: TaskId, progress: orders.AttemptProgress) -> bool:
        """Tells Temporal in which boot the attempt is offered; False if no run waits for it any longer."""
        content = orders.PROGRESS.pack(progress)
        lease = await confirmed(lambda: self._activities.heartbeat(session.agent, task, content))
        return lease is Lease.HELD

    async def _note(self, session: Session, wait: _Wait) -> None:
        """Heartbeats with what the next gateway must know: the attempt was not offered."""
        task = wait.order.draft.task.key
        content = orders.PROGRESS.pack(wait.progress)
        delay_s = NOTE_AFTER_S
        while await wait.lasts(delay_s):
            delay_s = HEARTBEAT_S
            wait.is_noted = True
            try:
                lease = await self._activities.heartbeat(session.agent, task, content)
            except Retryable as error:
                logger.warning("no heartbeat for %s, which waits for a slot: %s", task.attempt, error)
                continue
            if lease is not Lease.HELD and not wait.is_over.is_set():
                wait.is_unwanted = True
                wait.preparing.cancel()
                return

    def _cause(self, name: AttemptId) -> Reason | None:
        return self._slots.reason(name) or self._secrets.delay(name)


def refused(order: orders.TaskOrder, outcome: Outcome, cause: Reason, now: int) -> bytes:
    """The end of an attempt that its agent never got."""
    task = order.draft.task.key
    name = task.attempt
    finished = inputs.TaskFinished(
        job=name.job,
        step=name.step,
        attempt=name.number,
        epoch=task.epoch,
        agent=order.agent,
        outcome=outcome,
        reason_code=cause.code.value,
        reason_text=cause.text,
        started_at=now,
        finished_at=now,
    )
    return orders.INPUTS.pack(finished)
