"""Lists and deletes cache entries, for the API."""

from __future__ import annotations

from collections.abc import Callable

from waterflowd.artifacts.caches.records import CacheRecord
from waterflowd.artifacts.caches.requests import Threads
from waterflowd.artifacts.caches.store import CacheEntry, CacheStore


class CacheAdmin:
    """The entries of all repositories."""

    def __init__(self, store: CacheStore, threads: Threads) -> None:
        self._store = store
        self._threads = threads

    async def entries(
        self, repository: str | None = None, ref: str | None = None, prefix: str = ""
    ) -> list[CacheEntry]:
        """The entries of a repository, of a ref, and whose keys begin with a text."""

        def selected() -> list[CacheEntry]:
            select = _selecting(repository, ref, lambda record: record.key.startswith(prefix))
            return [entry for entry in self._store.listed() if select(entry.record)]

        return await self._threads.write(selected)

    async def delete(self, repository: str, ref: str | None, key: str | None) -> list[CacheRecord]:
        """Removes entries of a repository: those of a key, or all of them; returns what was removed."""
        select = _selecting(repository, ref, lambda record: key is None or record.key == key)
        return await self._threads.write(lambda: self._store.delete(select))


def _selecting(
    repository: str | None, ref: str | None, has_key: Callable[[CacheRecord], bool]
) -> Callable[[CacheRecord], bool]:
    return lambda record: (
        (repository is None or record.repository == repository)
        and (ref is None or record.ref == ref)
        and has_key(record)
    )
