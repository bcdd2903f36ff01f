"""The cache entries of all repositories. Blocking; every method is for the thread that changes the store of artifacts.

Rules of this file:

- An entry never changes: a key that a ref has already is not stored again. It becomes visible with its record, after all its
  blocks are durable.
- A run finds entries of its own ref first, then those of the default branch, and no others (`origins.py`). For each of its keys
  in turn: the entry with this key, or the newest one whose key begins with it.
- Everything has a limit. A new entry that exceeds one evicts those that were not used for the longest time: first of the
  repository itself, then of the repository that takes the most space. So one repository cannot evict all entries of another.
- Caches leave a tenth of the space of artifacts free, which they share.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from waterflow_agent.artifacts import content
from waterflow_agent.caches.matching import best_first
from waterflow_agent.errors import Rejected, WaterflowError
from waterflow_agent.wire import messages
from waterflowd.artifacts.caches.origins import RunOrigin
from waterflowd.artifacts.caches.records import CacheRecord, CacheRecordFiles, entry_name
from waterflowd.artifacts.limits import DAY_MS, within
from waterflowd.artifacts.metrics import CacheMetrics
from waterflowd.artifacts.store import ArtifactStore, disk_error
from waterflowd.model.ids import RunId

logger = logging.getLogger("waterflow.caches")

#: Entries of a repository: their records are in memory.
ENTRIES_MAX = 5_000


class CacheLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in bytes."""

    entry_bytes: int = 5 << 30
    repository_bytes: int = 10 << 30
    total_bytes: int = 50 << 30
    #: After the last use.
    keep_ms: int = 7 * DAY_MS


@dataclass(slots=True)
class CacheEntry:
    """An entry, and when it was last used (ms)."""

    record: CacheRecord
    used_at: int


class CacheStore:
    """See the file's docstring."""

    def __init__(self, artifacts: ArtifactStore, limits: CacheLimits) -> None:
        self.limits = limits
        self._artifacts = artifacts
        self._records = CacheRecordFiles(artifacts.root)
        #: By scope and name; read at the first use.
        self._scopes: dict[str, dict[str, CacheEntry]] | None = None
        self.metrics = CacheMetrics()

    def begin(self, origin: RunOrigin, action: messages.BeginCache) -> bool:
        """Whether an entry would be stored; False if its key exists. Raises `Rejected` WF330, `Retryable` WF302."""
        if self._existing(origin, action) is not None:
            return False
        self._check(action)
        return True

    def commit(self, origin: RunOrigin, run: RunId, action: messages.CommitCache, now: int) -> bool:
        """Stores an entry; False if its key exists. Raises as `begin`, and as `ArtifactStore.verify`."""
        digest = content.artifact_digest(action.table, action.listing)
        existing = self._existing(origin, action)
        if existing is not None:
            # The answer to the same request may have been lost.
            return (existing.record.run, existing.record.digest) == (run, digest)
        self._check(action)
        table = self._artifacts.verify(origin.scope, action)
        record = CacheRecord(
            repository=origin.repository,
            scope=origin.scope,
            source=origin.source,
            ref=origin.refs[0],
            key=action.key,
            version=action.version,
            run=run,
            created_at=now,
            files=action.files,
            size=action.size,
            digest=digest,
            table=list(action.table),
            listing=list(action.listing),
        )
        try:
            self._artifacts.blocks.sync(origin.scope, iter((*table.digests(), *action.table, *action.listing)))
            self._records.write(record)
        except OSError as error:
            raise disk_error(error) from error
        self._all().setdefault(origin.scope, {})[record.name] = CacheEntry(record, now)
        self._count(record, 1)
        self._evict(record)
        return True

    def find(self, origin: RunOrigin, action: messages.FindCache, now: int) -> CacheRecord | None:
        """The entry that fits best, which counts as used. One whose blocks are missing is removed."""
        for entry in self._candidates(origin, action):
            record = entry.record
            if now - entry.used_at >= self.limits.keep_ms:
                continue
            if not self._is_complete(record):
                self._drop_damaged(record)
                continue
            entry.used_at = now
            self._records.use(record, now)
            self.metrics.lookups["key" if record.key == action.keys[0] else "prefix"] += 1
            return record
        self.metrics.lookups["nothing"] += 1
        return None

    def read(self, origin: RunOrigin, action: messages.ReadCacheBlock) -> CacheRecord:
        """The entry of which a block is read. Raises `Rejected` WF334 if it was removed."""
        for ref in origin.refs:
            entry = self._entries(origin.scope).get(entry_name(origin.source, ref, action.version, action.key))
            if entry is not None and entry.record.digest == action.digest:
                return entry.record
        raise Rejected("WF334", f'the cache "{action.key}" was removed meanwhile')

    def listed(self) -> list[CacheEntry]:
        """All entries."""
        return [entry for entries in self._all().values() for entry in entries.values()]

    def delete(self, select: Callable[[CacheRecord], bool]) -> list[CacheRecord]:
        """Removes the selected entries, and returns them."""
        found = [entry.record for entry in self.listed() if select(entry.record)]
        for record in found:
            self._remove(record, "deleted")
        return found

    def expire(self, now: int) -> int:
        """Removes what was not used for too long; returns the number of entries."""
        before = now - self.limits.keep_ms
        found = [entry.record for entry in self.listed() if entry.used_at <= before]
        for record in found:
            self._drop(record, "expired", "it was not used for longer than caches.keep")
        return len(found)

    def of_scope(self, scope: str) -> list[CacheRecord]:
        """The entries of a scope."""
        return [entry.record for entry in self._entries(scope).values()]

    def used(self, record: CacheRecord) -> set[bytes]:
        """The digests of all blocks of an entry; if its table cannot be read, it is removed."""
        try:
            return self._artifacts.used([record])
        except WaterflowError:
            self._drop_damaged(record)
            return set()

    # Entries ----------------------------------------------------------------------------------------------------------

    def _all(self) -> dict[str, dict[str, CacheEntry]]:
        if self._scopes is None:
            self._scopes = {
                scope: {record.name: CacheEntry(record, used_at) for record, used_at in self._records.of_scope(scope)}
                for scope in self._records.scopes()
            }
            for entry in self.listed():
                self._count(entry.record, 1)
        return self._scopes

    def _count(self, record: CacheRecord, change: int) -> None:
        self.metrics.entries += change
        self.metrics.stored_bytes += change * record.size

    def _entries(self, scope: str) -> dict[str, CacheEntry]:
        return self._all().get(scope, {})

    def _existing(self, origin: RunOrigin, action: messages.BeginCache | messages.CommitCache) -> CacheEntry | None:
        entry = self._entries(origin.scope).get(entry_name(origin.source, origin.refs[0], action.version, action.key))
        if entry is not None and not self._is_complete(entry.record):
            self._drop_damaged(entry.record)
            return None
        return entry

    def _candidates(self, origin: RunOrigin, action: messages.FindCache) -> Iterator[CacheEntry]:
        """The entries that fit, the best first."""
        entries = self._entries(origin.scope)
        for ref in origin.refs:
            wanted = (origin.source, ref, action.version)
            readable = [e for e in entries.values() if (e.record.source, e.record.ref, e.record.version) == wanted]
            yield from best_first(readable, action.keys, _key_of, _saved_at)

    def _is_complete(self, record: CacheRecord) -> bool:
        blocks = self._artifacts.blocks
        index: Sequence[bytes] = (*record.table, *record.listing)
        if not all(blocks.has(record.scope, digest) for digest in index):
            return False
        try:
            return all(blocks.has(record.scope, digest) for digest in self._artifacts.table(record).digests())
        except WaterflowError:
            return False

    # Limits -----------------------------------------------------------------------------------------------------------

    def _check(self, action: messages.BeginCache | messages.CommitCache) -> None:
        limits, artifacts = self.limits, self._artifacts
        within("a cache entry may have", action.size, limits.entry_bytes, "bytes", "caches.entry-max-bytes")
        within("the caches of a repository may have", action.size, limits.repository_bytes, "bytes", _OF_REPOSITORY)
        within("all caches may have", action.size, limits.total_bytes, "bytes", "caches.max-bytes")
        within("a cache entry may have", action.files, artifacts.limits.files, "files", "artifacts.artifact-max-files")
        used = artifacts.blocks.stored_bytes + action.size
        within("artifacts may take, with caches,", used, artifacts.limits.total_bytes * 9 // 10, "bytes", _SHARE)
        artifacts.check_space(0)

    def _evict(self, new: CacheRecord) -> None:
        own = self._entries(new.scope)
        while _size(own) > self.limits.repository_bytes or len(own) > ENTRIES_MAX:
            self._drop(_oldest(own, new), "limit", f"the repository has reached {_OF_REPOSITORY}")
        while sum(map(_size, self._all().values())) > self.limits.total_bytes:
            has_others = [entries for entries in self._all().values() if set(entries) - {new.name}]
            largest = max(has_others, key=_size)
            self._drop(_oldest(largest, new), "limit", "all caches have reached caches.max-bytes")

    def _drop_damaged(self, record: CacheRecord) -> None:
        self._drop(record, "damaged", "its content is missing or damaged")

    def _drop(self, record: CacheRecord, reason: str, explanation: str) -> None:
        self._remove(record, reason)
        logger.info(
            "cache %s of %s removed: %s (%d bytes)",
            record.key,
            record.ref,
            explanation,
            record.size,
            extra={"repository": record.repository},
        )

    def _remove(self, record: CacheRecord, reason: str) -> None:
        entries = self._all().get(record.scope, {})
        if entries.pop(record.name, None) is not None:
            self.metrics.removed[reason] += 1
            self._count(record, -1)
        if not entries:
            self._all().pop(record.scope, None)
        self._records.remove(record)


_OF_REPOSITORY = "caches.repository-max-bytes"
_SHARE = "nine tenths of artifacts.max-bytes"


def _key_of(entry: CacheEntry) -> str:
    return entry.record.key


def _saved_at(entry: CacheEntry) -> int:
    return entry.record.created_at


def _size(entries: dict[str, CacheEntry]) -> int:
    return sum(entry.record.size for entry in entries.values())


def _oldest(entries: dict[str, CacheEntry], new: CacheRecord) -> CacheRecord:
    """The entry that was not used for the longest time, and is not the new one."""
    others = [entry for entry in entries.values() if entry.record is not new]
    return min(others, key=lambda entry: entry.used_at).record
