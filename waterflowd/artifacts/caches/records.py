"""What is kept of each cache entry: a small file, `caches/<scope>/<hash of what it is found by>`, whose rename is the commit.

The time of the file's last change is when the entry was last used, so a use costs no write to the disk. A damaged record is
removed when it is read: a cache can be made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from waterflowd.artifacts import sealed_files
from waterflowd.model.ids import RunId

logger = logging.getLogger("waterflow.caches")


class CacheRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One cache entry."""

    repository: str
    #: The scope of its blocks, which belongs to the repository.
    scope: str
    #: Identifies the repository's address: another repository may get its name.
    source: str
    #: The branch or tag whose run has saved it: a full name.
    ref: str
    key: str
    #: Of the paths.
    version: bytes
    run: RunId
    created_at: int
    files: int
    size: int
    #: Identifies the content (`waterflow_agent.artifacts.content`).
    digest: bytes
    table: list[bytes]
    listing: list[bytes]

    @property
    def name(self) -> str:
        """Identifies the entry in its scope."""
        return entry_name(self.source, self.ref, self.version, self.key)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CacheRecord)


def entry_name(source: str, ref: str, version: bytes, key: str) -> str:
    """The name of an entry's file."""
    return hashlib.sha256("\0".join((source, ref, version.hex(), key)).encode()).hexdigest()[:40]


class CacheRecordFiles:
    """The records below a directory. Blocking."""

    def __init__(self, root: Path) -> None:
        self._root = root / "caches"

    def write(self, record: CacheRecord) -> None:
        """Writes a record, durably. Raises `OSError`; then nothing has changed."""
        path = self._path(record.scope, record.name)
        sealed_files.write(path, _encoder.encode(record))
        self.use(record, record.created_at)

    def use(self, record: CacheRecord, now: int) -> None:
        """Notes that an entry is used."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path(record.scope, record.name), ns=(now * 1_000_000, now * 1_000_000))

    def remove(self, record: CacheRecord) -> None:
        """Removes a record; its blocks are unused from now on."""
        path = self._path(record.scope, record.name)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            # Only if it is empty.
            path.parent.rmdir()

    def scopes(self) -> list[str]:
        """The scopes that have entries."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self._root))
        return []

    def of_scope(self, scope: str) -> Iterator[tuple[CacheRecord, int]]:
        """The entries of a scope, each with when it was last used."""
        folder = self._root / scope
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):
                    found = self._read(folder / name)
                    if found is not None:
                        yield found

    def _read(self, path: Path) -> tuple[CacheRecord, int] | None:
        used_at = path.stat().st_mtime_ns // 1_000_000
        body = sealed_files.read(path)
        with contextlib.suppress(msgspec.MsgspecError):
            if body is not None:
                return _decoder.decode(body), used_at
        logger.warning("the record of a cache entry was incomplete or damaged, and is removed: %s", path)
        path.unlink(missing_ok=True)
        return None

    def _path(self, scope: str, name: str) -> Path:
        return self._root / scope / name
