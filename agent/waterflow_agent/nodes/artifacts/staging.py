"""The hidden folder at the destination into which artifacts and caches are fetched, and from which they are moved at the end.

Rules of this file:

- The folder is locked while its step lives. One without a lock is from a step that was killed; the next download to the same
  destination removes it.
- What could fail is checked before the first file is moved, so a download that fails leaves the destination as it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from waterflow_agent.display import escape_for_display, size_text
from waterflow_agent.nodes.node import NodeFailure

_PREFIX = ".artifacts-"
_NAME = re.compile(re.escape(_PREFIX) + "[0-9a-f]{16}")


class Staging:
    """A new folder below the destination. Blocking; raises `OSError`."""

    def __init__(self, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        _remove_left(target)
        self._target = target
        self.path, self._lock = _create(target)

    def folder(self, number: int) -> Path:
        """A folder for the files of one artifact."""
        path = self.path / str(number)
        path.mkdir(exist_ok=True)
        return path

    def check_space(self, size: int) -> None:
        """Raises `NodeFailure` if so many bytes do not fit on the disk."""
        disk = shutil.disk_usage(self._target)
        # Some file systems do not know their size.
        if disk.total and disk.free < size:
            shown = escape_for_display(str(self._target), 200)
            text = (
                f"the files have {size_text(size)}, and {shown} has only {size_text(disk.free)} left; free some space"
            )
            raise NodeFailure(text, may_retry=True)

    def remove(self) -> None:
        """Removes the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _create(target: Path) -> tuple[Path, int]:
    while True:
        path = target / f"{_PREFIX}{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Another step may have taken it for one that was left, before it was locked.
        if _is_locked_by(folder) is not False and path.exists():
            return path, folder
        os.close(folder)


def _is_locked_by(folder: int) -> bool | None:
    """Locks a folder. False if another step has it; None where folders cannot be locked, as on NFS."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_left(target: Path) -> None:
    for path in [os.path.join(target, name) for name in os.listdir(target) if _NAME.fullmatch(name)]:
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if _is_locked_by(folder):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(folder)


# Moving ---------------------------------------------------------------------------------------------------------------


def move_all(places: Sequence[tuple[Path, Path]]) -> None:
    """Moves what is in each folder to another one. Raises `NodeFailure` before anything has changed, and `OSError`."""
    for source, target in places:
        _check(source, target)
    for source, target in places:
        _move(source, target)


def _check(source: Path, target: Path) -> None:
    """Raises `NodeFailure` if something in `source` cannot be moved to its place in `target`."""
    if not os.path.lexists(target):
        return
    if not os.path.isdir(target):
        raise _in_the_way(target, "a file is in the place of a folder")
    if not os.access(target, os.W_OK | os.X_OK):
        raise _in_the_way(target, "permission denied")
    for entry in _entries(source):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            _check(Path(entry.path), place)
        elif place.is_dir() and not place.is_symlink():
            raise _in_the_way(place, "a folder is in the place of a file")


def _in_the_way(place: Path, why: str) -> NodeFailure:
    return NodeFailure(f"cannot write {escape_for_display(str(place), 200)}: {why}")


def _move(source: Path, target: Path) -> None:
    """Replaces files, and completes folders."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in _entries(source):
        place = target / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and os.path.lexists(place):
            _move(Path(entry.path), place)
            continue
        try:
            os.replace(entry.path, place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # A folder of the destination is a link to another disk, or a disk is mounted there.
            (_move if is_folder else _copy)(Path(entry.path), place)


def _copy(source: Path, place: Path) -> None:
    new = place.with_name(f"{_PREFIX}{secrets.token_hex(8)}")
    try:
        shutil.copy2(source, new, follow_symlinks=False)
        os.replace(new, place)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)
