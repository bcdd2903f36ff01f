"""The local activities that a daemon offers to the shell: a turn, and the check whether a stream fits into a new execution.

Rules of this file: Waterflow's own errors keep their codes, so that the shell can report what stalls a stream. Errors that need
a person are not retried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from temporalio import activity
from temporalio.converter import DataConverter, WorkflowSerializationContext
from temporalio.exceptions import ApplicationError

from waterflow_agent.errors import Rejected, Stalled, WaterflowError
from waterflowd.temporal.sealing.codec import SEALED_BYTES_MAX
from waterflowd.temporal.workflow import messages


class StreamActivities:
    """The activities that a worker for streams must offer."""

    def __init__(self, turn: messages.Turn, converter: DataConverter) -> None:
        self._turn = turn
        self._converter = converter

    @property
    def all(self) -> Sequence[Callable[..., Awaitable[Any]]]:
        """The activities, for the worker."""
        return [self.turn, self.check_size]

    @activity.defn(name=messages.TURN)
    async def turn(self, request: messages.TurnRequest) -> messages.TurnResult:
        """One turn of the engine, but none in an execution that an operator has reset.

        The size of its result is checked here, where an error still has a code.
        """
        run_id = activity.info().workflow_run_id
        if request.run_id != run_id:
            text = "an operator has reset this execution: what came after that point would be done again"
            raise ApplicationError(text, run_id, type=messages.RESET, non_retryable=True)
        try:
            result = await self._turn(request)
            await self._check_size(request.stream, result)
        except WaterflowError as error:
            raise _failure(error) from error
        return result

    @activity.defn(name=messages.CHECK_SIZE)
    async def check_size(self, begin: messages.Begin) -> None:
        """Fails with WF812 when the next execution could not begin with these facts."""
        identifier = activity.info().workflow_id
        assert identifier is not None, "a local activity belongs to a workflow"
        try:
            await self._check_size(identifier, begin)
        except WaterflowError as error:
            raise _failure(error) from error

    async def _check_size(self, stream: str, value: messages.TurnResult | messages.Begin) -> None:
        if len(msgspec.msgpack.encode(value)) <= SEALED_BYTES_MAX:
            return
        context = WorkflowSerializationContext(namespace=activity.info().namespace, workflow_id=stream)
        await self._converter.with_context(context).encode([value])


def _failure(error: WaterflowError) -> ApplicationError:
    return ApplicationError(error.text, type=error.code, non_retryable=isinstance(error, Stalled | Rejected))
