"""Appends facts to a shared stream. Implements `ports.StreamWriter`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from temporalio.client import Client

from waterflow_agent.errors import Rejected, Retryable, WaterflowError
from waterflowd.temporal.facts import FactCodec
from waterflowd.temporal.reading.stream_reader import NotFoundError
from waterflowd.temporal.shared_streams.append_turns import ANSWERS, REQUESTS, AppendAnswer, AppendRequest
from waterflowd.temporal.shared_streams.subscriber import StreamSubscriber
from waterflowd.temporal.updates import NoAnswerError, ask

_logger = logging.getLogger("waterflow.temporal")

#: How long an append may take, with all of its repetitions.
APPEND_S_MAX = 30.0
#: How long a daemon waits before it tries again to record its own findings.
KEEP_RETRY_S = 2.0


class SharedStreamWriter:
    """See the port. What the subscriber folds is what `decide` sees."""

    def __init__(self, client: Client, stream: str, codec: FactCodec, subscriber: StreamSubscriber) -> None:
        self._client = client
        self._stream = stream
        self._codec = codec
        self._subscriber = subscriber
        self._one_at_a_time = asyncio.Lock()
        self._keeping: set[asyncio.Task[None]] = set()

    async def append(self, decide: Callable[[], Sequence[Any]]) -> None:
        """See `ports.StreamWriter`. Raises `Retryable` WF802 while the stream does not answer or cannot be followed."""
        try:
            async with asyncio.timeout(APPEND_S_MAX), self._one_at_a_time:
                while not await self._append(decide):
                    pass
        except TimeoutError:
            reason = self._subscriber.problem or "no daemon has answered"
            raise Retryable(
                "WF802", f"the stream {self._stream} was not changed within {APPEND_S_MAX:g} s: {reason}; try again"
            ) from None

    async def _append(self, decide: Callable[[], Sequence[Any]]) -> bool:
        """Whether nothing is left to append."""
        expected = self._subscriber.position
        events = decide()
        if not events:
            return True
        packed = tuple(self._codec.pack(event.at, event) for event in events)
        content = REQUESTS.pack(AppendRequest(expected=expected, facts=packed))
        try:
            answer: AppendAnswer = ANSWERS.unpack(await ask(self._client, self._stream, content))
        except (NotFoundError, NoAnswerError, Retryable):
            # The facts may be recorded, or not: `decide` knows when everything was folded.
            await self._subscriber.caught_up()
            return False
        if answer.refusal:
            raise Rejected("WF813", answer.refusal, status=507)
        await self._subscriber.reached(answer.position)
        return answer.is_appended

    def keep(self, decide: Callable[[], Sequence[Any]]) -> None:
        """See `ports.StreamWriter`."""
        task = asyncio.get_running_loop().create_task(self._keep(decide), name=f"append to {self._stream}")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep(self, decide: Callable[[], Sequence[Any]]) -> None:
        while True:
            try:
                await self.append(decide)
            except Retryable:
                await asyncio.sleep(KEEP_RETRY_S)
            except WaterflowError as error:
                _logger.error("not recorded in the stream %s: %s", self._stream, error)
                return
            else:
                return
