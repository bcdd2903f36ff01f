"""Fetches content from the daemon in blocks: several are requested at a time, and each is verified."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence

from waterflow_agent.artifacts import content
from waterflow_agent.artifacts.channel import ArtifactChannel
from waterflow_agent.artifacts.content import BlockTable
from waterflow_agent.artifacts.local_protocol import IN_FLIGHT_MAX
from waterflow_agent.errors import Rejected
from waterflow_agent.threads import to_end
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import ArtifactPart

#: Blocks that are written by one call of a thread.
_BATCH = 16


class BlockFetcher:
    """The blocks of one content."""

    def __init__(
        self,
        channel: ArtifactChannel,
        request: Callable[[ArtifactPart, int], messages.ArtifactAction],
        name: str,
        directly: Callable[[int], Awaitable[bytes | None]] | None = None,
    ) -> None:
        """`request` returns what asks for a block; `name` is for errors.

        `directly` reads a block of the content elsewhere; None if the daemon has to be asked.
        """
        self._directly = directly
        self._channel = channel
        self._request = request
        self._name = name

    async def index(self, part: ArtifactPart, digests: Sequence[bytes]) -> bytes:
        """The table or the list of files. Raises `Rejected` WF762 for a damaged block."""
        async with contextlib.aclosing(self._blocks(part, digests)) as blocks:
            return b"".join([block async for block in blocks])

    async def write(
        self, writer: Generator[None, bytes, None], table: BlockTable, on_written: Callable[[int], None]
    ) -> None:
        """Sends the content to a generator that writes files, in other threads. Raises as `index`, and what it raises."""
        # Creates the empty files before the first block.
        await to_end(next, writer, None)
        try:
            async with contextlib.aclosing(self._blocks(ArtifactPart.CONTENT, table.digests())) as blocks:
                batch: list[bytes] = []
                async for block in blocks:
                    batch.append(block)
                    if len(batch) >= _BATCH:
                        await to_end(_feed, writer, batch)
                        batch = []
                    on_written(len(block))
                await to_end(_feed, writer, batch)
        finally:
            writer.close()

    async def _blocks(self, part: ArtifactPart, digests: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Yields the verified blocks in order; several are requested at a time."""
        waiting: deque[asyncio.Task[bytes]] = deque()
        upcoming = enumerate(digests)
        try:
            while True:
                while len(waiting) < IN_FLIGHT_MAX and (item := next(upcoming, None)) is not None:
                    waiting.append(asyncio.create_task(self._block(part, *item)))
                if not waiting:
                    return
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _block(self, part: ArtifactPart, index: int, digest: bytes) -> bytes:
        data = await self._directly(index) if self._directly is not None and part is ArtifactPart.CONTENT else None
        if data is None:
            data = (await self._channel.ask(self._request(part, index), messages.BlockRead)).data
        if content.digest_of(data) != digest:
            raise Rejected("WF762", f"block {index} of {self._name} is damaged")
        return data


def _feed(writer: Generator[None, bytes, None], blocks: Sequence[bytes]) -> None:
    for block in blocks:
        with contextlib.suppress(StopIteration):
            writer.send(block)
