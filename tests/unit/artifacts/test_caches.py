"""Cache entries on the daemon: who finds what, keys that never change, and the limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.artifacts.harness import NOW, RUN, Prepared, new_store
from waterflow_agent.artifacts import content
from waterflow_agent.errors import Rejected
from waterflow_agent.wire import messages
from waterflowd.artifacts.blocks import scope_of
from waterflowd.artifacts.caches.origins import RunOrigin
from waterflowd.artifacts.caches.records import CacheRecord
from waterflowd.artifacts.caches.store import CacheLimits, CacheStore
from waterflowd.artifacts.limits import ArtifactLimits
from waterflowd.artifacts.store import ArtifactStore

MAIN, FEATURE, OTHER = "refs/heads/main", "refs/heads/feature", "refs/heads/other"
VERSION = content.digest_of(b"node_modules")


def origin(ref: str = MAIN, repository: str = "ops") -> RunOrigin:
    refs = (ref,) if ref == MAIN else (ref, MAIN)
    return RunOrigin(repository=repository, scope=scope_of(repository, RUN), source="url", refs=refs)


class Caches:
    """A store of caches, and the time, which advances with each entry."""

    def __init__(
        self, folder: Path, limits: CacheLimits | None = None, artifacts: ArtifactLimits | None = None
    ) -> None:
        self.artifacts: ArtifactStore = new_store(folder, artifacts or ArtifactLimits(reserved_bytes=1))
        self.limits = limits or CacheLimits()
        self.store = CacheStore(self.artifacts, self.limits)
        self.now = NOW

    def reopened(self) -> None:
        """As after a restart of the daemon."""
        self.store = CacheStore(self.artifacts, self.limits)

    def save(
        self,
        key: str,
        files: Mapping[str, bytes] | None = None,
        where: RunOrigin | None = None,
        version: bytes = VERSION,
    ) -> bool:
        where = where or origin()
        self.now += 1_000
        prepared = Prepared("cache", files or {"a": key.encode()})
        commit = prepared.commit
        if not self.store.begin(where, messages.BeginCache(key, version, commit.files, commit.size)):
            return False
        digests = list(prepared.blocks)
        for position in self.artifacts.missing(where.scope, digests):
            self.artifacts.store(where.scope, digests[position], prepared.blocks[digests[position]])
        committed = messages.CommitCache(key, version, commit.files, commit.size, commit.table, commit.listing)
        return self.store.commit(where, RUN, committed, self.now)

    def find(self, *keys: str, where: RunOrigin | None = None, version: bytes = VERSION) -> CacheRecord | None:
        self.now += 1_000
        return self.store.find(where or origin(), messages.FindCache(list(keys), version), self.now)

    def key(self, *keys: str, where: RunOrigin | None = None) -> str | None:
        found = self.find(*keys, where=where)
        return None if found is None else found.key


@pytest.fixture
def caches(tmp_path: Path) -> Caches:
    return Caches(tmp_path)


def test_the_exact_key_wins_then_the_newest_with_the_prefix_in_the_order_of_the_keys(caches: Caches) -> None:
    """As on GitHub: the key itself is a prefix too, and restore keys are tried one after the other."""
    for key in ("npm-1", "npm-2", "npm-2-b", "pip-1"):
        caches.save(key)

    assert caches.key("npm-2") == "npm-2"
    assert caches.key("npm-") == "npm-2-b"
    assert caches.key("npm-3", "pip-", "npm-") == "pip-1"
    assert caches.key("npm-3", "npm-", "pip-") == "npm-2-b"
    assert caches.key("npm-3") is None


def test_other_paths_are_another_cache(caches: Caches) -> None:
    """What was saved from other lines would be restored to the wrong places."""
    other = content.digest_of(b"~/.npm")
    assert caches.save("npm")
    assert caches.find("npm", version=other) is None
    assert caches.save("npm", version=other)


def test_a_key_never_changes(caches: Caches) -> None:
    """A second save of a key is skipped, also by another branch's run for itself only."""
    assert caches.save("npm", {"a": b"first"})
    assert not caches.save("npm", {"a": b"second"})
    found = caches.find("npm")
    assert found is not None
    assert found.size == len(b"first")


def test_a_repeated_commit_is_the_same_commit(caches: Caches) -> None:
    """The answer may have been lost with the connection."""
    caches.save("npm")
    prepared = Prepared("cache", {"a": b"npm"}).commit
    again = messages.CommitCache("npm", VERSION, prepared.files, prepared.size, prepared.table, prepared.listing)
    assert caches.store.commit(origin(), RUN, again, caches.now)
    assert len(caches.store.listed()) == 1


def test_a_branch_reads_its_own_entries_and_those_of_the_default_branch_only(caches: Caches) -> None:
    """So no branch can put files into the runs of the default branch, or of another branch."""
    caches.save("npm-feature", where=origin(FEATURE))

    assert caches.key("npm-") is None
    assert caches.key("npm-", where=origin(OTHER)) is None
    assert caches.key("npm-", where=origin(FEATURE)) == "npm-feature"
    caches.save("npm-main")
    assert caches.key("npm-m", where=origin(FEATURE)) == "npm-main"
    # A prefix on the own branch comes before the exact key on the default branch: GitHub searches branch by branch.
    assert caches.key("npm-main", "npm-", where=origin(FEATURE)) == "npm-feature"
    assert caches.key("npm-", where=origin(repository="other")) is None
    assert caches.save("npm-main", where=origin(FEATURE))


def test_what_was_not_used_for_the_longest_time_makes_room(tmp_path: Path) -> None:
    """A use counts, also after a restart; the new entry itself stays."""
    caches = Caches(tmp_path, CacheLimits(repository_bytes=2_500))
    for key in ("a", "b"):
        caches.save(key, {"file": key.encode() * 1_000})
    caches.find("a")
    caches.reopened()

    caches.save("c", {"file": b"c" * 1_000})

    assert sorted(entry.record.key for entry in caches.store.listed()) == ["a", "c"]
    caches.reopened()
    assert sorted(entry.record.key for entry in caches.store.listed()) == ["a", "c"]
    assert not caches.store.metrics.removed


def test_a_repository_cannot_evict_what_a_smaller_one_has(tmp_path: Path) -> None:
    """With all caches at their limit, the largest repository makes room."""
    caches = Caches(tmp_path, CacheLimits(repository_bytes=4_000, total_bytes=4_500))
    small, large = origin(repository="small"), origin(repository="large")
    caches.save("s", {"file": b"s" * 1_000}, small)

    for number in range(6):
        caches.save(f"l{number}", {"file": bytes([number]) * 1_000}, large)

    listed = caches.store.listed()
    assert sum(entry.record.size for entry in listed) <= 4_500
    assert "s" in {entry.record.key for entry in listed}
    assert {"l5", "l4", "l3"} == {entry.record.key for entry in listed if entry.record.repository == "large"}
    # Also when the new entry is the only one of the largest repository.
    caches.save("huge", {"file": b"h" * 3_900}, origin(repository="third"))
    assert sum(entry.record.size for entry in caches.store.listed()) <= 4_500
    assert caches.key("huge", where=origin(repository="third")) == "huge"


@pytest.mark.parametrize(
    ("limits", "artifacts", "key"),
    [
        (CacheLimits(entry_bytes=99), ArtifactLimits(reserved_bytes=1), "caches.entry-max-bytes"),
        (CacheLimits(repository_bytes=99), ArtifactLimits(reserved_bytes=1), "caches.repository-max-bytes"),
        (CacheLimits(total_bytes=99), ArtifactLimits(reserved_bytes=1), "caches.max-bytes"),
        (CacheLimits(), ArtifactLimits(reserved_bytes=1, total_bytes=110), "artifacts.max-bytes"),
    ],
)
def test_what_exceeds_a_limit_is_refused_with_its_key(
    tmp_path: Path, limits: CacheLimits, artifacts: ArtifactLimits, key: str
) -> None:
    """Before anything is sent; the last one keeps a tenth for artifacts."""
    caches = Caches(tmp_path, limits, artifacts)
    with pytest.raises(Rejected, match=key):
        caches.store.begin(origin(), messages.BeginCache("npm", VERSION, 1, 100))


def test_an_entry_expires_after_its_last_use(tmp_path: Path) -> None:
    """It is not found any longer, and the cleaner removes it."""
    caches = Caches(tmp_path, CacheLimits(keep_ms=10_000))
    caches.save("npm")
    caches.now += 8_000
    assert caches.key("npm") == "npm"
    caches.now += 8_000
    assert caches.key("npm") == "npm"
    caches.now += 10_000
    assert caches.key("npm") is None
    assert caches.store.expire(caches.now) == 1
    assert caches.store.listed() == []
    caches.reopened()
    assert caches.store.listed() == []


@pytest.mark.parametrize("damage", ["content", "table", "record"])
def test_a_damaged_entry_is_a_miss_and_can_be_saved_again(caches: Caches, damage: str) -> None:
    """It is removed with a line in the log."""
    caches.save("npm", {"a": b"content"})
    found = caches.find("npm")
    assert found is not None
    blocks, table = caches.artifacts.blocks, caches.artifacts.table(found)
    if damage == "record":
        (path,) = (caches.artifacts.root / "caches" / found.scope).iterdir()
        path.write_bytes(path.read_bytes()[:-1])
        caches.reopened()
    else:
        digest = found.table[0] if damage == "table" else table.digest(0)
        blocks.path(found.scope, digest).write_bytes(b"?")
        with pytest.raises(Exception, match="WF304"):
            blocks.get(found.scope, digest)

    assert caches.find("npm") is None
    assert caches.store.listed() == []
    assert caches.save("npm", {"a": b"content"})
    assert caches.key("npm") == "npm"


def test_an_entry_without_all_its_blocks_is_refused(caches: Caches) -> None:
    """Nothing half-saved is ever visible."""
    prepared = Prepared("cache", {"a": b"x" * 600_000}).commit
    commit = messages.CommitCache("npm", VERSION, prepared.files, prepared.size, prepared.table, prepared.listing)
    with pytest.raises(Rejected, match="WF333"):
        caches.store.commit(origin(), RUN, commit, NOW)
    assert caches.find("npm") is None


def test_entries_are_deleted_by_what_selects_them(caches: Caches) -> None:
    """For the API."""
    for key in ("a", "b"):
        caches.save(key)
        caches.save(key, where=origin(FEATURE))

    deleted = caches.store.delete(lambda record: record.key == "a" and record.ref == MAIN)

    assert [(record.key, record.ref) for record in deleted] == [("a", MAIN)]
    assert len(caches.store.listed()) == 3


def test_the_metrics_count_entries_what_was_found_and_what_was_removed(tmp_path: Path) -> None:
    """The totals of entries are also correct after a restart."""
    caches = Caches(tmp_path, CacheLimits(repository_bytes=2_500, keep_ms=1_000_000))
    for key in ("a", "b", "c"):
        caches.save(key, {"file": key.encode() * 1_000})
    caches.find("c")
    caches.find("c-2", "c")
    caches.find("d")

    metrics = caches.store.metrics
    assert metrics.lookups == {"key": 1, "prefix": 1, "nothing": 1}
    assert metrics.removed == {"limit": 1}
    caches.store.delete(lambda record: record.key == "b")
    assert metrics.removed == {"limit": 1, "deleted": 1}
    assert (metrics.entries, metrics.stored_bytes) == (1, 1_000)
    caches.reopened()
    assert len(caches.store.listed()) == caches.store.metrics.entries == 1
    assert caches.store.metrics.stored_bytes == 1_000
    assert caches.store.expire(caches.now + 2_000_000) == 1
    assert caches.store.metrics.removed == {"expired": 1}
    assert (caches.store.metrics.entries, caches.store.metrics.stored_bytes) == (0, 0)
