"""Carries out what agents ask for, with blocks in the bucket.

Rules of this file:

- Agents store and read blocks by themselves, at addresses that the daemon has signed. An agent that cannot, because it is
  older or does not reach the bucket, sends them to the daemon, which passes them on.
- An address is signed only after the same checks as for a block that the daemon handles itself, and its size is counted.
- Nothing that an agent says is believed: a commit looks for every block in the bucket, and compares the sizes. The service has
  compared the SHA-256 (`checking.py` makes sure that it does; otherwise blocks to store go through the daemon).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from waterflow_agent.artifacts.content import BlockTable, digest_of
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import ARTIFACT_ADDRESSES_MAX, ArtifactPart
from waterflowd.artifacts.bucket.blocks import BucketBlocks
from waterflowd.artifacts.limits import check_total
from waterflowd.artifacts.records import ArtifactRecord
from waterflowd.artifacts.storage import StoreThreads
from waterflowd.artifacts.store import ArtifactStore, block_of, blocks_gone, check_table_blocks
from waterflowd.model.ids import AttemptId

#: Threads that read from the bucket for downloads through the API.
READERS = 4


class BucketStorage:
    """Implements `Storage`."""

    def __init__(self, store: ArtifactStore, blocks: BucketBlocks, threads: StoreThreads) -> None:
        self.threads = threads
        self.blocks = blocks
        #: Why the bucket cannot be used; empty if it can.
        self.problem = ""
        #: Whether the service refuses content with another SHA-256 than the signed one.
        self.has_verified_uploads = False
        #: Requests wait for the first result of the check: the daemon has just started.
        self.is_checked = asyncio.Event()
        self.store = store
        #: Whether something was refused because the bucket is full; the cleaner measures anew.
        self.is_full = False
        self._stored_bytes: int | None = None

    async def begin(self, name: AttemptId, action: messages.BeginArtifact, now: int) -> None:
        """See `Storage`."""
        await self._check_usable()
        await self.threads.write(lambda: self.store.begin(name, action, now))
        await self._check_total(0)

    async def find(
        self, scope: str, action: messages.FindBlocks, allow: Callable[[int], None]
    ) -> messages.MissingBlocks:
        """See `Storage`."""
        await self._check_usable()
        found = await self.blocks.sizes(scope, action.blocks)
        missing = [number for number, size in enumerate(found) if size is None]
        if not self.has_verified_uploads or len(action.sizes) != len(action.blocks):
            return messages.MissingBlocks(missing)
        signed = missing[:ARTIFACT_ADDRESSES_MAX]
        size = sum(action.sizes[number] for number in signed)
        allow(size)
        await self._check_total(size)
        self._count(size)
        addresses = [self.blocks.store_address(scope, action.blocks[number], action.sizes[number]) for number in signed]
        return messages.MissingBlocks(missing, addresses)

    async def put(self, scope: str, action: messages.StoreBlock) -> None:
        """See `Storage`."""
        await self._check_usable()
        if digest_of(action.data) != action.block:
            raise Rejected("WF331", "a block arrived damaged: its SHA-256 is different")
        await self._check_total(len(action.data))
        await self.blocks.put(scope, action.block, action.data)
        self._count(len(action.data))

    async def commit(self, name: AttemptId, scope: str, action: messages.CommitArtifact, now: int) -> ArtifactRecord:
        """See `Storage`."""
        await self._check_usable()
        check_table_blocks(action)
        async with self.blocks.committing(scope):
            await self._fetch(scope, [*action.table, *action.listing])
            table = await self.threads.write(lambda: self.store.check_commit(name, scope, action, now))
            found = await self.blocks.sizes(scope, list(table.digests()))
            if None in found:
                raise blocks_gone()
            if found != list(table.sizes):
                raise Rejected(
                    "WF331", f"blocks in {self.blocks.settings.address} have another size than the artifact says"
                )
            return await self.threads.write(lambda: self.store.record(name, scope, action, now, None))

    async def read(
        self, record: ArtifactRecord, table: BlockTable, action: messages.ReadBlock
    ) -> messages.BlockRead | messages.BlockAddresses:
        """See `Storage`."""
        digest = block_of(record, table, action.part, action.index)
        if not record.is_in_bucket or action.part is not ArtifactPart.CONTENT:
            return messages.BlockRead(await self.threads.read(lambda: self.store.blocks.get(record.scope, digest)))
        await self._check_usable()
        if not action.addresses:
            return messages.BlockRead(await self.blocks.get(record.scope, digest))
        wanted = range(action.index, min(action.index + action.addresses, len(table)))
        return messages.BlockAddresses([self.blocks.read_address(record.scope, table.digest(at)) for at in wanted])

    @property
    def stored_bytes(self) -> int | None:
        """Size of all blocks in the bucket; None before the first call of `count`."""
        return self._stored_bytes

    def measured(self, size: int) -> None:
        """The cleaner has seen how much is stored."""
        self._stored_bytes = size
        self.is_full = False

    async def _check_usable(self) -> None:
        await self.is_checked.wait()
        if self.problem:
            raise Retryable("WF322", f"artifacts cannot be stored or fetched: {self.problem}")

    async def count(self) -> int:
        """Size of all blocks in the bucket. The first call reads the tables; it raises `WaterflowError` for a lost one."""
        if self._stored_bytes is None:
            counted = await self.threads.read(self.store.bucket_bytes)
            self._stored_bytes = counted if self._stored_bytes is None else self._stored_bytes
        return self._stored_bytes

    async def _check_total(self, size: int) -> None:
        stored = await self.count()
        try:
            check_total(stored + size, self.store.limits)
        except Rejected:
            # Addresses count when they are signed, whether they are used or not.
            self.is_full = True
            raise

    def _count(self, size: int) -> None:
        assert self._stored_bytes is not None, "checked before"
        self._stored_bytes += size

    async def _fetch(self, scope: str, digests: Sequence[bytes]) -> None:
        """Copies the table and the list of files of an artifact to the data directory."""
        missing = await self.threads.write(lambda: self.store.missing(scope, digests))
        sizes = await self.blocks.sizes(scope, [digests[number] for number in missing])
        for number, size in zip(missing, sizes, strict=True):
            if size is None:
                raise blocks_gone()
            if size > messages.ARTIFACT_BLOCK_BYTES_MAX:
                raise Rejected("WF331", "a block of the artifact is too large")
            data = await self.blocks.get(scope, digests[number])
            await self.threads.write(lambda: self.store.store(scope, digests[number], data))  # noqa: B023
