"""Cleaning: expired artifacts, those of removed runs, and unused blocks; never what an artifact or an upload needs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.unit.artifacts.harness import NOW, OTHER, RUN, SCOPE, Prepared, attempt, new_store, put
from waterflow_agent.wire import messages
from waterflowd.artifacts import files as artifact_files
from waterflowd.artifacts.blocks import GRACE_S
from waterflowd.artifacts.caches.origins import RunOrigin
from waterflowd.artifacts.caches.store import CacheLimits, CacheStore
from waterflowd.artifacts.cleaning import FULL_GRACE_S, SHORT_GRACE_S, ArtifactCleaner
from waterflowd.artifacts.limits import ArtifactLimits
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.model.ids import RunId
from waterflowd.testing.host import HostHarness, ManualClock

DAY = 86_400_000


class Cleaning:
    """A store and its cleaner; `runs` are those that exist."""

    def __init__(self, store: ArtifactStore, server: ArtifactServer) -> None:
        self.store = store
        self.server = server
        self.caches = CacheStore(store, CacheLimits())
        self.clock = ManualClock(NOW)
        self.runs: set[RunId] = {RUN, OTHER}
        self.cleaner = ArtifactCleaner(store, server, self.clock, lambda run: run in self.runs, self.caches)

    def age(self, age_s: float = GRACE_S) -> None:
        """Makes all blocks so old that nobody has used them for the grace period."""
        for scope, digest, _ in list(self.store.blocks.listed()):
            old = time.time() - age_s - 1
            os.utime(self.store.blocks.path(scope, digest), (old, old))


@pytest.fixture
async def cleaning(tmp_path: Path) -> AsyncIterator[Cleaning]:
    store = new_store(tmp_path)
    async with HostHarness(artifacts=store) as host:
        yield Cleaning(store, host.artifacts)


async def test_artifacts_of_removed_runs_and_expired_ones_go_with_their_blocks(cleaning: Cleaning) -> None:
    """Blocks that another artifact has stay."""
    store = cleaning.store
    put(store, "gone", {"a": b"x" * 1_000, "b": b"gone"}, attempt(OTHER))
    put(store, "short", {"a": b"short"}, days=1)
    kept = put(store, "kept", {"a": b"x" * 1_000}, attempt(step="2"))
    cleaning.runs.remove(OTHER)
    cleaning.clock.at += DAY
    cleaning.age()

    cleaned = await cleaning.cleaner.round()

    assert cleaned.artifacts == 2
    assert cleaned.bytes > 0
    assert store.records.runs() == [RUN]
    assert store.listing(kept)[0].path == "a"
    assert artifact_files.examine(store.root).artifacts == 1
    used = set(Prepared("kept", {"a": b"x" * 1_000}).blocks)
    assert {digest for _, digest, _ in store.blocks.listed()} == used
    assert store.blocks.stored_bytes == sum(size for _, _, size in store.blocks.listed())


async def test_agents_read_while_all_records_are_read(cleaning: Cleaning) -> None:
    """There may be a hundred thousand of them, and a step must not wait for all."""
    record = put(cleaning.store, "0", {"a": b"x"})
    for number in range(1, 250):
        cleaning.store.records.write(RUN, msgspec.structs.replace(record, name=str(number)))
    listing = asyncio.create_task(cleaning.cleaner.records_by_scope())
    await asyncio.sleep(0)

    await cleaning.server.read(lambda: cleaning.store.listing(record))

    assert not listing.done()
    assert len((await listing)[SCOPE]) == 250


async def test_empty_directories_of_blocks_go(cleaning: Cleaning) -> None:
    """A process that was killed may have left them; each run of a workflow without a repository would add some."""
    put(cleaning.store, "kept", {"a": b"x"})
    (cleaning.store.root / "blocks" / "0123" / "ab").mkdir(parents=True)

    await cleaning.cleaner.round()

    assert cleaning.store.blocks.scopes() == [SCOPE]


async def test_blocks_of_an_upload_in_progress_stay(cleaning: Cleaning) -> None:
    """They are young, or the upload has just asked about them."""
    store, prepared = cleaning.store, Prepared("site", {"a": b"one"})
    for digest, block in prepared.blocks.items():
        store.store(SCOPE, digest, block)
    cleaning.age()
    store.missing(SCOPE, list(prepared.blocks))

    await cleaning.cleaner.round()

    store.commit(attempt(), SCOPE, prepared.commit, NOW)


async def test_without_space_the_blocks_of_a_failed_upload_go_soon(cleaning: Cleaning) -> None:
    """For a day, they would take the space from everything else."""
    store = cleaning.store
    for digest, block in Prepared("failed", {"a": b"x" * 1_000}).blocks.items():
        store.store(SCOPE, digest, block)
    kept = put(store, "kept", {"a": b"kept"})
    cleaning.age(FULL_GRACE_S)
    assert (await cleaning.cleaner.round()).bytes == 0

    store.limits = msgspec.structs.replace(store.limits, total_bytes=store.blocks.stored_bytes)
    cleaned = await cleaning.cleaner.round()

    assert cleaned.bytes > 0
    assert store.listing(kept)[0].path == "a"


async def test_a_commit_keeps_old_blocks_that_were_about_to_be_removed(cleaning: Cleaning) -> None:
    """The cleaner may have looked before the commit."""
    store, prepared = cleaning.store, Prepared("site", {"a": b"one"})
    for digest, block in prepared.blocks.items():
        store.store(SCOPE, digest, block)
    cleaning.age()
    used = store.used([])
    store.commit(attempt(), SCOPE, prepared.commit, NOW)

    for folder in list(store.blocks.folders(SCOPE)):
        store.blocks.remove_unused(folder, used, time.time() - GRACE_S)

    assert artifact_files.examine(store.root).artifacts == 1


async def test_a_clock_that_is_set_while_blocks_are_removed_costs_no_artifact(
    cleaning: Cleaning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a clock of its own gets the time from the network, and jumps by years."""
    store, prepared = cleaning.store, Prepared("site", {"a": b"one"})
    for digest, block in prepared.blocks.items():
        store.store(SCOPE, digest, block)
    jump = [0.0]
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + jump[0])
    scopes = store.blocks.scopes

    def committed_meanwhile() -> list[str]:
        store.commit(attempt(), SCOPE, prepared.commit, NOW)
        jump[0] = 1e9
        return scopes()

    monkeypatch.setattr(store.blocks, "scopes", committed_meanwhile)

    await cleaning.cleaner.round()

    assert artifact_files.examine(store.root).artifacts == 1


async def test_nothing_is_removed_while_a_backup_reads(cleaning: Cleaning) -> None:
    """Otherwise the backup would lack what it has listed."""
    put(cleaning.store, "gone", {"a": b"x"}, attempt(OTHER))
    cleaning.runs.remove(OTHER)
    cleaning.age()

    with artifact_files.all_kept(cleaning.store.root):
        listed = list(artifact_files.files_in(cleaning.store.root))
        await cleaning.cleaner.round()
        assert all(path.exists() for path in listed)
    cleaned = await cleaning.cleaner.round()

    assert cleaned.artifacts == 1
    assert not any(path.exists() for path in listed)


async def test_blocks_of_caches_stay_until_the_entry_goes(cleaning: Cleaning) -> None:
    """An entry that was not used for too long goes with them; a damaged one as well, and keeps nothing else from going."""
    store, where = cleaning.store, RunOrigin(repository="ops", scope=SCOPE, source="url", refs=("refs/heads/main",))
    for key in ("kept", "damaged"):
        prepared = Prepared(key, {"a": key.encode()})
        for digest, block in prepared.blocks.items():
            store.store(SCOPE, digest, block)
        made = prepared.commit
        commit = messages.CommitCache(key, bytes(32), made.files, made.size, made.table, made.listing)
        assert cleaning.caches.commit(where, RUN, commit, NOW)
    cleaning.age()
    store.blocks.path(SCOPE, made.table[0]).write_bytes(b"?")
    old = time.time() - GRACE_S - 1
    os.utime(store.blocks.path(SCOPE, made.table[0]), (old, old))

    await cleaning.cleaner.round()

    assert [entry.record.key for entry in cleaning.caches.listed()] == ["kept"]
    assert {digest for _, digest, _ in store.blocks.listed() if digest} == set(Prepared("", {"a": b"kept"}).blocks)
    cleaning.clock.at += 7 * DAY
    cleaned = await cleaning.cleaner.round()
    assert cleaned.caches == 1
    assert cleaned.bytes > 0
    assert list(store.blocks.listed()) == []


async def test_unused_blocks_go_sooner_once_half_of_the_space_is_taken(tmp_path: Path) -> None:
    """Caches may replace a lot of content in a day."""
    store = new_store(tmp_path, ArtifactLimits(reserved_bytes=1, total_bytes=100))
    async with HostHarness(artifacts=store) as host:
        cleaning = Cleaning(store, host.artifacts)
        prepared = Prepared("site", {"a": b"x" * 60})
        digest, block = next(iter(prepared.blocks.items()))
        store.blocks.put(SCOPE, digest, block)
        old = time.time() - SHORT_GRACE_S - 1
        os.utime(store.blocks.path(SCOPE, digest), (old, old))

        cleaned = await cleaning.cleaner.round()

        assert cleaned.bytes == len(block)
