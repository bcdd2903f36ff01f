"""Deletion on request: the space is free at once, except for what something else has, and the list says who did it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.artifacts.harness import NOW, OTHER, RUN, SCOPE, Prepared, attempt, new_store, put
from waterflow_agent.errors import Rejected
from waterflowd.artifacts import files as artifact_files
from waterflowd.artifacts.caches.store import CacheLimits, CacheStore
from waterflowd.artifacts.cleaning import ArtifactCleaner
from waterflowd.artifacts.deletion import ArtifactDeleter
from waterflowd.artifacts.records import Removal
from waterflowd.artifacts.reruns import KeptArtifacts
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.host.history import LogHistory
from waterflowd.testing.host import HostHarness, ManualClock
from waterflowd.time_slices import TimeSlices

DAY = 86_400_000
FILES = {"a": b"x" * 100_000, "b": b"y" * 100_000}


class Deletion:
    """A store, and what deletes from it."""

    def __init__(self, store: ArtifactStore, server: ArtifactServer, kept: KeptArtifacts) -> None:
        self.store = store
        self.server = server
        self.clock = ManualClock(NOW)
        self.cleaner = ArtifactCleaner(store, server, self.clock, lambda _: True, CacheStore(store, CacheLimits()))
        self.deleter = ArtifactDeleter(store, server, kept, self.cleaner, self.clock)

    def age(self) -> None:
        """Makes all blocks a little older: the times of files are not exact."""
        for scope, digest, _ in list(self.store.blocks.listed()):
            old = time.time() - 10
            os.utime(self.store.blocks.path(scope, digest), (old, old))

    @property
    def block_digests(self) -> set[bytes]:
        return {digest for _, digest, _ in self.store.blocks.listed()}


@pytest.fixture
async def deletion(tmp_path: Path) -> AsyncIterator[Deletion]:
    store = new_store(tmp_path)
    async with HostHarness(artifacts=store) as host:
        kept = KeptArtifacts(store, LogHistory(host.log, host.feed, TimeSlices()))
        yield Deletion(store, host.artifacts, kept)


async def test_the_space_of_a_deleted_artifact_is_free_at_once(deletion: Deletion) -> None:
    """The record stays, without blocks: it says when the artifact was deleted, and by whom."""
    store = deletion.store
    put(store, "site", FILES)
    deletion.age()

    left = await deletion.deleter.delete(RUN, "site", "ada")

    assert left.removal == Removal(at=NOW, reason="deleted", by="ada")
    assert deletion.block_digests == set()
    assert (store.blocks.stored_bytes, store.blocks.scopes()) == (0, [])
    assert store.of_run(RUN, NOW) == []
    (record,) = store.records.of_run(RUN)
    assert (record.name, record.files, record.removal) == ("site", 2, left.removal)
    assert artifact_files.examine(store.root).artifacts == 0
    assert (deletion.server.metrics.removed["deleted"], deletion.server.metrics.freed > 200_000) == (1, True)
    with pytest.raises(Rejected, match="WF334"):
        await deletion.deleter.delete(RUN, "site", "ada")


async def test_blocks_that_something_else_has_stay(deletion: Deletion) -> None:
    """Another artifact has them, or an upload has just asked for them."""
    store = deletion.store
    put(store, "site", FILES)
    kept = put(store, "kept", {"a": FILES["a"]}, attempt(OTHER))
    uploading = Prepared("next", {"b": FILES["b"]})
    deletion.age()
    digests = list(uploading.blocks)

    unknown = store.missing(SCOPE, digests)
    deleted = deletion.deleter.delete(RUN, "site", "ada")
    await deleted

    assert store.listing(kept)[0].path == "a"
    assert artifact_files.examine(store.root).artifacts == 1
    # They were touched before the deletion, but just now.
    assert store.missing(SCOPE, digests) == unknown


async def test_an_upload_that_loses_blocks_by_a_deletion_sends_them_again(deletion: Deletion) -> None:
    """Its commit is refused with the code for that, and nothing is stored halfway."""
    store = deletion.store
    put(store, "site", FILES)
    uploading = Prepared("next", FILES)
    assert len(store.missing(SCOPE, list(uploading.blocks))) == 0
    deletion.age()

    await deletion.deleter.delete(RUN, "site", "ada")

    with pytest.raises(Rejected, match="WF333"):
        store.commit(attempt(), SCOPE, uploading.commit, NOW)
    put(store, "next", FILES)


async def test_nothing_is_deleted_while_a_backup_reads(deletion: Deletion) -> None:
    """The backup would lack what it has listed; the error says when to try again."""
    put(deletion.store, "site", FILES)

    with artifact_files.all_kept(deletion.store.root), pytest.raises(Rejected, match="backup") as caught:
        await deletion.deleter.delete(RUN, "site", "ada")

    assert (caught.value.code, caught.value.status) == ("WF338", 409)
    assert [record.name for record in deletion.store.of_run(RUN, NOW)] == ["site"]


async def test_a_deleted_name_can_be_used_again(deletion: Deletion) -> None:
    """Also by another step: the artifact that had it is gone."""
    put(deletion.store, "site", FILES)
    await deletion.deleter.delete(RUN, "site", "ada")

    put(deletion.store, "site", {"c": b"other"}, attempt(step="2"))

    (record,) = deletion.store.records.of_run(RUN)
    assert (record.step, record.removal) == ("2", None)


async def test_an_artifact_that_expires_leaves_its_name_and_time(deletion: Deletion) -> None:
    """People see that it was there, and since when it is not; it counts in no limit of bytes."""
    store = deletion.store
    put(store, "site", FILES, days=1)
    deletion.clock.at += 2 * DAY

    await deletion.cleaner.round()
    await deletion.cleaner.round()

    (record,) = store.records.of_run(RUN)
    assert record.removal == Removal(at=NOW + DAY, reason="expired")
    assert deletion.server.metrics.removed == {"expired": 1}
    assert store.find(RUN, "site", NOW) is None


async def test_a_full_disk_keeps_nobody_from_deleting(deletion: Deletion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is left of the artifact, rather than all of it."""
    put(deletion.store, "site", FILES)
    deletion.age()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deletion.store.records, "write", full)

    await deletion.deleter.delete(RUN, "site", "ada")

    assert deletion.store.records.of_run(RUN) == []
    assert deletion.block_digests == set()
