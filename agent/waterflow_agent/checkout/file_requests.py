"""Requests files from the daemon: a few requests at a time, each repeated in every new session until it is answered."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

from waterflow_agent.errors import Rejected
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId

#: How long the daemon may postpone a response before the checkout fails, in seconds.
PATIENCE_S = 600.0


class FileRequests:
    """The open file requests of one agent. For the loop's thread."""

    def __init__(self, send: Callable[[messages.FileRequest], None]) -> None:
        """`send` may drop a request without a session: `on_opened` sends it again."""
        self._send = send
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[messages.FileRequest, asyncio.Future[messages.FileResponse]]] = {}
        self._window = asyncio.Semaphore(messages.FILE_REQUESTS_MAX)

    async def fetch(self, key: TaskId, blobs: Sequence[bytes], offset: int) -> list[messages.FileChunk]:
        """Returns the chunks of the response, at least one; see `messages.FileRequest`.

        Raises `Rejected` with the daemon's reason when it does not have the files, or did not have them for `PATIENCE_S`.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + PATIENCE_S
        while True:
            response = await self._once(key, blobs, offset)
            if response.chunks and not response.code:
                return response.chunks
            if not response.after_ms or loop.time() >= give_up_at:
                raise Rejected(response.code or "WF751", response.text or "the server sent no files")
            await asyncio.sleep(response.after_ms / 1_000)

    async def _once(self, key: TaskId, blobs: Sequence[bytes], offset: int) -> messages.FileResponse:
        async with self._window:
            number = next(self._numbers)
            request = messages.FileRequest(key, number, list(blobs), offset)
            answer: asyncio.Future[messages.FileResponse] = asyncio.get_running_loop().create_future()
            self._open[number] = (request, answer)
            try:
                self._send(request)
                return await answer
            finally:
                del self._open[number]

    def on_opened(self) -> None:
        """Sends every open request again, in a new session."""
        for request, _ in self._open.values():
            self._send(request)

    def on_response(self, response: messages.FileResponse) -> None:
        """Takes a response. One that is not expected is dropped."""
        _, answer = self._open.get(response.number, (None, None))
        if answer is not None and not answer.done():
            answer.set_result(response)
