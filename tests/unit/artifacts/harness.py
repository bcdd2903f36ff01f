"""Stores artifacts as an agent's step does, directly in a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from waterflow_agent.artifacts import content
from waterflow_agent.artifacts.content import ArtifactFile, BlockCutter
from waterflow_agent.wire import messages
from waterflowd.artifacts.blocks import scope_of
from waterflowd.artifacts.limits import ArtifactLimits
from waterflowd.artifacts.reading import ArtifactReader
from waterflowd.artifacts.records import ArtifactRecord
from waterflowd.artifacts.reruns import KeptArtifacts
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.ports import Clock, History

RUN, OTHER = RunId("01J8XQ5T3MZ6V0K9B7N2C4D1EF"), RunId("01J8XQ5T3MZ6V0K9B7N2C4D1EG")
SCOPE = scope_of("ops", RUN)
NOW = 1_764_000_000_000
#: Small enough for tests, with no reserve.
LIMITS = ArtifactLimits(reserved_bytes=1)


def attempt(run: RunId = RUN, job: str = "build", step: str = "1") -> AttemptId:
    return AttemptId(run, JobId(job), StepId(step), AttemptNo(1))


def new_store(folder: Path, limits: ArtifactLimits = LIMITS) -> ArtifactStore:
    return ArtifactStore(folder / "artifacts", limits)


def reader_of(store: ArtifactStore, history: History, clock: Clock) -> ArtifactReader:
    """What the API reads artifacts with; no agent asks its server for any."""
    nobody: Any = None
    return ArtifactReader(store, ArtifactServer(nobody, nobody, clock, store), KeptArtifacts(store, history), clock)


class Prepared:
    """An artifact as blocks, and the commit that makes it of them."""

    def __init__(self, name: str, files: Mapping[str, bytes], *, is_replacing: bool = False, days: int = 0) -> None:
        cutter, listed, blocks = BlockCutter(), [], []
        for path, data in files.items():
            blocks += [*cutter.begin_file(len(data)), *cutter.feed(data), *cutter.end_file(path)]
            listed.append(ArtifactFile(path, len(data)))
        blocks += cutter.end()
        table = list(content.index_blocks(content.encode_table((content.digest_of(b), len(b)) for b in blocks)))
        listing = list(content.index_blocks(content.encode_listing(listed)))
        self.blocks = {content.digest_of(block): block for block in (*blocks, *table, *listing)}
        self.begin = messages.BeginArtifact(name, is_replacing, len(listed), sum(map(len, files.values())))
        self.commit = messages.CommitArtifact(
            name=name,
            is_replacing=is_replacing,
            files=len(listed),
            size=sum(map(len, blocks)),
            table=[content.digest_of(block) for block in table],
            listing=[content.digest_of(block) for block in listing],
            retention_days=days,
        )


def put(
    store: ArtifactStore,
    name: str,
    files: Mapping[str, bytes],
    by: AttemptId | None = None,
    *,
    is_replacing: bool = False,
    days: int = 0,
    scope: str = SCOPE,
    now: int = NOW,
) -> ArtifactRecord:
    """Stores an artifact."""
    prepared = Prepared(name, files, is_replacing=is_replacing, days=days)
    by = by or attempt()
    store.begin(by, prepared.begin, now)
    digests = list(prepared.blocks)
    for position in store.missing(scope, digests):
        store.store(scope, digests[position], prepared.blocks[digests[position]])
    return store.commit(by, scope, prepared.commit, now)
