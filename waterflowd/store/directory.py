"""A data directory: made, locked, and recognised before anything in it is touched.

The lock is a `flock` on the directory's own file descriptor: it is the same inode by whatever path, symlink or bind mount
the directory is reached, nobody can remove it by deleting a file, and the kernel drops it when the process dies. The file
`FORMAT` is read under the lock, before LMDB may open (and so write) anything; it is on disk before LMDB's first byte is.

`FORMAT` also says how far a directory is: a new one has no log yet, a copy that is being made is not whole yet, a backup is not
for a daemon. Each change of that is one rename, so a process that is killed leaves a directory that says what it is.
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
from waterflowd.store import layout

#: A daemon that was told to stop needs a moment; after that, whoever holds the lock means to keep it.
LOCK_WAIT_S = 2.0
LOCK_POLL_S = 0.05


class State(enum.Enum):
    """How far a directory is."""

    #: A data directory whose log is still to be made.
    EMPTY = "empty"
    #: A data directory with a log.
    DATA = "data"
    #: A copy that is being made; when nobody makes it any more, it is rubbish.
    INCOMPLETE = "incomplete"
    #: A whole backup: time goes on without it, so no daemon may open it.
    BACKUP = "backup"


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """What the file `FORMAT` says."""

    #: Of the whole directory; see `layout.FORMAT_VERSION`.
    format: int
    #: LMDB's engine: 0 for the file format of 0.9.
    lmdb: int
    #: The release that made the directory.
    release: str = ""
    state: State = State.DATA


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


def open_directory(path: Path, *, wait_s: float = LOCK_WAIT_S, is_rescue: bool = False) -> Directory:
    """Takes hold of a data directory, making it when it is not there.

    Raises `Stalled` WF317 when it cannot be made or written, WF310 when another daemon holds it, and having changed nothing
    WF311 when a newer release wrote it, WF312 when its log is gone, WF313 when it is an unfinished copy and WF314 when it is a
    backup. A `rescue` opens the copy that it is making, and only that.
    """
    path = Path(os.path.abspath(path))
    descriptor = _made(path)
    try:
        _lock(path, descriptor, wait_s)
        found = _recognise(path)
        if is_rescue:
            assert found.state is State.INCOMPLETE, "a rescue opens what it is making"
        else:
            _admit(path, found)
        os.fchmod(descriptor, 0o700)
        (path / layout.OWNER_FILE).write_text(f"{os.getpid()}\n")
    except BaseException:
        os.close(descriptor)
        raise
    return Directory(path, descriptor, found)


def _made(path: Path) -> int:
    """The directory, made when it is not there and open. Raises `Stalled` WF317 when it is not for this user to write."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Stalled("WF317", _unusable(path, error.strerror)) from error
    if not os.access(path, os.W_OK | os.X_OK):
        os.close(descriptor)
        raise Stalled("WF317", _unusable(path, "it cannot be written"))
    return descriptor


def _unusable(path: Path, why: str | None) -> str:
    return (
        f"data-dir {path} cannot be used: {why}; make it for the daemon's user, "
        "and under systemd name it in ReadWritePaths= of the unit too"
    )


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Keeps daemons out of a directory without changing anything in it. Raises `Stalled` WF310 when one is in."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(path, descriptor, 0)
        yield
    finally:
        os.close(descriptor)


def make_copy_directory(path: Path) -> Path:
    """Makes the directory of a copy, marked as incomplete; gives its whole path.

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
        raise Stalled("WF315", f"{path} is {what}, and nothing is ever written over it; name a new directory")
    return path


def _is_incomplete(path: Path) -> bool:
    try:
        found = read_format(path)
    except Stalled:
        return False
    return found is not None and found.state is State.INCOMPLETE


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
    found = read_format(path)
    if found is not None:
        return found
    if (path / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE).exists():
        raise Stalled(
            "WF311", f"{path} holds a log but no file {layout.FORMAT_FILE}, so its format is unknown; restore a backup"
        )
    return write_format(path, State.EMPTY)


def read_format(path: Path) -> Format | None:
    """What `FORMAT` says; None when there is none. Raises `Stalled` WF311 for one that this release does not understand."""
    file = path / layout.FORMAT_FILE
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Format)
    except FileNotFoundError:
        return None
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


def admit(path: Path, *, may_be_backup: bool = False) -> Format:
    """What a directory says of itself. Raises `Stalled` WF311 to WF314 for one that is not what the caller takes it for."""
    found = read_format(path)
    if found is None:
        raise Stalled("WF311", f"{path} has no file {layout.FORMAT_FILE}")
    _admit(path, found, may_be_backup=may_be_backup)
    return found


def _admit(path: Path, found: Format, *, may_be_backup: bool = False) -> None:
    if found.state is State.INCOMPLETE:
        raise Stalled(
            "WF313",
            f"{path} is an unfinished copy: what made it was ended half way; remove it, and make it again from its source",
        )
    if found.state is State.BACKUP and not may_be_backup:
        raise Stalled(
            "WF314", f"{path} is a backup, and stays as it is; waterflowd restore makes a data directory of it"
        )
    is_there = (path / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE).exists()
    if found.state in (State.DATA, State.BACKUP) and not is_there:
        raise Stalled(
            "WF312",
            f"{path} has lost its log: {layout.ENVIRONMENT_DIRECTORY}/{layout.LOG_FILE} is gone; put it back, or make an "
            "empty directory the data directory and bring a backup into it by waterflowd restore",
        )


def write_format(path: Path, state: State) -> Format:
    """Writes `FORMAT` into a directory, durably and whole or not at all."""
    wanted = Format(format=layout.FORMAT_VERSION, lmdb=layout.LMDB_ENGINE, release=waterflowd.__version__, state=state)
    file = path / layout.FORMAT_FILE
    fresh = file.with_name(file.name + ".new")
    with fresh.open("wb") as stream:
        stream.write(msgspec.json.encode(wanted) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    fresh.rename(file)
    sync_directory(path)
    return wanted
