"""What metrics say about artifacts and caches: running totals since the daemon started, and the space that they take.

Read them at any time, in any thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from waterflowd.artifacts.limits import ArtifactUsage


class ArtifactMetrics:
    """What agents and people did with artifacts."""

    def __init__(self) -> None:
        #: Content in bytes: `received` from agents, `sent` to agents, and `downloaded` through the API.
        self.transferred: Counter[str] = Counter()
        #: Requests of agents that ended with an error, by its code.
        self.rejected: Counter[str] = Counter()
        #: Artifacts that were removed: `expired`, `deleted`, or with their `run`.
        self.removed: Counter[str] = Counter()
        #: Size of the blocks that were removed.
        self.freed = 0


class CacheMetrics:
    """What agents did with shared caches."""

    def __init__(self) -> None:
        #: What was found: an entry with the `key`, one with a `prefix` of it, or `nothing`.
        self.lookups: Counter[str] = Counter()
        #: Entries that were removed: `limit`, `expired`, `damaged`, or `deleted` by a person.
        self.removed: Counter[str] = Counter()
        #: Entries, and the size of their files; 0 until something first asks for a cache.
        self.entries = 0
        self.stored_bytes = 0


class StorageFigures(NamedTuple):
    """What metrics are made of."""

    usage: Callable[[], ArtifactUsage]
    artifacts: ArtifactMetrics
    caches: CacheMetrics
