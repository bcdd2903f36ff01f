"""Calls about the activities of runs, by name: it does not matter which gateway has taken them from their queue.

Rules of this file: a call that Temporal did not confirm raises `Retryable` WF802, and may have had its effect. "Not found"
always means the activity or the run; a missing namespace is an error like a cluster that is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import (
    AsyncActivityCancelledError,
    AsyncActivityHandle,
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.converter import ActivitySerializationContext
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import Retryable
from waterflow_agent.wire.messages import TaskId
from waterflowd.host.agents.attempts import held_attempt
from waterflowd.model.ids import AgentId, RunId, is_run_id, run_stream
from waterflowd.model.records import HeldAttempt
from waterflowd.temporal import orders, updates
from waterflowd.temporal.reading.run_reader import TemporalRunReader
from waterflowd.temporal.reading.stream_reader import RUNS, StreamReader, is_not_found
from waterflowd.temporal.workflow import messages
from waterflowd.temporal.workflow.shell import OPEN_MAX

logger = logging.getLogger("waterflow.gateway")

BACKOFF = Backoff(first_s=0.2, max_s=10.0)
#: Concurrent calls. More would only wait in the cluster.
CALLS_MAX = 100
#: Of one call, with the client's own retries.
CALL_TIMEOUT = timedelta(seconds=10)
#: For the question whether Temporal answers.
ANSWER_TIMEOUT = timedelta(seconds=2)
#: An activity that was returned to its queue waits this long; the queue has a poller again by then, or none for a while.
GIVEN_BACK_DELAY = timedelta(milliseconds=100)
#: The type of the error with which an activity is returned.
AGENT_AWAY = "agent-away"

Found = TypeVar("Found")

_OPEN = (WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW)


class Lease(Enum):
    """What Temporal says to a heartbeat."""

    #: The run waits for the activity.
    HELD = "held"
    #: The run has cancelled it.
    CANCELLED = "cancelled"
    #: No gateway has it: it waits in its queue, or the run no longer has it.
    NOT_FOUND = "not-found"


class OpenActivities(NamedTuple):
    """The activities that an open run waits for."""

    #: Identifies the execution; a run continues as a new one from time to time.
    execution: str
    ids: frozenset[str]
    #: False while the run may be about to schedule more, or is stalled.
    is_complete: bool


class TakenActivity(NamedTuple):
    """An activity that a process has taken from its queue."""

    stream: str
    identifier: str
    #: Of the process, and the number of the attempt that it has taken.
    identity: str
    attempt: int


def away(text: str, delay: timedelta = GIVEN_BACK_DELAY) -> ApplicationError:
    """The error that gives an activity back to its queue."""
    return ApplicationError(text, type=AGENT_AWAY, next_retry_delay=delay, category=ApplicationErrorCategory.BENIGN)


class ActivityClient:
    """See the module's docstring. `client` seals payloads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls = asyncio.Semaphore(CALLS_MAX)
        self._runs = TemporalRunReader(StreamReader(client), {}, lambda: "")

    async def complete(self, agent: AgentId, task: TaskId, result: bytes) -> bool:
        """Completes the activity of an attempt; False if the run does not have it."""
        return await self._is_found(self._task(agent, task).complete(result, rpc_timeout=CALL_TIMEOUT))

    async def heartbeat(self, agent: AgentId, task: TaskId, progress: bytes) -> Lease:
        """Says that the attempt continues; `progress` is what the next gateway gets to know."""
        call = self._task(agent, task).heartbeat(progress, rpc_timeout=CALL_TIMEOUT)
        try:
            return Lease.HELD if await self._is_found(call) else Lease.NOT_FOUND
        except AsyncActivityCancelledError as error:
            # A person may have paused or reset it; then it is still wanted.
            return Lease.CANCELLED if error.details is None or error.details.cancel_requested else Lease.HELD

    async def give_back(self, agent: AgentId, task: TaskId, text: str) -> bool:
        """Returns the activity to its queue; False if no gateway has it. `text` says why."""
        return await self._is_found(self._task(agent, task).fail(away(text), rpc_timeout=CALL_TIMEOUT))

    async def recorded(self, agent: AgentId, tasks: Sequence[TaskId]) -> list[HeldAttempt | None]:
        """Attempts of one run by its facts, which are all read; None for one that the agent did not have under that lease.

        Raises `WaterflowError` if that cannot be known now.
        """
        name = tasks[0].attempt.run
        run = await self._runs.run(name) if is_run_id(name) else None
        found = [None if run is None else held_attempt(run, task.attempt) for task in tasks]
        return [
            held if held is not None and held.is_of(agent, task.epoch) else None
            for task, held in zip(tasks, found, strict=True)
        ]

    async def signal(self, run: RunId, content: bytes) -> bool:
        """Sends an input to a run; False if the run has ended."""
        handle = self._client.get_workflow_handle(run_stream(run))
        return await self._is_found(handle.signal(messages.INPUT_SIGNAL, content, rpc_timeout=CALL_TIMEOUT))

    async def request(self, run: RunId, identifier: str, content: bytes) -> bool:
        """Gives an input to a run and returns when a turn has taken it; False if the run has ended.

        Waits as long as the run is stalled. A repeated call with the same identifier has the same answer.
        """
        handle = self._client.get_workflow_handle(run_stream(run), result_type=bytes)
        try:
            await updates.request(handle, content, identifier)
        except WorkflowUpdateRPCTimeoutOrCancelledError as error:
            raise _unconfirmed(error) from error
        except WorkflowUpdateFailedError as error:
            # The execution ended, or continued as a new one, before a turn took the update.
            return await self._still_open(run, error)
        except RPCError as error:
            if not is_not_found(error):
                raise _unconfirmed(error) from error
            return await self._still_open(run, error)
        return True

    async def _still_open(self, run: RunId, error: Exception) -> bool:
        if await self.look(run) is not None:
            raise _unconfirmed(error) from error
        return False

    async def look(self, run: RunId) -> OpenActivities | None:
        """What an open run waits for; None if the run has ended, or there is none."""
        found = await self._describe(run_stream(run))
        if found is None or found.status not in _OPEN:
            return None
        raw = found.raw_description
        pending = frozenset(each.activity_id for each in raw.pending_activities)
        is_stalled = messages.STALLED_ATTRIBUTE in raw.workflow_execution_info.search_attributes.indexed_fields
        is_complete = not is_stalled and not raw.HasField("pending_workflow_task") and len(pending) < OPEN_MAX
        return OpenActivities(found.run_id, pending, is_complete)

    # Activities of any kind --------------------------------------------------------------------------------------------

    async def answers(self) -> bool:
        """Whether Temporal answers at the moment."""
        try:
            await self._client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=ANSWER_TIMEOUT)
        except RPCError:
            return False
        return True

    async def open_runs(self, limit: int) -> list[str]:
        """The streams of open runs, from a list that is a moment late. Raises `Retryable`."""
        try:
            found = self._client.list_workflows(f"{RUNS} AND ExecutionStatus = 'Running'", limit=limit)
            return [execution.id async for execution in found]
        except RPCError as error:
            raise _unconfirmed(error) from error

    async def taken(self, stream: str) -> list[TakenActivity]:
        """The activities of a stream that processes have taken; none if the stream has ended. Raises `Retryable`."""
        found = await self._describe(stream)
        return [
            TakenActivity(stream, each.activity_id, each.last_worker_identity, each.attempt)
            for each in (found.raw_description.pending_activities if found is not None else ())
            if each.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        ]

    async def give_back_taken(self, taken: TakenActivity, text: str) -> bool:
        """Returns the activity to its queue; False if nobody has it any longer. `text` says why. Raises `Retryable`."""
        handle = self._handle(taken.stream, taken.identifier)
        return await self._is_found(handle.fail(away(text), rpc_timeout=CALL_TIMEOUT))

    async def _describe(self, stream: str) -> WorkflowExecutionDescription | None:
        """None if there is no such workflow. Raises `Retryable`."""
        try:
            async with self._calls:
                return await self._client.get_workflow_handle(stream).describe(rpc_timeout=CALL_TIMEOUT)
        except RPCError as error:
            if is_not_found(error):
                return None
            raise _unconfirmed(error) from error

    def _task(self, agent: AgentId, task: TaskId) -> AsyncActivityHandle:
        return self._handle(run_stream(task.attempt.run), orders.task_activity(task, agent))

    def _handle(self, stream: str, identifier: str) -> AsyncActivityHandle:
        # Payloads are bound to the stream alone.
        context = ActivitySerializationContext(
            namespace=self._client.namespace,
            activity_id=identifier,
            activity_type=None,
            activity_task_queue=None,
            workflow_id=stream,
            workflow_type=messages.WORKFLOW_TYPE,
            is_local=False,
        )
        handle = self._client.get_async_activity_handle(workflow_id=stream, run_id=None, activity_id=identifier)
        return handle.with_context(context)

    async def _is_found(self, call: Coroutine[Any, Any, Any]) -> bool:
        with contextlib.closing(call):
            try:
                async with self._calls:
                    await call
            except RPCError as error:
                if is_not_found(error):
                    return False
                raise _unconfirmed(error) from error
        return True


def _unconfirmed(error: Exception) -> Retryable:
    text = error.message if isinstance(error, RPCError) else str(error)
    return Retryable("WF802", f"the Temporal cluster did not confirm a call: {text or type(error).__name__}")


async def confirmed(call: Callable[[], Awaitable[Found]]) -> Found:
    """The answer of Temporal, however long that takes."""
    failures = 0
    while True:
        try:
            return await call()
        except Retryable as error:
            failures += 1
            log = logger.warning if failures == 1 else logger.debug
            log("will retry: %s", error)
        await asyncio.sleep(BACKOFF.delay_s(failures))
