"""Fetches files that are larger than a response: a few parts ahead, in order, into a file on disk.

Theory: a part is requested by its offset, and no state is kept by the daemon. So a lost session repeats only the requests in
flight, and what an earlier process has received is not requested again. The requests of all files share one window, so a large
file delays others by a few parts only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from waterflow_agent.errors import Rejected
from waterflow_agent.threads import to_end
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import FileChunk, TaskId

if TYPE_CHECKING:
    from waterflow_agent.checkout.file_requests import FileRequests
    from waterflow_agent.checkout.incoming_files import IncomingFile


async def receive(requests: FileRequests, key: TaskId, file: IncomingFile) -> None:
    """Returns when all of a file has arrived and has its Git id.

    Raises `Rejected`: WF752 if it is another file, WF750 for a part that does not fit, and what `FileRequests.fetch` raises.
    Raises `OSError`.
    """
    await _receive_rest(requests, key, file)
    if not file.is_right() and file.is_continued:
        # A power cut may have damaged what an earlier process has received.
        await to_end(file.restart)
        await _receive_rest(requests, key, file)
    if not file.is_right():
        raise Rejected("WF752", f"the server sent the wrong content for file {file.blob.hex()}")


async def _receive_rest(requests: FileRequests, key: TaskId, file: IncomingFile) -> None:
    ahead: deque[asyncio.Task[list[FileChunk]]] = deque()
    try:
        while file.left:
            asked = file.offset + len(ahead) * messages.FILE_RESPONSE_BYTES_MAX
            while len(ahead) < messages.FILE_REQUESTS_MAX and asked < file.size:
                ahead.append(asyncio.create_task(requests.fetch(key, [file.blob], asked), name="fetch-part"))
                asked += messages.FILE_RESPONSE_BYTES_MAX
            chunk = (await ahead[0])[0]
            ahead.popleft()
            check(chunk, file.size)
            if len(chunk.data) > file.left:
                raise Rejected("WF750", f"the server sent more than the {file.size} bytes of a file")
            await to_end(file.append, chunk.data)
            if len(chunk.data) != messages.FILE_RESPONSE_BYTES_MAX:
                # The end, or a shorter part than usual, after which those ahead do not follow.
                await _cancel(ahead)
    finally:
        await _cancel(ahead)


async def _cancel(tasks: deque[asyncio.Task[list[FileChunk]]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()


def check(chunk: FileChunk, bytes_max: int) -> None:
    """Raises `Rejected` WF750 for a part without progress, or of a file that is too large."""
    if not chunk.data or chunk.size > bytes_max:
        text = f"the server sent {len(chunk.data)} bytes of a file of {chunk.size} bytes; the limit is {bytes_max}"
        raise Rejected("WF750", text)
