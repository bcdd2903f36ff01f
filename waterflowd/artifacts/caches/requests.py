"""Answers the requests of agents for caches. Each can be repeated, like those for artifacts (`waterflowd.artifacts.server`)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from waterflow_agent.artifacts.content import BlockTable
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.artifacts.caches.origins import CacheOrigins, RunOrigin
from waterflowd.artifacts.caches.records import CacheRecord
from waterflowd.artifacts.caches.store import CacheStore
from waterflowd.artifacts.store import ArtifactStore, block_of
from waterflowd.model.records import HeldAttempt

logger = logging.getLogger("waterflow.caches")
CacheAction = messages.BeginCache | messages.CommitCache | messages.FindCache | messages.ReadCacheBlock
Result = TypeVar("Result")
#: Entries that are read, by who reads them, with their tables.
_OPEN_MAX = 8


class Threads(Protocol):
    """The threads of the store."""

    def write(self, call: Callable[[], Result]) -> Awaitable[Result]:
        """Runs a call in the thread that changes the store."""
        ...

    def read(self, call: Callable[[], Result]) -> Awaitable[Result]:
        """Runs a call in the thread that reads the store."""
        ...


class CacheRequests:
    """See the file's docstring."""

    def __init__(self, artifacts: ArtifactStore, store: CacheStore, origins: CacheOrigins, clock: ports.Clock) -> None:
        self.store = store
        self._artifacts = artifacts
        self._origins = origins
        self._clock = clock
        self._open: OrderedDict[tuple[object, ...], tuple[CacheRecord, BlockTable]] = OrderedDict()

    async def carry_out(self, attempt: HeldAttempt, action: CacheAction, threads: Threads) -> messages.ArtifactResult:
        """Does what an attempt asks for. Raises `WaterflowError` and `OSError`."""
        origin, store, now = await self._origins.of(attempt), self.store, self._clock.now()
        match action:
            case messages.BeginCache():
                is_new = await threads.write(lambda: store.begin(origin, action))
                return messages.CacheAccepted(is_new)
            case messages.CommitCache():
                is_new = await threads.write(lambda: store.commit(origin, attempt.name.run, action, now))
                if is_new:
                    self._log(origin, action, attempt)
                return messages.CacheAccepted(is_new)
            case messages.FindCache():
                found = await threads.write(lambda: store.find(origin, action, now))
                return messages.CacheFound(None if found is None else _row(found))
            case messages.ReadCacheBlock():
                return await self._read_block(origin, action, threads)

    async def _read_block(
        self, origin: RunOrigin, action: messages.ReadCacheBlock, threads: Threads
    ) -> messages.BlockRead:
        key = (origin.refs, origin.scope, origin.source, action.key, action.version, action.digest)
        known = self._open.get(key)
        if known is None:
            record = await threads.write(lambda: self.store.read(origin, action))
            table = await threads.read(lambda: self._artifacts.table(record))
            known = self._open[key] = (record, table)
            if len(self._open) > _OPEN_MAX:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(key)
        record, table = known
        digest = block_of(record, table, action.part, action.index)
        return messages.BlockRead(await threads.read(lambda: self._artifacts.blocks.get(record.scope, digest)))

    def _log(self, origin: RunOrigin, action: messages.CommitCache, attempt: HeldAttempt) -> None:
        name = attempt.name
        logger.info(
            "cache %s of %s saved: %d files, %d bytes",
            action.key,
            origin.refs[0],
            action.files,
            action.size,
            extra={"run": name.run, "job": name.job, "step": name.step},
        )


def _row(record: CacheRecord) -> messages.CacheRow:
    return messages.CacheRow(
        key=record.key,
        digest=record.digest,
        files=record.files,
        size=record.size,
        table=record.table,
        listing=record.listing,
    )
