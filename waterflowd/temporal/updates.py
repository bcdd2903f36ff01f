"""Requests to streams whose senders wait for the answer of a turn."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError

from waterflowd.temporal.reading.stream_reader import NotFoundError, reported
from waterflowd.temporal.workflow import messages

#: How long a request waits for the turn that answers it.
ANSWER_S_MAX = 20.0
#: A request whose execution has ended meanwhile is repeated, because the stream may have continued as a new one.
_REPEATS = 5
_REPEAT_S = 0.1


class NoAnswerError(Exception):
    """No turn has answered in time: the stream may still take the request."""


async def ask(client: Client, stream: str, content: bytes) -> bytes:
    """The answer of a stream's turn to a request.

    Raises `NotFoundError` for a stream that is not open, `NoAnswerError`, and `Retryable` WF802 while the cluster does not
    answer: in both of the latter cases the stream may have taken the request.
    """
    handle = client.get_workflow_handle(stream)
    for _ in range(_REPEATS):
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                with reported():
                    return await request(handle, content)
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
            raise NoAnswerError(stream) from error
        except WorkflowUpdateFailedError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == "ended":
                raise NotFoundError(f"{stream} has ended") from error
            await asyncio.sleep(_REPEAT_S)
    raise NoAnswerError(stream)


async def request(handle: WorkflowHandle[Any, Any], content: bytes, identifier: str | None = None) -> bytes:
    """The answer of a turn, however long it takes. Raises what `WorkflowHandle.execute_update` raises.

    A repeated request with the same identifier has the same answer.
    """
    try:
        answer: bytes = await handle.execute_update(messages.REQUEST_UPDATE, content, id=identifier, result_type=bytes)
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        if isinstance(error.__cause__, asyncio.CancelledError):
            # Temporal's client reports that its caller was cancelled as if the call had timed out. Who asks again after a
            # timeout could never be stopped.
            raise error.__cause__ from None
        raise
    return answer
