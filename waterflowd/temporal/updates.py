"""Requests to streams whose senders wait for the answer of a turn."""

from __future__ import annotations

import asyncio

from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
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
                    answer: bytes = await handle.execute_update(messages.REQUEST_UPDATE, content, result_type=bytes)
                    return answer
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # Temporal's client turns every cancel into an error, also that of a caller.
                raise asyncio.CancelledError from error
            raise NoAnswerError(stream) from error
        except WorkflowUpdateFailedError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == "ended":
                raise NotFoundError(f"{stream} has ended") from error
            await asyncio.sleep(_REPEAT_S)
    raise NoAnswerError(stream)
