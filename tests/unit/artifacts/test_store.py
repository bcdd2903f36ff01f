"""The store of artifacts: all or nothing, equal content once, limits with an error each, and who may replace what."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from tests.unit.artifacts.harness import LIMITS, NOW, OTHER, RUN, SCOPE, Prepared, attempt, new_store, put
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflowd.artifacts import blocks as block_files
from waterflowd.artifacts import files as artifact_files
from waterflowd.artifacts import sealed_files
from waterflowd.artifacts.blocks import scope_of
from waterflowd.artifacts.limits import ArtifactLimits
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.model.ids import AttemptId, AttemptNo

FILES = {"a": b"one", "dir/b": b"two" * 100}


def test_an_artifact_is_complete_or_not_there(tmp_path: Path) -> None:
    """Without one of its blocks the commit is refused, and nothing of it can be seen."""
    store = new_store(tmp_path)
    prepared = Prepared("site", FILES)
    for digest, block in list(prepared.blocks.items())[:-1]:
        store.store(SCOPE, digest, block)

    with pytest.raises(Rejected, match="WF333"):
        store.commit(attempt(), SCOPE, prepared.commit, NOW)

    assert store.of_run(RUN, NOW) == []
    store.store(SCOPE, *list(prepared.blocks.items())[-1])
    store.commit(attempt(), SCOPE, prepared.commit, NOW)
    assert [file.path for file in store.listing(store.of_run(RUN, NOW)[0])] == list(FILES)


def test_a_restarted_daemon_has_what_was_stored(tmp_path: Path) -> None:
    """A new store over the same directory knows the artifacts, and the blocks of an upload that continues."""
    put(new_store(tmp_path), "site", FILES)
    prepared = Prepared("next", {"c": b"three"})
    digest, block = next(iter(prepared.blocks.items()))
    new_store(tmp_path).store(SCOPE, digest, block)

    again = new_store(tmp_path)

    assert [record.name for record in again.of_run(RUN, NOW)] == ["site"]
    assert again.missing(SCOPE, [digest]) == []
    assert again.blocks.stored_bytes == sum(size for _, _, size in again.blocks.listed())


def test_a_list_of_all_records_has_what_is_moved_to_another_run_meanwhile(tmp_path: Path) -> None:
    """A re-run copies a record, and the earlier run is removed: the cleaner of a bucket must not miss the blocks of both."""
    records = new_store(tmp_path).records
    store = new_store(tmp_path)
    put(store, "other", FILES)
    kept = put(store, "site", FILES, attempt(OTHER))
    found: list[str] = []

    for record in records.all():
        if not found:
            # The run that gets the copy has been listed already; the one that loses its record not yet.
            records.write(RUN, msgspec.structs.replace(kept, kept_from=OTHER))
            records.remove_run(OTHER)
        found.append(record.name)

    assert sorted(found) == ["other", "site"]


def test_equal_content_is_stored_once(tmp_path: Path) -> None:
    """Also under another name, and for another run of the repository."""
    store = new_store(tmp_path)
    put(store, "site", FILES)
    before = store.blocks.stored_bytes

    put(store, "copy", FILES)
    put(store, "site", FILES, attempt(OTHER))

    assert store.blocks.stored_bytes == before


def test_repositories_share_no_blocks(tmp_path: Path) -> None:
    """Nobody finds out by a digest what another repository has stored."""
    store = new_store(tmp_path)
    put(store, "site", FILES)
    digests = list(Prepared("site", FILES).blocks)

    assert store.missing(scope_of("other", OTHER), digests) == list(range(len(digests)))
    assert scope_of(None, RUN) != scope_of(None, OTHER)


def test_a_block_that_arrives_damaged_is_refused(tmp_path: Path) -> None:
    """Its digest is checked before anything is written."""
    store = new_store(tmp_path)

    with pytest.raises(Rejected, match="WF331"):
        store.store(SCOPE, b"x" * 32, b"something")

    assert list(store.blocks.listed()) == []


def test_a_block_that_is_damaged_on_disk_is_noticed_and_can_be_stored_again(tmp_path: Path) -> None:
    """A download fails instead of delivering wrong bytes; the next upload repairs it; `fsck` names the artifact."""
    store = new_store(tmp_path)
    record = put(store, "site", FILES)
    digest = store.table(record).digest(0)
    path = store.blocks.path(SCOPE, digest)
    path.write_bytes(b"flipped")

    with pytest.raises(Stalled, match=f'artifact "site" of run {RUN}'):
        artifact_files.examine(store.root)
    with pytest.raises(Stalled, match="WF304"):
        store.blocks.get(SCOPE, digest)
    put(store, "site", FILES)

    assert store.blocks.get(SCOPE, digest)
    assert artifact_files.examine(store.root).artifacts == 1


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        (ArtifactLimits(artifact_bytes=100, reserved_bytes=1), "artifact-max-bytes"),
        (ArtifactLimits(run_bytes=400, reserved_bytes=1), "run-max-bytes"),
        (ArtifactLimits(files=1, reserved_bytes=1), "artifact-max-files"),
        (ArtifactLimits(total_bytes=300, reserved_bytes=1), "artifacts.max-bytes"),
    ],
)
def test_each_limit_has_an_error_that_names_it(limits: ArtifactLimits, key: str, tmp_path: Path) -> None:
    """What was stored before stays, and nothing of the new artifact can be seen."""
    put(new_store(tmp_path), "first", {"a": b"x" * 101})
    store = new_store(tmp_path, limits)

    with pytest.raises(Rejected, match=key) as caught:
        put(store, "second", FILES)

    assert caught.value.code == "WF330"
    assert [record.name for record in store.of_run(RUN, NOW)] == ["first"]


def test_a_commit_cannot_claim_less_than_it_has(tmp_path: Path) -> None:
    """The limits hold whatever the agent says: the sizes are those of the blocks."""
    store = new_store(tmp_path)
    prepared = Prepared("site", FILES)
    for digest, block in prepared.blocks.items():
        store.store(SCOPE, digest, block)

    with pytest.raises(Rejected, match="WF331"):
        store.commit(attempt(), SCOPE, msgspec.structs.replace(prepared.commit, size=1), NOW)


def test_the_number_of_artifacts_of_a_run_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that stores artifacts ends with an error."""
    monkeypatch.setattr("waterflowd.artifacts.store.ARTIFACTS_MAX", 2)
    store = new_store(tmp_path)
    put(store, "a", FILES)
    put(store, "b", FILES)

    with pytest.raises(Rejected, match="WF330"):
        put(store, "c", FILES)
    put(store, "b", {"new": b"1"})


@pytest.mark.parametrize(
    ("by", "is_replacing", "is_permitted"),
    [
        (attempt(), False, True),
        (msgspec.structs.replace(attempt(), number=AttemptNo(2)), False, True),
        (attempt(step="2"), False, False),
        (attempt(job="other"), False, False),
        (attempt(job="other"), True, True),
        (attempt(OTHER), False, True),
    ],
)
def test_only_the_same_step_replaces_an_artifact_by_default(
    by: AttemptId, is_replacing: bool, is_permitted: bool, tmp_path: Path
) -> None:
    """A retry may; two instances of a matrix must not overwrite each other by accident."""
    store = new_store(tmp_path)
    put(store, "site", FILES)

    if is_permitted:
        put(store, "site", {"new": b"1"}, by, is_replacing=is_replacing)
        assert store.of_run(by.run, NOW)[0].files == 1
    else:
        with pytest.raises(Rejected, match="WF332"):
            put(store, "site", {"new": b"1"}, by, is_replacing=is_replacing)
        assert store.of_run(RUN, NOW)[0].files == 2


def test_an_almost_full_disk_takes_no_artifact(tmp_path: Path) -> None:
    """The space that the event log needs stays free; once there is space, the same upload works."""
    free = [LIMITS.reserved_bytes - 1]
    store = ArtifactStore(tmp_path / "artifacts", LIMITS, lambda path: free[0])

    with pytest.raises(Retryable, match="WF302"):
        put(store, "site", FILES)
    free[0] = 1 << 30

    put(store, "site", FILES)


def test_a_disk_that_becomes_full_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is clear, no partial block stays, and the artifacts that are there stay readable."""
    store = new_store(tmp_path)
    record = put(store, "site", FILES)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(Retryable, match="WF302"):
        put(store, "next", {"c": b"three"})

    assert list((store.root / "new").iterdir()) == []
    assert len(store.listing(record)) == 2


def test_an_artifact_expires_by_its_own_days_or_by_the_configuration(tmp_path: Path) -> None:
    """Expired ones cannot be seen from that moment on."""
    store = new_store(tmp_path)
    put(store, "short", FILES, days=1)
    put(store, "long", FILES, attempt(step="2"))
    forever = ArtifactStore(store.root, msgspec.structs.replace(LIMITS, keep_ms=None))
    put(forever, "run", FILES, attempt(step="3"))
    day = 86_400_000

    assert [record.name for record in store.of_run(RUN, NOW + day - 1)] == ["long", "run", "short"]
    assert [record.name for record in store.of_run(RUN, NOW + day)] == ["long", "run"]
    assert [record.name for record in store.of_run(RUN, NOW + 90 * day)] == ["run"]


def test_directories_of_a_process_that_was_killed_become_durable_with_the_next_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have died after it had created a directory, and before the name of the directory was durable."""
    root = tmp_path / "artifacts"
    prepared = Prepared("site", FILES)
    (root / "runs" / RUN).mkdir(parents=True)
    for digest in prepared.blocks:
        new_store(tmp_path).blocks.path(SCOPE, digest).parent.mkdir(parents=True, exist_ok=True)
    synced: set[Path] = set()
    for module in (block_files, sealed_files):
        monkeypatch.setattr(module, "sync_directory", synced.add)

    put(new_store(tmp_path), "site", FILES)

    used = {root / "blocks" / SCOPE / digest.hex()[:2] for digest in prepared.blocks}
    above = {tmp_path, root, root / "blocks", root / "blocks" / SCOPE, root / "runs", root / "runs" / RUN}
    assert used | above <= synced


def test_a_damaged_record_is_an_error_that_names_its_file(tmp_path: Path) -> None:
    """Never a wrong artifact."""
    store = new_store(tmp_path)
    put(store, "site", FILES)
    (path,) = store.records.paths(RUN)
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(Stalled, match="WF304") as caught:
        store.of_run(RUN, NOW)
    assert str(path) in caught.value.text
