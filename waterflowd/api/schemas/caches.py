"""Cache entries."""

from __future__ import annotations

import msgspec

from waterflowd.api.timestamps import format_timestamp
from waterflowd.artifacts.caches.records import CacheRecord
from waterflowd.artifacts.caches.store import CacheEntry


class CacheSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A cache entry. `version` depends on the paths alone: steps restore only what was saved from the same paths."""

    repository: str
    ref: str
    key: str
    version: str
    files: int
    bytes: int
    #: The run that has saved it.
    run: str
    created_at: str
    used_at: str

    @classmethod
    def of(cls, entry: CacheEntry) -> CacheSchema:
        """The entry as the API shows it."""
        record = entry.record
        return cls(
            repository=record.repository,
            ref=record.ref,
            key=record.key,
            version=record.version.hex(),
            files=record.files,
            bytes=record.size,
            run=record.run,
            created_at=format_timestamp(record.created_at),
            used_at=format_timestamp(entry.used_at),
        )


class CacheListSchema(msgspec.Struct, frozen=True, kw_only=True):
    """Cache entries, by repository and key. `next` is the cursor of the next page, or null."""

    caches: list[CacheSchema]
    next: str | None


class DeletedCacheSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A cache entry that was deleted."""

    ref: str
    key: str
    bytes: int

    @classmethod
    def of(cls, record: CacheRecord) -> DeletedCacheSchema:
        """The entry as the API shows it."""
        return cls(ref=record.ref, key=record.key, bytes=record.size)


class DeletedCachesSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The number of deleted entries, and some of them."""

    deleted: int
    caches: list[DeletedCacheSchema]
