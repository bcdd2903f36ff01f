"""Where the blocks of artifacts are: the interface of the storages, and the one in the data directory.

Records, tables and lists of files are in the data directory whatever the storage is: backups and checks need them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from waterflow_agent.artifacts.content import BlockTable
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import ArtifactPart
from waterflowd.artifacts.records import ArtifactRecord
from waterflowd.artifacts.store import ArtifactStore, block_of
from waterflowd.model.ids import AttemptId

Result = TypeVar("Result")


class StoreThreads:
    """The threads of the store: one changes it, and some read it."""

    def __init__(self, readers: int = 1) -> None:
        self._writing = ThreadPoolExecutor(1, "artifacts-write")
        self._reading = ThreadPoolExecutor(readers, "artifacts-read")

    async def write(self, call: Callable[[], Result]) -> Result:
        """Runs a call in the thread that changes the store."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, call)

    async def read(self, call: Callable[[], Result]) -> Result:
        """Runs a call in a thread that reads the store."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call)

    async def close(self) -> None:
        """Waits for the calls in progress."""
        for pool in (self._writing, self._reading):
            await asyncio.to_thread(pool.shutdown)


class Storage(Protocol):
    """Carries out what agents ask for. Calls overlap, and each may be repeated.

    All methods raise `WaterflowError`, and `OSError` for what the disk says.
    """

    threads: StoreThreads

    async def begin(self, name: AttemptId, action: messages.BeginArtifact, now: int) -> None:
        """Checks an upload before it begins."""
        ...

    async def find(
        self, scope: str, action: messages.FindBlocks, allow: Callable[[int], None]
    ) -> messages.MissingBlocks:
        """The blocks that are not stored. `allow` counts bytes that the step may store by itself; it raises WF330."""
        ...

    async def put(self, scope: str, action: messages.StoreBlock) -> None:
        """Stores a block, durably."""
        ...

    async def commit(self, name: AttemptId, scope: str, action: messages.CommitArtifact, now: int) -> ArtifactRecord:
        """Makes an artifact of stored blocks, completely or not at all; durable on return."""
        ...

    async def read(
        self, record: ArtifactRecord, table: BlockTable, action: messages.ReadBlock
    ) -> messages.BlockRead | messages.BlockAddresses:
        """A block of an artifact, or where it can be read."""
        ...


class DirectoryStorage:
    """Blocks in the data directory."""

    def __init__(self, store: ArtifactStore, threads: StoreThreads) -> None:
        self.threads = threads
        self._store = store

    async def begin(self, name: AttemptId, action: messages.BeginArtifact, now: int) -> None:
        """See `Storage`."""
        await self.threads.write(lambda: self._store.begin(name, action, now))

    async def find(
        self, scope: str, action: messages.FindBlocks, allow: Callable[[int], None]
    ) -> messages.MissingBlocks:
        """See `Storage`."""
        return messages.MissingBlocks(await self.threads.write(lambda: self._store.missing(scope, action.blocks)))

    async def put(self, scope: str, action: messages.StoreBlock) -> None:
        """See `Storage`."""
        await self.threads.write(lambda: self._store.store(scope, action.block, action.data))

    async def commit(self, name: AttemptId, scope: str, action: messages.CommitArtifact, now: int) -> ArtifactRecord:
        """See `Storage`."""
        return await self.threads.write(lambda: self._store.commit(name, scope, action, now))

    async def read(self, record: ArtifactRecord, table: BlockTable, action: messages.ReadBlock) -> messages.BlockRead:
        """See `Storage`."""
        digest = block_of(record, table, action.part, action.index)
        if action.part is ArtifactPart.CONTENT:
            return messages.BlockRead(await self.threads.read(lambda: self._store.content(record, digest)))
        return messages.BlockRead(await self.threads.read(lambda: self._store.blocks.get(record.scope, digest)))
