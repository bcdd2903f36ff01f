"""Removes artifacts and caches that have expired, artifacts of removed runs, and blocks that neither has.

Rules of this file: a small step at a time, in the thread that changes the store, so that uploads continue in between. A commit
keeps its blocks by touching them, so the set of used blocks may be older than it. Nothing is removed while a backup is made.
Once half of the space is taken, unused blocks go sooner, because caches may replace a lot of content in a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from waterflow_agent.errors import WaterflowError
from waterflowd import ports
from waterflowd.artifacts.blocks import GRACE_S
from waterflowd.artifacts.caches.store import CacheStore
from waterflowd.artifacts.files import removable
from waterflowd.artifacts.records import ArtifactRecord, Removal
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.model.ids import RunId

if TYPE_CHECKING:
    # Its library is an extra.
    from waterflowd.artifacts.bucket.cleaning import BucketCleaner

logger = logging.getLogger("waterflow.artifacts")

#: Between two rounds, and before the first one: agents and clients come back first.
PERIOD_S = 600.0
FIRST_S = 30.0
#: How long an unused block is kept once half of the space is taken. An upload that takes longer sends it again.
SHORT_GRACE_S = 3_600.0
#: Between two rounds while there is no space, and how long unused blocks are kept then: those of a failed upload take it from
#: others. An upload in progress sends again what it loses.
FULL_PERIOD_S = 60.0
FULL_GRACE_S = 300.0
#: Records that are read at a time: some milliseconds.
_RECORDS = 100


class Cleaned(msgspec.Struct, kw_only=True):
    """What a round has removed."""

    artifacts: int = 0
    caches: int = 0
    bytes: int = 0


class ArtifactCleaner:
    """See the file's docstring."""

    def __init__(
        self,
        store: ArtifactStore,
        server: ArtifactServer,
        clock: ports.Clock,
        is_run: Callable[[RunId], bool],
        caches: CacheStore,
        bucket: BucketCleaner | None = None,
    ) -> None:
        """`is_run` says whether a run exists. `bucket` cleans the bucket, if there is one."""
        self._store = store
        self._server = server
        self._clock = clock
        self._is_run = is_run
        self._caches = caches
        self._bucket = bucket

    async def run(self) -> None:
        """Cleans up, forever."""
        # For metrics and the status; the first upload would have to wait for it.
        await self._server.write(lambda: self._store.blocks.stored_bytes)
        if self._bucket is not None:
            with contextlib.suppress(WaterflowError):
                # Each round says what is damaged.
                await self._bucket.count()
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                cleaned = await self.round()
                if cleaned != Cleaned():
                    logger.info(
                        "removed %d artifacts, %d caches, and %d bytes of blocks",
                        cleaned.artifacts,
                        cleaned.caches,
                        cleaned.bytes,
                    )
            except (WaterflowError, OSError) as error:
                logger.error("artifacts: cleaning ended early, and is repeated later: %s", error)
            await asyncio.sleep(FULL_PERIOD_S if self._store.usage().is_full else PERIOD_S)

    async def round(self) -> Cleaned:
        """One round."""
        cleaned = Cleaned()
        began = time.time()
        for run in await self._server.read(self._store.records.runs):
            is_run, now = self._is_run(run), self._clock.now()
            removed = await self._server.write(lambda: self._clean_run(run, now, is_run=is_run))  # noqa: B023
            cleaned.artifacts += removed
            self._server.metrics.removed["expired" if is_run else "run"] += removed
        cleaned.caches = await self._server.write(lambda: self._caches.expire(self._clock.now()))
        # Raises for a damaged record: then all blocks stay, because some may be those of that record.
        records = await self.records_by_scope()
        for scope in await self._server.read(self._store.blocks.scopes):
            used = await self.used(scope, records.get(scope, ()))
            for folder in await self._server.read(lambda: list(self._store.blocks.folders(scope))):  # noqa: B023
                freed = await self._server.write(lambda: self._clean_folder(folder, used, began))  # noqa: B023
                cleaned.bytes += freed
                self._server.metrics.freed += freed
        if self._bucket is not None:
            freed = await self._bucket.run_if_due()
            cleaned.bytes += freed
            self._server.metrics.freed += freed
        return cleaned

    async def records_by_scope(self) -> dict[str, list[ArtifactRecord]]:
        """All artifacts by the scope of their blocks; agents read in between. Raises `Stalled` WF304."""
        found: dict[str, list[ArtifactRecord]] = {}
        records = self._store.records.all()
        while batch := await self._server.read(lambda: list(itertools.islice(records, _RECORDS))):
            for record in batch:
                found.setdefault(record.scope, []).append(record)
        return found

    async def used(self, scope: str, records: Iterable[ArtifactRecord]) -> set[bytes]:
        """The digests of all blocks of a scope with these artifacts that something has. Raises `WaterflowError`."""
        used: set[bytes] = set()
        for record in records:
            used |= await self._server.read(lambda record=record: self._store.used([record]))  # type: ignore[misc]
        for entry in await self._server.write(lambda: self._caches.of_scope(scope)):
            used |= await self._server.write(lambda entry=entry: self._caches.used(entry))  # type: ignore[misc]
        return used

    def _clean_run(self, run: RunId, now: int, *, is_run: bool) -> int:
        records = self._store.records
        with removable(self._store.root) as may_remove:
            if not may_remove:
                return 0
            if not is_run:
                count = len(records.paths(run))
                records.remove_run(run)
                return count
            count = 0
            with contextlib.suppress(WaterflowError):
                # A damaged record stays for `waterflowd fsck`.
                for record in records.of_run(run):
                    if record.removal is None and record.is_expired(now):
                        self._store.remove(run, record, Removal(at=record.expires_at or now, reason="expired"))
                        count += 1
            return count

    def _clean_folder(self, folder: str, used: set[bytes], began: float) -> int:
        with removable(self._store.root) as may_remove:
            return self._store.blocks.remove_unused(folder, used, began - self._grace_s()) if may_remove else 0

    def _grace_s(self) -> float:
        usage = self._store.usage()
        if usage.is_full:
            return FULL_GRACE_S
        return SHORT_GRACE_S if (usage.stored_bytes or 0) > usage.limits.total_bytes // 2 else GRACE_S
