"""The LMDB environment: opened with the only safe flags, with transactions that always end.

Why these flags: without `sync` and `metasync` a power cut corrupts the file or loses acknowledged commits; with `writemap`
a full disk kills the process with SIGBUS; read-ahead hints and spare transactions gain nothing here.

A read transaction lives inside one `with` block and never across an `await`: a forgotten reader keeps every page that was
freed since, and the file grows without bound. Growing the map moves it, so it excludes readers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb

from waterflow_agent.errors import Stalled
from waterflowd.durability import sync_directory
from waterflowd.store import directory, layout

#: One slot per reading thread; the daemon reads on its event loop, and tools may read from other processes.
READERS_MAX = 126
_PAGE_BYTES = 4096


def make(path: Path) -> None:
    """Creates an empty environment in the new directory `path`, durably and atomically; an existing one is kept.

    LMDB creates its file first and writes the two meta pages later. A crash in between would leave a file that looks
    damaged, so everything happens under a temporary name.
    """
    if path.exists():
        return
    fresh = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(fresh)
    directory.make_directory(fresh)
    try:
        lmdb.open(os.fspath(fresh), map_size=1 << 20, mode=0o600, lock=False, lib_version=layout.LMDB_ENGINE).close()
        flush(fresh / layout.LOG_FILE)
        sync_directory(fresh)
        fresh.rename(path)
        sync_directory(path.parent)
    except (lmdb.Error, OSError) as error:
        raise Stalled("WF303", f"cannot create the log {path}: {error}") from error


def flush(file: Path) -> None:
    """Makes LMDB's file durable and gives it mode 0600."""
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Environment:
    """All databases of one data directory. Any thread may read; only the writer thread writes."""

    def __init__(self, path: Path, *, map_bytes: int = layout.MAP_BYTES, is_readonly: bool = False) -> None:
        """Opens it. `is_readonly` is for a copy that no process writes: it changes nothing and creates no lock file."""
        self.path = path
        self._lock = threading.RLock()
        size = max(min(map_bytes, self._disk_bytes()), 1 << 20) // _PAGE_BYTES * _PAGE_BYTES
        try:
            self._lmdb = lmdb.open(
                os.fspath(path),
                map_size=size,
                mode=0o600,
                max_readers=READERS_MAX,
                max_dbs=len(layout.DATABASES),
                sync=True,
                metasync=True,
                writemap=False,
                readonly=is_readonly,
                lock=not is_readonly,
                create=not is_readonly,
                lib_version=layout.LMDB_ENGINE,
            )
            if not is_readonly:
                self._lmdb.reader_check()
            self._databases = {
                name: self._lmdb.open_db(name.encode(), create=not is_readonly) for name in layout.DATABASES
            }
        except lmdb.Error as error:
            raise Stalled(
                "WF304", f"cannot open the log in {path}: {error}; restore a backup of the data directory"
            ) from error

    def database(self, name: str) -> lmdb._Database:
        """The handle of a database."""
        return self._databases[name]

    @contextlib.contextmanager
    def reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        """A snapshot of the durable data; never hold it across an `await`. Raises `Stalled` WF304 when LMDB cannot read."""
        try:
            with self._lock, self._lmdb.begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise Stalled("WF304", f"the log cannot be read ({error}); stop waterflowd and restore a backup") from error

    def begin_write(self) -> lmdb.Transaction[bytes]:
        """Opens the write transaction; the caller commits or aborts it."""
        return self._lmdb.begin(write=True)

    def grow(self) -> bool:
        """Doubles the map, up to the size of the file system; False if it cannot grow. Call it outside transactions."""
        size = self._lmdb.info()["map_size"]
        new_size = min(size * 2, self._disk_bytes()) // _PAGE_BYTES * _PAGE_BYTES
        if new_size <= size:
            return False
        with self._lock:
            self._lmdb.set_mapsize(new_size)
        return True

    def forget_dead_readers(self) -> None:
        """Frees the reader slots of processes that died."""
        self._lmdb.reader_check()

    def close(self) -> None:
        """Closes the environment; no transaction may be open."""
        with self._lock:
            self._lmdb.close()

    def _disk_bytes(self) -> int:
        disk = os.statvfs(self.path.parent)
        return disk.f_blocks * disk.f_frsize
