"""What streams cannot do themselves for locks: start the stream of a lock, and find out which runs have ended.

Rules of this file: a daemon may carry out each activity any number of times. A request is a signal that starts the stream if
there is none; Temporal does both or neither, and does not end a stream while a signal for it is being delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from waterflowd.model.ids import RunId, run_stream
from waterflowd.temporal import orders
from waterflowd.temporal.received_orders import check_sender, read
from waterflowd.temporal.workflow import messages

#: Concurrent calls of one look.
_CONCURRENCY = 10


class LockActivities:
    """The activities of the queue `streams` that concern locks."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def all(self) -> Sequence[Callable[..., Awaitable[Any]]]:
        """The activities, for the worker."""
        return [self.lock, self.unlock, self.look]

    @activity.defn(name=orders.LOCK)
    async def lock(self, content: bytes) -> None:
        """Delivers a request, and starts the stream of the lock if there is none."""
        request = read(content, orders.LockOrder).request
        check_sender(request.holder.run)
        await self._client.start_workflow(
            messages.WORKFLOW_TYPE,
            messages.Begin(),
            id=orders.lock_stream(request.repository, request.group),
            task_queue=orders.STREAMS_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            start_signal=messages.INPUT_SIGNAL,
            start_signal_args=[content],
            static_summary=f"concurrency group {request.group}",
        )

    @activity.defn(name=orders.UNLOCK)
    async def unlock(self, content: bytes) -> None:
        """Delivers a release. Without a stream there is no slot to free."""
        order = read(content, orders.UnlockOrder)
        check_sender(order.holder.run)
        handle = self._client.get_workflow_handle(orders.lock_stream(order.repository, order.group))
        try:
            await handle.signal(messages.INPUT_SIGNAL, content)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    @activity.defn(name=orders.LOOK)
    async def look(self, content: bytes) -> bytes:
        """Which of the runs have ended."""
        order = read(content, orders.LookOrder)
        free = asyncio.Semaphore(_CONCURRENCY)

        async def has_ended(run: RunId) -> bool:
            async with free:
                return not await is_open(self._client, run)

        ended = await asyncio.gather(*map(has_ended, order.runs))
        found = tuple(run for run, is_ended in zip(order.runs, ended, strict=True) if is_ended)
        return orders.ORDERS.pack(orders.EndedRuns(runs=found))


async def is_open(client: Client, run: RunId) -> bool:
    """Whether the stream of a run exists, and has not ended."""
    try:
        description = await client.get_workflow_handle(run_stream(run)).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return description.status is WorkflowExecutionStatus.RUNNING
