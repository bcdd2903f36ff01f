"""Reads streams from Temporal: what an execution began with, and the facts in its markers.

Rules of this file: the latest execution of a stream holds everything, because each execution begins with all facts so far. A
marker is read only if it is the result of a turn. What a daemon has not sealed is never a fact.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from temporalio.api.common.v1 import Memo
from temporalio.api.enums.v1 import EventType
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle
from temporalio.converter import DataConverter, WorkflowSerializationContext
from temporalio.service import RPCError, RPCStatusCode

from waterflow_agent.errors import Retryable, Stalled
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.plan import content_hash
from waterflowd.temporal.workflow import messages

#: The query for the workflows of runs.
RUNS = f"WorkflowType = '{messages.WORKFLOW_TYPE}' AND WorkflowId STARTS_WITH '{run_stream(RunId(''))}'"
#: Ended streams in memory.
STREAMS_CACHED = 64
#: Plans of runs that were read, in memory.
PLANS_CACHED = 64

_CLOSED = frozenset(
    (
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
    )
)


class Stored(NamedTuple):
    """A stream as it is stored at the moment."""

    subject: bytes
    facts: list[bytes]
    #: When its workflow ended without a last turn, in ms: an operator has ended it. 0 otherwise.
    terminated_at: int = 0


class StreamEvent(NamedTuple):
    """One event of a stream's execution."""

    #: From 1, without gaps.
    number: int
    #: What it recorded.
    facts: list[bytes]
    #: Whether these are all facts of the stream so far.
    replaces: bool
    #: Whether the stream has ended; otherwise it may continue as a new execution.
    is_end: bool = False


class StreamReader:
    """Reads streams. A stream that has ended is kept in memory for a while."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ended: OrderedDict[str, Stored] = OrderedDict()
        self._plans: OrderedDict[str, bytes] = OrderedDict()

    async def read(self, stream: str) -> Stored | None:
        """The stream; None if there is none. Raises `Retryable` WF802 while the cluster does not answer."""
        found = self._ended.get(stream)
        if found is not None:
            self._ended.move_to_end(stream)
            return found
        has_ended, terminated_at = False, 0
        try:
            with reported():
                async for event in self._handle(stream).fetch_history_events():
                    has_ended, terminated_at = event.event_type in _CLOSED, _terminated_at(event)
                    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                        begin = await self._begin(stream, event)
                        found = Stored(begin.subject, list(begin.facts))
                        self._keep_plan(begin.subject)
                    elif found is not None and (result := await self._result(stream, event)) is not None:
                        if result.is_snapshot:
                            found.facts.clear()
                        found.facts.extend(result.facts)
        except NotFoundError:
            return None
        if found is not None and has_ended:
            found = found._replace(terminated_at=terminated_at)
            self._ended[stream] = found
            if len(self._ended) > STREAMS_CACHED:
                self._ended.popitem(last=False)
        return found

    def plan(self, plan_hash: str) -> bytes | None:
        """The plan with this hash, if a run that was read lately has it."""
        return self._plans.get(plan_hash)

    def _keep_plan(self, subject: bytes) -> None:
        if subject:
            self._plans[content_hash(subject)] = subject
        if len(self._plans) > PLANS_CACHED:
            self._plans.popitem(last=False)

    async def follow(self, stream: str) -> AsyncIterator[list[bytes]]:
        """All facts of the latest execution, as they are recorded: first those that it began with. Ends with the execution.

        Raises `EndedError` when the stream has ended, `Retryable` WF802 when the cluster does not answer, and `NotFoundError`
        for an unknown stream.
        """
        async for event in self.follow_events(stream):
            if event.is_end:
                raise EndedError
            if event.facts or event.replaces:
                yield event.facts

    async def follow_events(self, stream: str, execution: str | None = None) -> AsyncIterator[StreamEvent]:
        """Every event of an execution, by default the latest one, as it is recorded. Ends with the execution.

        Raises as `follow` does.
        """
        with reported():
            async for event in self._handle(stream, execution).fetch_history_events(wait_new_event=True):
                if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                    yield StreamEvent(event.event_id, (await self._begin(stream, event)).facts, replaces=True)
                elif (result := await self._result(stream, event)) is not None:
                    yield StreamEvent(event.event_id, result.facts, replaces=result.is_snapshot)
                else:
                    is_end = event.event_type in _CLOSED
                    yield StreamEvent(event.event_id, [], replaces=False, is_end=is_end)

    def _handle(self, stream: str, execution: str | None = None) -> WorkflowHandle[object, object]:
        return self._client.get_workflow_handle(stream, run_id=execution)

    async def _begin(self, stream: str, event: HistoryEvent) -> messages.Begin:
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        [begin] = await bound(self._client, stream).decode(payloads, [messages.Begin])
        if not isinstance(begin, messages.Begin):
            raise Stalled("WF810", f"the beginning of the stream {stream} was not sealed by a daemon")
        return begin

    async def _result(self, stream: str, event: HistoryEvent) -> messages.TurnResult | None:
        """The result of a turn; None for every other event."""
        if event.event_type != EventType.EVENT_TYPE_MARKER_RECORDED:
            return None
        details = event.marker_recorded_event_attributes.details
        if "result" not in details or not _is_turn(details["data"].payloads[0].data):
            return None
        [result] = await bound(self._client, stream).decode(details["result"].payloads, [messages.TurnResult])
        return result if isinstance(result, messages.TurnResult) else None


def _is_turn(data: bytes) -> bool:
    return bool(json.loads(data)["activity_type"] == messages.TURN)


def _terminated_at(event: HistoryEvent) -> int:
    """When a workflow ended without a last turn, in ms; 0 for another event."""
    is_cut = event.event_type in _CLOSED and event.event_type != EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
    return event.event_time.ToMilliseconds() if is_cut else 0


class EndedError(Exception):
    """The stream has ended."""


class NotFoundError(Exception):
    """There is no such workflow, or it has ended."""


def is_not_found(error: RPCError) -> bool:
    """Whether a call failed because there is no such workflow or activity; a missing namespace is an outage."""
    return error.status is RPCStatusCode.NOT_FOUND and not any(
        detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in error.grpc_status.details
    )


@contextmanager
def reported() -> Iterator[None]:
    """Raises `Retryable` WF802 when a call to the cluster fails, and `NotFoundError` for a workflow that does not exist."""
    try:
        yield
    except RPCError as error:
        if is_not_found(error):
            raise NotFoundError(error.message) from error
        raise Retryable(
            "WF802", f"the Temporal cluster does not answer: {error.message}; next: check the cluster"
        ) from error


async def stalled_text(client: Client, stream: str, memo: Memo) -> str:
    """Why a stream is stalled; empty if it is not. Raises what the codec raises."""
    payload = memo.fields.get(messages.STALLED_MEMO)
    if payload is None:
        return ""
    [text] = await bound(client, stream).decode([payload], [str])
    return str(text or "")


def bound(client: Client, stream: str) -> DataConverter:
    """The converter for the payloads of one stream."""
    return client.data_converter.with_context(
        WorkflowSerializationContext(namespace=client.namespace, workflow_id=stream)
    )
