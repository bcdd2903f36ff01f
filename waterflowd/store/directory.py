"""A data directory: made, locked, and recognised before anything in it is touched.

The lock is a `flock` on the directory's own file descriptor: it is the same inode by whatever path, symlink or bind mount
the directory is reached, nobody can remove it by deleting a file, and the kernel drops it when the process dies. The file
`FORMAT` is read under the lock, before LMDB may open (and so write) anything; it is on disk before LMDB's first byte is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

import msgspec

import waterflowd
from waterflowd.errors import Stalled
from waterflowd.store import layout

#: A daemon that was told to stop needs a moment; after that, whoever holds the lock means to keep it.
LOCK_WAIT_S = 2.0
LOCK_POLL_S = 0.05


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """What the file `FORMAT` says."""

    #: Of the whole directory; see `layout.FORMAT_VERSION`.
    format: int
    #: LMDB's engine: 0 for the file format of 0.9.
    lmdb: int
    #: The release that made the directory.
    release: str = ""
    #: The directory is a backup that no daemon has opened yet: time has gone on without it.
    is_backup: bool = False


class Directory:
    """A data directory that this process holds until `close`."""

    def __init__(self, path: Path, descriptor: int, found: Format) -> None:
        self.path = path
        self.format = found
        self._descriptor = descriptor

    def close(self) -> None:
        """Lets go of the directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_directory(path: Path, *, wait_s: float = LOCK_WAIT_S) -> Directory:
    """Takes hold of a data directory, making it when it is not there.

    Raises `Stalled` WF310 when another daemon holds it, and WF311, having changed nothing, when a newer release wrote it.
    """
    path = Path(os.path.abspath(path))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(path, descriptor, wait_s)
        found = _recognise(path)
        os.fchmod(descriptor, 0o700)
        (path / layout.OWNER_FILE).write_text(f"{os.getpid()}\n")
    except BaseException:
        os.close(descriptor)
        raise
    return Directory(path, descriptor, found)


def make_directory(path: Path) -> None:
    """Makes a directory for this user alone, durably."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Stalled(
                    "WF310", f"{path} is in use by {_owner(path)}; stop it, or name another directory"
                ) from None
            time.sleep(LOCK_POLL_S)
        else:
            return


def _owner(path: Path) -> str:
    try:
        pid = int((path / layout.OWNER_FILE).read_text())
    except (OSError, ValueError):
        return "another waterflowd"
    return f"another waterflowd (process {pid})"


def _recognise(path: Path) -> Format:
    """Reads `FORMAT`, or writes it into a directory that has no log yet."""
    file = path / layout.FORMAT_FILE
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Format)
    except FileNotFoundError:
        if (path / layout.ENVIRONMENT_DIRECTORY / "data.mdb").exists():
            raise Stalled("WF311", f"{path} holds a log but no file {file.name}, so its format is unknown") from None
        return write_format(path)
    except msgspec.DecodeError as error:
        raise Stalled("WF311", f"{file} cannot be read ({error}), so the format of the log is unknown") from error
    if found.format > layout.FORMAT_VERSION or found.lmdb != layout.LMDB_ENGINE:
        raise Stalled(
            "WF311",
            f"{path} was written by a newer release ({found.release}, format {found.format}); "
            f"this one is {waterflowd.__version__} and knows format {layout.FORMAT_VERSION}; "
            "nothing was changed, upgrade Waterflow",
        )
    return found


def write_format(path: Path, *, is_backup: bool = False) -> Format:
    """Writes `FORMAT` into a directory, durably and whole or not at all."""
    wanted = Format(
        format=layout.FORMAT_VERSION, lmdb=layout.LMDB_ENGINE, release=waterflowd.__version__, is_backup=is_backup
    )
    file = path / layout.FORMAT_FILE
    fresh = file.with_name(file.name + ".new")
    with fresh.open("wb") as stream:
        stream.write(msgspec.json.encode(wanted) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    fresh.rename(file)
    sync_directory(path)
    return wanted
