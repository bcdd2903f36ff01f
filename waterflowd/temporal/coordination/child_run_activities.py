"""What streams cannot do themselves for child runs: compile their workflows and start them, and find out how they have ended.

Rules of this file:

- A daemon may carry out each activity any number of times: the order names the run that is started.
- A permanent error fails the step. A temporary one is reported to the parent, as the step's reason to wait, and Temporal
  retries the activity until the step, its job or its run times out.
- After the start, the activity asks Temporal whether it is still wanted; if not, it cancels what it has started.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import AsyncActivityCancelledError, Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from waterflow_agent.errors import Rejected, Retryable, WaterflowError
from waterflowd import ports
from waterflowd.admin.ports import RunReader
from waterflowd.engine import inputs
from waterflowd.host import child_runs
from waterflowd.model.ids import RunId, run_stream
from waterflowd.temporal import orders
from waterflowd.temporal.coordination.lock_activities import is_open
from waterflowd.temporal.received_orders import check_sender, read
from waterflowd.temporal.runs import TemporalRuns
from waterflowd.temporal.workflow import messages

#: The longest pause before a start is tried again.
_RETRY_S_MAX = 60.0


class ChildRunActivities:
    """The activities of the queue `streams` that concern child runs."""

    def __init__(self, client: Client, runs: TemporalRuns, reader: RunReader, workflows: ports.ChildWorkflows) -> None:
        self._client = client
        self._runs = runs
        self._reader = reader
        self._workflows = workflows

    @property
    def all(self) -> Sequence[Callable[..., Awaitable[Any]]]:
        """The activities, for the worker."""
        return [self.start, self.look]

    @activity.defn(name=orders.START_CHILD_RUN)
    async def start(self, content: bytes) -> bytes:
        """Starts the child run."""
        order = read(content, orders.ChildRunOrder)
        check_sender(order.attempt.run)
        assert order.request.repository is not None, "the turn refuses runs without a repository"
        assert order.request.revision is not None, "a run of a repository has a revision"
        try:
            compiled = await self._workflows.plan(order.request.repository, order.request.revision, order.path)
            request = child_runs.with_plan(order.request, compiled, order.arguments)
            row = await self._runs.start(request, order.child)
        except WaterflowError as error:
            if isinstance(error, Rejected) and not error.is_limit:
                refused = child_runs.not_started(order.attempt, child_runs.refusal(error), is_refused=True)
                return orders.INPUTS.pack(refused)
            raise await self._later(order, error) from error
        await self._cancel_if_unwanted(order, row.id)
        return orders.INPUTS.pack(child_runs.started(order.attempt, row))

    async def _later(self, order: orders.ChildRunOrder, error: WaterflowError) -> ApplicationError:
        """Shows why the step waits, once for each reason; returns the error with which Temporal tries again."""
        details = activity.info().heartbeat_details
        if not details or details[0] != str(error).encode():
            activity.heartbeat(str(error).encode())
            report = child_runs.not_started(order.attempt, child_runs.delay(error), is_refused=False)
            await self._tell(order.attempt.run, report)
        after_s = error.after_s if isinstance(error, Retryable | Rejected) else 0.0
        pause = timedelta(seconds=min(after_s, _RETRY_S_MAX)) if after_s else None
        return ApplicationError(error.text, type=error.code, next_retry_delay=pause)

    async def _cancel_if_unwanted(self, order: orders.ChildRunOrder, child: RunId) -> None:
        info = activity.info()
        handle = self._client.get_async_activity_handle(
            workflow_id=info.workflow_id or "", run_id=info.workflow_run_id, activity_id=info.activity_id
        )
        try:
            await handle.heartbeat()
        except AsyncActivityCancelledError:
            await self._tell(child, child_runs.cancel(order.attempt.run, is_forced=False))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            # The parent has ended, or continues as a new execution, which starts the same child run again.
            if not await is_open(self._client, order.attempt.run):
                await self._tell(child, child_runs.cancel(order.attempt.run, is_forced=False))

    async def _tell(self, run: RunId, item: inputs.Input) -> None:
        """Sends a run an input, unless it has ended."""
        try:
            handle = self._client.get_workflow_handle(run_stream(run))
            await handle.signal(messages.INPUT_SIGNAL, orders.INPUTS.pack(item))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    @activity.defn(name=orders.LOOK_AT_CHILD_RUN)
    async def look(self, content: bytes) -> bytes:
        """How the child run has ended; nothing while it is open."""
        order = read(content, orders.ChildLookOrder)
        if await is_open(self._client, order.child):
            return b""
        run = await self._reader.run(order.child)
        if run is None:
            return orders.INPUTS.pack(child_runs.missing(order.attempt, order.child))
        if run.is_completed:
            return orders.INPUTS.pack(child_runs.ended(order.attempt, run))
        return orders.INPUTS.pack(child_runs.terminated(order.attempt, order.child))
