"""Sends content in blocks: reads files once, and sends what is not stored yet to the daemon, or to its bucket."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence

import msgspec

from waterflow_agent.artifacts import content
from waterflow_agent.artifacts.channel import ArtifactChannel
from waterflow_agent.artifacts.content import BlockCutter
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes.artifacts.bucket import AddressExpired, BucketClient, Unreachable
from waterflow_agent.nodes.node import NodeFailure
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import BlockAddress

#: Blocks that are read, hashed and asked about together: 16 MiB. The next ones are read meanwhile.
_BATCH = 64
_READ_BYTES = 1 << 20
#: Addresses for one block, each of which is valid for minutes.
_ADDRESSES_MAX = 3
#: Digest and data.
Block = tuple[bytes, bytes]


class BlockSender:
    """Stores blocks at the other end of a channel."""

    def __init__(self, channel: ArtifactChannel, bucket: BucketClient | None = None) -> None:
        """`bucket` is None for a cache, which is never in one."""
        self._channel = channel
        self._bucket = bucket
        #: Bytes that the other end did not have.
        self.sent = 0

    async def send(
        self, blocks: Generator[Block, None, None], on_stored: Callable[[int], None]
    ) -> list[tuple[bytes, int]]:
        """Stores all blocks; returns their digests and sizes. `on_stored` gets the size of what was stored."""
        stored: list[tuple[bytes, int]] = []
        pending = asyncio.ensure_future(asyncio.to_thread(_take, blocks))
        try:
            while batch := await pending:
                pending = asyncio.ensure_future(asyncio.to_thread(_take, blocks))
                await self._store(batch)
                stored += [(digest, len(data)) for digest, data in batch]
                on_stored(sum(len(data) for _, data in batch))
        finally:
            # The thread must not read on while the generator is closed.
            await asyncio.gather(pending, return_exceptions=True)
            blocks.close()
        return stored

    async def send_index(self, blob: bytes) -> list[bytes]:
        """Stores a table or a list of files; returns the digests of its blocks."""
        batch = [(content.digest_of(block), block) for block in content.index_blocks(blob)]
        await self._store(batch)
        return [digest for digest, _ in batch]

    async def _store(self, batch: Sequence[Block]) -> None:
        if not batch:
            return
        by_digest = dict(batch)
        digests = list(by_digest)
        found = await self._find(digests, [len(data) for data in by_digest.values()])
        positions = [position for position in found.positions if 0 <= position < len(digests)]
        missing = [digests[position] for position in positions]
        addresses = itertools.chain(found.addresses, itertools.repeat(None))
        waiting = [
            asyncio.create_task(self._store_one(digest, by_digest[digest], address))
            for digest, address in zip(missing, addresses, strict=False)
        ]
        try:
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _find(self, digests: list[bytes], sizes: list[int]) -> messages.MissingBlocks:
        can_store = self._bucket is not None and self._bucket.is_usable
        action = messages.FindBlocks(digests, sizes if can_store else [], self._bucket is None)
        return await self._channel.ask(action, messages.MissingBlocks)

    async def _store_one(self, digest: bytes, data: bytes, address: BlockAddress | None) -> None:
        if address is None or not await self._store_directly(digest, data, address):
            action = messages.StoreBlock(digest, data, self._bucket is None)
            await self._channel.ask(action, messages.ArtifactAccepted)
        self.sent += len(data)

    async def _store_directly(self, digest: bytes, data: bytes, address: BlockAddress) -> bool:
        """Stores a block in the bucket; False if the daemon has to do it."""
        if self._bucket is None:
            return False
        for _ in range(_ADDRESSES_MAX):
            try:
                await self._bucket.store(address, data)
                return True
            except Unreachable:
                return False
            except AddressExpired as error:
                refused = str(error)
            found = await self._find([digest], [len(data)])
            if not found.positions:
                return True
            if not found.addresses:
                return False
            address = found.addresses[0]
        raise Rejected(
            "WF764", f"{refused} for {_ADDRESSES_MAX} addresses in turn; check the policy of the daemon's key"
        )


def _take(blocks: Iterator[Block]) -> list[Block]:
    return list(itertools.islice(blocks, _BATCH))


class FileStatus(msgspec.Struct, frozen=True):
    """A file when it was read, and how much was read of it."""

    size: int
    mode: int
    modified_ns: int


def blocks_of_file(path: str, cutter: BlockCutter, folder: int | None = None) -> Generator[Block, None, FileStatus]:
    """Yields the blocks that end in a file; the path is relative to the folder. Raises `OSError` and `NodeFailure`."""
    # Not blocking: the path may be a pipe by now.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise NodeFailure(f"{escape_for_display(path, 200)} is not a regular file any longer")
        yield from _digested(cutter.begin_file(status.st_size))
        size = 0
        # What is appended meanwhile is not read: a log that grows would never end.
        while size < status.st_size and (data := os.read(file, min(_READ_BYTES, status.st_size - size))):
            size += len(data)
            yield from _digested(cutter.feed(data))
        yield from _digested(cutter.end_file(path))
    finally:
        os.close(file)
    return FileStatus(size, status.st_mode, status.st_mtime_ns)


def end_of_blocks(cutter: BlockCutter) -> Iterator[Block]:
    """Yields the last block."""
    return _digested(cutter.end())


def _digested(blocks: Iterator[bytes]) -> Iterator[Block]:
    return ((content.digest_of(block), block) for block in blocks)
