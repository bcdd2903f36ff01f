"""Cache entries that a server keeps itself: `caches/<scope>/<entry>/`, with a record and a file for each block. Blocking.

Rules of this file:

- An entry is made in `caches/new/`, and renamed at the end; so it is complete, or does not exist. It is not synced: each block
  is hashed when it is read, and a damaged entry is removed, so the loss of power costs at most the entry.
- All of them together, with those that are being made, take at most `bytes_max`; those that were not used for the longest time
  make room, and none is kept longer than `keep_ms` after its last use.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

import msgspec

from waterflow_agent.artifacts import content
from waterflow_agent.artifacts.content import BlockTable
from waterflow_agent.caches import matching
from waterflow_agent.errors import Rejected
from waterflow_agent.machine import RESERVED_BYTES
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import ArtifactPart, CacheOrigin, CacheRow

logger = logging.getLogger(__name__)

#: Entries of a server: their records are in memory.
ENTRIES_MAX = 5_000
_RECORD = "record"


class ServerEntry(msgspec.Struct, frozen=True, array_like=True):
    """The record of an entry."""

    ref: str
    version: bytes
    created_at: int
    row: CacheRow


class _Known(msgspec.Struct):
    """An entry in memory."""

    entry: ServerEntry
    used_at: int
    folder: Path

    @property
    def size(self) -> int:
        return self.entry.row.size


class ServerEntries:
    """See the file's docstring."""

    def __init__(
        self, root: Path, bytes_max: int, keep_ms: int, free_bytes: Callable[[Path], int] | None = None
    ) -> None:
        self._root = root
        self._new = root / "new"
        self._bytes_max = bytes_max
        self._keep_ms = keep_ms
        self._free_bytes = free_bytes or _free_bytes
        #: By scope and name; read at the first use.
        self._entries: dict[str, dict[str, _Known]] | None = None
        #: Bytes of all entries, and their number.
        self._bytes = self._count = 0
        #: Bytes of entries that are being made.
        self._making: dict[str, int] = {}
        #: Of the entry that was read last: its digest, and its table.
        self._table: tuple[bytes, BlockTable] | None = None

    def begin(self, origin: CacheOrigin, action: messages.BeginCache | messages.CommitCache) -> bool:
        """Whether the entry is new. Raises `Rejected` WF330 for one that is too large, WF302 for a full disk."""
        if _name(origin.refs[0], action.version, action.key) in self._of(origin.scope):
            return False
        if action.size > self._bytes_max:
            text = f"the caches of this server may have at most {self._bytes_max:,} bytes (server-caches-mb)"
            raise Rejected("WF330", f"{text}, and this one has {action.size:,}")
        self._check_space()
        return True

    def missing(self, maker: str, digests: Sequence[bytes]) -> list[int]:
        """The positions of the blocks that the maker has not stored."""
        self._of("")
        folder = self._new / maker
        return [number for number, digest in enumerate(digests) if not os.path.exists(folder / digest.hex())]

    def store(self, maker: str, digest: bytes, data: bytes) -> None:
        """Stores a block of an entry that is being made. Raises `Rejected` WF330, WF331 and WF302, and `OSError`."""
        if content.digest_of(data) != digest:
            raise Rejected("WF331", "a block arrived damaged: its SHA-256 is different")
        self._check_space()
        if sum(self._making.values()) + len(data) > self._bytes_max:
            raise Rejected("WF330", "the caches that are being saved are larger than server-caches-mb")
        self._of("")
        folder = self._new / maker
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / digest.hex()
        if not path.exists():
            new = path.with_suffix(".part")
            new.write_bytes(data)
            new.rename(path)
            self._making[maker] = self._making.get(maker, 0) + len(data)
            self._make_room()

    def commit(self, origin: CacheOrigin, maker: str, action: messages.CommitCache, now: int) -> bool:
        """Makes the entry; False if its key exists meanwhile. Raises `Rejected` WF331 and WF333 if blocks are missing."""
        if not self.begin(origin, action):
            self.discard(maker)
            return False
        digests = (*action.table, *action.listing)
        if self.missing(maker, digests):
            raise Rejected("WF333", "blocks of the cache are not stored; it has to be sent again")
        folder = self._new / maker
        table = BlockTable(b"".join((folder / digest.hex()).read_bytes() for digest in action.table))
        if table.size != action.size:
            raise Rejected("WF331", "the blocks of the cache do not fit its size")
        if self.missing(maker, list(table.digests())):
            raise Rejected("WF333", "blocks of the cache are not stored; it has to be sent again")
        # An earlier try of the step may have sent files that have changed since.
        _remove_others(folder, {digest.hex() for digest in (*digests, *table.digests())})
        row = CacheRow(
            action.key,
            content.artifact_digest(action.table, action.listing),
            action.files,
            action.size,
            list(action.table),
            list(action.listing),
        )
        entry = ServerEntry(origin.refs[0], action.version, now, row)
        (folder / _RECORD).write_bytes(msgspec.msgpack.encode(entry))
        target = self._root / origin.scope / _name(entry.ref, entry.version, row.key)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        folder.rename(target)
        self._making.pop(maker, None)
        known = _Known(entry, now, target)
        self._add(origin.scope, known)
        self._use(known, now)
        self._make_room(known)
        return True

    def find(self, origin: CacheOrigin, action: messages.FindCache, now: int) -> CacheRow | None:
        """The entry that fits best, which counts as used."""
        for ref in origin.refs:
            readable = [
                known
                for known in self._of(origin.scope).values()
                if (known.entry.ref, known.entry.version) == (ref, action.version)
                and now - known.used_at < self._keep_ms
            ]
            for known in matching.best_first(readable, action.keys, _key_of, _saved_at):
                self._use(known, now)
                return known.entry.row
        return None

    def read(self, origin: CacheOrigin, action: messages.ReadCacheBlock) -> bytes:
        """A block of an entry. Raises `Rejected` WF334 if it was removed, WF304 if it is damaged; then it is removed."""
        for ref in origin.refs:
            known = self._of(origin.scope).get(_name(ref, action.version, action.key))
            if known is not None and known.entry.row.digest == action.digest:
                return self._read(known, action)
        raise Rejected("WF334", f'the cache "{action.key}" was removed meanwhile')

    def discard(self, maker: str) -> None:
        """Removes what was stored for an entry that is not made."""
        self._making.pop(maker, None)
        shutil.rmtree(self._new / maker, ignore_errors=True)

    def expire(self, now: int) -> None:
        """Removes what was not used for too long."""
        for known in list(self._all()):
            if now - known.used_at >= self._keep_ms:
                self._drop(known, "it was not used for longer than server-caches-keep")

    def _check_space(self) -> None:
        if self._free_bytes(self._root) < RESERVED_BYTES:
            raise Rejected("WF302", f"less than {RESERVED_BYTES >> 20} MiB are free on the disk of this server")

    # Entries ----------------------------------------------------------------------------------------------------------

    def _read(self, known: _Known, action: messages.ReadCacheBlock) -> bytes:
        row = known.entry.row
        try:
            table = self._table_of(known)
            count = {ArtifactPart.TABLE: len(row.table), ArtifactPart.LISTING: len(row.listing)}.get(
                action.part, len(table)
            )
            if action.index < count:
                index = row.table if action.part is ArtifactPart.TABLE else row.listing
                is_content = action.part is ArtifactPart.CONTENT
                return _block(known.folder, table.digest(action.index) if is_content else index[action.index])
        except (OSError, Rejected) as error:
            self._drop(known, "it is damaged")
            raise Rejected("WF304", "the cache was damaged on the disk of this server, and was removed") from error
        raise Rejected("WF334", f"the cache has no block {action.index}")

    def _table_of(self, known: _Known) -> BlockTable:
        row = known.entry.row
        if self._table is None or self._table[0] != row.digest:
            blob = b"".join(_block(known.folder, digest) for digest in row.table)
            self._table = (row.digest, BlockTable(blob))
        return self._table[1]

    def _of(self, scope: str) -> dict[str, _Known]:
        """The entries of a scope. The first call reads all, and removes what an earlier process has not finished."""
        if self._entries is None:
            self._entries = {}
            shutil.rmtree(self._new, ignore_errors=True)
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for found, folder in _folders(self._root):
                known = _load(folder)
                if known is not None:
                    self._add(found, known)
        return self._entries.setdefault(scope, {})

    def _add(self, scope: str, known: _Known) -> None:
        self._of(scope)[known.folder.name] = known
        self._bytes += known.size
        self._count += 1

    def _all(self) -> Iterator[_Known]:
        self._of("")
        for entries in (self._entries or {}).values():
            yield from entries.values()

    def _use(self, known: _Known, now: int) -> None:
        known.used_at = now
        with contextlib.suppress(OSError):
            os.utime(known.folder / _RECORD, ns=(now * 1_000_000, now * 1_000_000))

    def _make_room(self, kept: _Known | None = None) -> None:
        while self._bytes + sum(self._making.values()) > self._bytes_max or self._count > ENTRIES_MAX:
            others = [known for known in self._all() if known is not kept]
            if not others:
                return
            self._drop(min(others, key=lambda known: known.used_at), "the caches have reached server-caches-mb")

    def _drop(self, known: _Known, reason: str) -> None:
        if self._of(known.folder.parent.name).pop(known.folder.name, None) is not None:
            self._bytes -= known.size
            self._count -= 1
        shutil.rmtree(known.folder, ignore_errors=True)
        row = known.entry.row
        logger.info("cache %s of %s removed: %s (%d bytes)", row.key, known.entry.ref, reason, row.size)


def _key_of(known: _Known) -> str:
    return known.entry.row.key


def _saved_at(known: _Known) -> int:
    return known.entry.created_at


def _name(ref: str, version: bytes, key: str) -> str:
    return hashlib.sha256(msgspec.msgpack.encode((ref, version, key))).hexdigest()[:40]


def _block(folder: Path, digest: bytes) -> bytes:
    data = (folder / digest.hex()).read_bytes()
    if content.digest_of(data) != digest:
        raise Rejected("WF304", "a block is damaged")
    return data


def _remove_others(folder: Path, names: Set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def _folders(root: Path) -> Iterator[tuple[str, Path]]:
    for scope in root.iterdir():
        if scope.is_dir():
            yield from ((scope.name, folder) for folder in scope.iterdir())


def _load(folder: Path) -> _Known | None:
    try:
        path = folder / _RECORD
        entry = msgspec.msgpack.decode(path.read_bytes(), type=ServerEntry)
        return _Known(entry, path.stat().st_mtime_ns // 1_000_000, folder)
    except (OSError, msgspec.MsgspecError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _free_bytes(root: Path) -> int:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    disk = os.statvfs(root)
    return disk.f_bavail * disk.f_frsize
