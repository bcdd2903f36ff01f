"""Removes blocks that no artifact has from the bucket, a day after they were stored.

Rules of this file: a page of a list at a time. What is used is found out anew if something was committed meanwhile, so a commit
never loses a block. An upload that finds a block which is then removed sends it again.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from waterflowd.artifacts.blocks import GRACE_S
from waterflowd.artifacts.bucket.blocks import StoredBlock
from waterflowd.artifacts.bucket.storage import BucketStorage
from waterflowd.artifacts.store import ArtifactStore

#: Between two rounds: each lists all blocks, and lists cost money.
PERIOD_S = 3 * 3600.0


class BucketCleaner:
    """See the file's docstring."""

    def __init__(self, store: ArtifactStore, storage: BucketStorage) -> None:
        self._store = store
        self._storage = storage
        self._next_at = 0.0

    async def count(self) -> None:
        """Finds out how much is stored. Raises as `round`."""
        await self._storage.count()

    async def run_if_due(self) -> int:
        """A round if it is time for one, or if the bucket seems to be full; otherwise 0. Returns and raises as `round`."""
        if self._storage.problem or (time.monotonic() < self._next_at and not self._storage.is_full):
            return 0
        removed = await self.round(datetime.now(UTC))
        self._next_at = time.monotonic() + PERIOD_S
        return removed

    async def round(self, now: datetime) -> int:
        """One round; returns the size of what it has removed. Raises `WaterflowError`; then the rest stays."""
        before = now - timedelta(seconds=GRACE_S)
        self._storage.blocks.watch()
        used = await self._storage.threads.read(self._store.used_in_bucket)
        total = removed = 0
        for scope in await self._storage.blocks.scopes():
            async for page in self._storage.blocks.pages(scope):
                total += sum(block.size for block in page)
                removed += await self._clean(scope, [block for block in page if block.stored_at < before], used)
        self._storage.measured(total - removed)
        return removed

    async def _clean(self, scope: str, page: list[StoredBlock], used: dict[str, set[bytes]]) -> int:
        blocks = self._storage.blocks
        unused = _unused(page, used.get(scope, set()))
        if unused and not await blocks.remove(scope, [block.key for block in unused]):
            blocks.watch(scope)
            used |= await self._storage.threads.read(lambda: self._store.used_in_bucket(scope))
            unused = _unused(page, used.get(scope, set()))
            if not await blocks.remove(scope, [block.key for block in unused]):
                return 0
        return sum(block.size for block in unused)


def _unused(page: list[StoredBlock], used: set[bytes]) -> list[StoredBlock]:
    return [block for block in page if block.digest not in used]
