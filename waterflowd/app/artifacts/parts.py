"""The parts of the daemon for artifacts and caches: what answers agents, what the API uses, and what removes the old ones.

Only the log engine has a store. Without one, requests of agents are refused, and the API has nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from waterflowd import ports
from waterflowd.app.artifacts.bucket import connect
from waterflowd.app.config import Config
from waterflowd.app.engines import Engine
from waterflowd.artifacts.caches.admin import CacheAdmin
from waterflowd.artifacts.caches.origins import CacheOrigins
from waterflowd.artifacts.caches.requests import CacheRequests
from waterflowd.artifacts.caches.store import CacheStore
from waterflowd.artifacts.cleaning import ArtifactCleaner
from waterflowd.artifacts.deletion import ArtifactDeleter
from waterflowd.artifacts.limits import ArtifactUsage
from waterflowd.artifacts.metrics import StorageFigures
from waterflowd.artifacts.reading import ArtifactReader
from waterflowd.artifacts.reruns import KeptArtifacts
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.model.ids import RunId
from waterflowd.pacing import Pacing
from waterflowd.store import layout


@dataclass(kw_only=True)
class ArtifactParts:
    """See the file's docstring."""

    server: ArtifactServer
    reader: ArtifactReader | None = None
    deleter: ArtifactDeleter | None = None
    usage: Callable[[], ArtifactUsage] | None = None
    caches: CacheAdmin | None = None
    #: What metrics are made of.
    figures: StorageFigures | None = None
    #: Run as long as the daemon.
    tasks: dict[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)


def without_store(engine: Engine, link: ports.Link, clock: ports.Clock, origins: CacheOrigins) -> ArtifactParts:
    """The parts of an engine without a store."""
    return ArtifactParts(server=ArtifactServer(engine.attempts, link, clock, None, origins=origins))


def with_store(
    config: Config,
    engine: Engine,
    link: ports.Link,
    clock: ports.Clock,
    origins: CacheOrigins,
    is_run: Callable[[RunId], bool],
    pacing: Pacing,
) -> ArtifactParts:
    """The parts with the store in the data directory; `is_run` says whether a run exists.

    Raises `Rejected` WF620 or WF622 for a bucket that is not configured completely.
    """
    store = ArtifactStore(Path(config.data_dir) / layout.ARTIFACT_DIRECTORY, config.artifacts.limits)
    bucket = connect(config, store)
    kept = KeptArtifacts(store, engine.history)
    caches = CacheStore(store, config.caches.limits)
    requests = CacheRequests(store, caches, origins, clock)
    server = ArtifactServer(
        engine.attempts,
        link,
        clock,
        store,
        kept,
        requests,
        origins,
        storage=None if bucket is None else bucket.storage,
        pacing=pacing,
    )
    cleaner = ArtifactCleaner(store, server, clock, is_run, caches, None if bucket is None else bucket.cleaner)

    def usage() -> ArtifactUsage:
        in_bucket = None if bucket is None else bucket.storage.stored_bytes
        return msgspec.structs.replace(store.usage(), bucket_bytes=in_bucket)

    return ArtifactParts(
        server=server,
        reader=ArtifactReader(store, server, kept, clock),
        deleter=ArtifactDeleter(store, server, kept, cleaner, clock),
        usage=usage,
        caches=CacheAdmin(caches, server),
        figures=StorageFigures(usage, server.metrics, caches.metrics),
        tasks={"artifacts": cleaner.run} | ({} if bucket is None else {"bucket": bucket.prepare}),
    )
