"""Asks the daemon for files: a few questions at a time, each asked again in every new session until it has its answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

from waterflow_agent.errors import Rejected
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId

#: How long the daemon may say "not now" before the files count as not to be had, in seconds.
PATIENCE_S = 600.0


class FileRequests:
    """The questions of one agent that have no answer yet. For the loop's thread."""

    def __init__(self, send: Callable[[messages.FileRequest], None]) -> None:
        """`send` may drop a question without a session: `on_opened` sends it again."""
        self._send = send
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[messages.FileRequest, asyncio.Future[messages.FileResponse]]] = {}
        self._window = asyncio.Semaphore(messages.FILE_REQUESTS_MAX)

    async def ask(self, key: TaskId, blobs: Sequence[bytes], offset: int) -> list[messages.FileChunk]:
        """The answer's pieces, at least one; see `messages.FileRequest`.

        Raises `Rejected` with the daemon's words when it has not got them, or had not for `PATIENCE_S`.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + PATIENCE_S
        while True:
            content = await self._once(key, blobs, offset)
            if content.chunks and not content.code:
                return content.chunks
            if not content.after_ms or loop.time() >= give_up_at:
                raise Rejected(content.code or "WF751", content.text or "the server sent nothing")
            await asyncio.sleep(content.after_ms / 1_000)

    async def _once(self, key: TaskId, blobs: Sequence[bytes], offset: int) -> messages.FileResponse:
        async with self._window:
            number = next(self._numbers)
            wanted = messages.FileRequest(key, number, list(blobs), offset)
            answer: asyncio.Future[messages.FileResponse] = asyncio.get_running_loop().create_future()
            self._open[number] = (wanted, answer)
            try:
                self._send(wanted)
                return await answer
            finally:
                del self._open[number]

    def on_opened(self) -> None:
        """A session is open: what was asked before is asked again."""
        for wanted, _ in self._open.values():
            self._send(wanted)

    def on_response(self, response: messages.FileResponse) -> None:
        """An answer has come; one that nobody waits for is dropped."""
        _, answer = self._open.get(response.number, (None, None))
        if answer is not None and not answer.done():
            answer.set_result(response)
