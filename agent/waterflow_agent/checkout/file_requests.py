"""Requests files from the daemon: a few requests at a time, each repeated in every new session until it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from waterflow_agent.errors import Rejected
from waterflow_agent.session.request_window import RequestWindow
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId

#: How long the daemon may postpone a response before the checkout fails, in seconds.
PATIENCE_S = 600.0


class FileRequests:
    """The open file requests of one agent. For the loop's thread."""

    def __init__(self, send: Callable[[messages.FileRequest], None]) -> None:
        """`send` may drop a request without a session: `on_opened` sends it again."""
        self._window: RequestWindow[messages.FileRequest, messages.FileResponse] = RequestWindow(
            send, messages.FILE_REQUESTS_MAX
        )

    async def fetch(self, key: TaskId, blobs: Sequence[bytes], offset: int) -> list[messages.FileChunk]:
        """Returns the chunks of the response, at least one; see `messages.FileRequest`.

        Raises `Rejected` with the daemon's reason when it does not have the files, or did not have them for `PATIENCE_S`.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + PATIENCE_S
        while True:
            response = await self._window.ask(lambda number: messages.FileRequest(key, number, list(blobs), offset))
            if response.chunks and not response.code:
                return response.chunks
            if not response.after_ms or loop.time() >= give_up_at:
                raise Rejected(response.code or "WF751", response.text or "the server sent no files")
            await asyncio.sleep(response.after_ms / 1_000)

    def on_opened(self) -> None:
        """Sends every open request again, in a new session."""
        self._window.on_opened()

    def on_response(self, response: messages.FileResponse) -> None:
        """Takes a response. One that is not expected is dropped."""
        self._window.on_response(response.number, response)
