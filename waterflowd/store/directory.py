"""A data directory: created, locked, and identified before anything in it is changed.

The lock is a `flock` on the directory's own file descriptor. It is the same inode whatever path, symlink or bind mount
leads to it, it cannot be removed by deleting a file, and the kernel releases it when the process dies. The file `FORMAT`
is read under the lock, before LMDB may open (and so write) anything; it is on disk before LMDB's first byte.

`FORMAT` also records the state of the directory: a new one has no log yet, a copy in progress is incomplete, and a daemon
must not open a backup. Each change of state is one rename, so a killed process leaves a directory in a known state.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

import waterflowd
from waterflow_agent.errors import Stalled
from waterflowd.durability import sync_directory
from waterflowd.store import layout

#: A stopping daemon needs a moment to release the lock.
LOCK_WAIT_S = 2.0
LOCK_POLL_S = 0.05


class State(enum.Enum):
    """What a directory contains."""

    #: A data directory without a log yet.
    EMPTY = "empty"
    #: A data directory with a log.
    DATA = "data"
    #: A copy in progress; worthless once its process has ended.
    INCOMPLETE = "incomplete"
    #: A complete backup. No daemon may open it: it would change.
    BACKUP = "backup"


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file `FORMAT`."""

    #: Version of the directory's format; see `layout.FORMAT_VERSION`.
    format: int
    #: LMDB's engine: 0 for the file format of LMDB 0.9.
    lmdb: int
    #: The release that created the directory.
    release: str = ""
    state: State = State.DATA


class Directory:
    """A data directory that this process has locked until `close`."""

    def __init__(self, path: Path, descriptor: int, found: Format) -> None:
        self.path = path
        self.format = found
        self._descriptor = descriptor

    def close(self) -> None:
        """Releases the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_directory(path: Path, *, wait_s: float = LOCK_WAIT_S, is_rescue: bool = False) -> Directory:
    """Locks a data directory, creating it if necessary.

    Raises `Stalled` WF317 when it cannot be created or written and WF310 when another daemon has locked it. Without changing
    anything it raises WF311 when a newer release wrote it, WF312 when its log is gone, WF313 for an unfinished copy and
    WF314 for a backup. With `is_rescue` it opens the unfinished copy that the caller is making, and nothing else.
    """
    path = Path(os.path.abspath(path))
    descriptor = _made(path)
    try:
        _lock(path, descriptor, wait_s)
        found = _read_or_write_format(path)
        if is_rescue:
            assert found.state is State.INCOMPLETE, "a rescue opens only its own unfinished copy"
        else:
            _admit(path, found)
        os.fchmod(descriptor, 0o700)
        (path / layout.OWNER_FILE).write_text(f"{os.getpid()}\n")
    except BaseException:
        os.close(descriptor)
        raise
    return Directory(path, descriptor, found)


def _made(path: Path) -> int:
    """Opens the directory, creating it if necessary. Raises `Stalled` WF317 when this user may not write it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Stalled("WF317", _unusable(path, error.strerror)) from error
    if not os.access(path, os.W_OK | os.X_OK):
        os.close(descriptor)
        raise Stalled("WF317", _unusable(path, "it cannot be written"))
    return descriptor


def _unusable(path: Path, reason: str | None) -> str:
    return (
        f"data-dir {path} cannot be used: {reason}; create it for the daemon's user, "
        "and under systemd add it to ReadWritePaths= of the unit"
    )


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Locks a directory against daemons without changing it. Raises `Stalled` WF310 when a daemon has locked it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(path, descriptor, 0)
        yield
    finally:
        os.close(descriptor)


def make_copy_directory(path: Path) -> Path:
    """Creates the directory of a copy, marked as incomplete; returns its absolute path.

    Raises `Stalled` WF315 unless it is new or empty.
    """
    path = Path(os.path.abspath(path))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        entries = [entry for entry in os.listdir(path) if entry != "lost+found"]
        if not entries:
            path.chmod(0o700)
            write_format(path, State.INCOMPLETE)
            sync_directory(path.parent)
    except OSError as error:
        raise Stalled("WF315", f"{path} cannot be written: {error.strerror}; name another directory") from error
    if entries:
        what = "an unfinished copy" if _is_incomplete(path) else "not empty"
        raise Stalled("WF315", f"{path} is {what} and will not be overwritten; name a new directory")
    return path


def _is_incomplete(path: Path) -> bool:
    try:
        found = read_format(path)
    except Stalled:
        return False
    return found is not None and found.state is State.INCOMPLETE


def make_directory(path: Path) -> None:
    """Creates a directory with mode 0700, durably."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        sync_directory(path.parent)


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


def _read_or_write_format(path: Path) -> Format:
    """Reads `FORMAT`, or writes it into a directory without a log."""
    found = read_format(path)
    if found is not None:
        return found
    if (path / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE).exists():
        raise Stalled(
            "WF311", f"{path} has a log but no {layout.FORMAT_FILE} file, so its format is unknown; restore a backup"
        )
    return write_format(path, State.EMPTY)


def read_format(path: Path) -> Format | None:
    """The content of `FORMAT`; None without the file. Raises `Stalled` WF311 when this release cannot read it."""
    try:
        content = (path / layout.FORMAT_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return decode_format(content, path)


def decode_format(content: bytes, path: Path) -> Format:
    """The `FORMAT` of the directory or archive `path`. Raises `Stalled` WF311 when this release cannot read it."""
    try:
        found = msgspec.json.decode(content, type=Format)
    except msgspec.DecodeError as error:
        raise Stalled(
            "WF311", f"{path / layout.FORMAT_FILE} cannot be read ({error}), so the format of the log is unknown"
        ) from error
    if found.format > layout.FORMAT_VERSION or found.lmdb != layout.LMDB_ENGINE:
        raise Stalled(
            "WF311",
            f"{path} was written by a newer release ({found.release}, format {found.format}); "
            f"this release ({waterflowd.__version__}) reads format {layout.FORMAT_VERSION}; "
            "nothing was changed, upgrade Waterflow",
        )
    return found


def admit(path: Path, *, may_be_backup: bool = False) -> Format:
    """The format of a directory that the caller may use. Raises `Stalled` WF311 to WF314 for any other."""
    found = read_format(path)
    if found is None:
        raise Stalled("WF311", f"{path} has no {layout.FORMAT_FILE} file: it is not a data directory")
    _admit(path, found, may_be_backup=may_be_backup)
    return found


def _admit(path: Path, found: Format, *, may_be_backup: bool = False) -> None:
    if found.state is State.INCOMPLETE:
        raise Stalled(
            "WF313",
            f"{path} is an unfinished copy: the process that made it was interrupted; remove it and copy again",
        )
    if found.state is State.BACKUP and not may_be_backup:
        raise Stalled(
            "WF314", f"{path} is a backup and cannot be opened; waterflowd restore makes a data directory from it"
        )
    has_log = (path / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE).exists()
    if found.state in (State.DATA, State.BACKUP) and not has_log:
        raise Stalled(
            "WF312",
            f"{path} has lost its log: {layout.ENVIRONMENT_DIRECTORY}/{layout.LOG_FILE} is gone; put it back, "
            "or restore a backup into an empty directory with waterflowd restore",
        )


def current_format(state: State) -> Format:
    """What this release writes."""
    return Format(format=layout.FORMAT_VERSION, lmdb=layout.LMDB_ENGINE, release=waterflowd.__version__, state=state)


def encode_format(written: Format) -> bytes:
    """The content of the file `FORMAT`."""
    return msgspec.json.encode(written) + b"\n"


def write_format(path: Path, state: State) -> Format:
    """Writes `FORMAT` into a directory, durably and atomically."""
    expected = current_format(state)
    file = path / layout.FORMAT_FILE
    fresh = file.with_name(file.name + ".new")
    with fresh.open("wb") as stream:
        stream.write(encode_format(expected))
        stream.flush()
        os.fsync(stream.fileno())
    fresh.rename(file)
    sync_directory(path)
    return expected
