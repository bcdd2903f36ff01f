"""Writes a tree into a directory, or changes one tree into another. Blocking.

Rules of this file: only the agent uses the directory while it is written. Links are created last, so nothing is ever written
through one. An existing file is an error and is never overwritten: the list contains each path once. Files have the usual
modes, whatever the umask of the agent is, because steps of another user read them. The directory above is private.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from waterflow_agent.checkout.blob_cache import Content, write_all
from waterflow_agent.checkout.file_list import FileEntry, FileKind

_MODES = {FileKind.FILE: 0o644, FileKind.EXECUTABLE: 0o755, FileKind.GIT: 0o644}
_FOLDER_MODE = 0o755
_COPY_BYTES = 64 << 20


class TreeWriter:
    """Writes below `root`, which exists."""

    def __init__(self, root: str) -> None:
        self._root = os.fsencode(root)
        self._folders = {b""}
        self._links: list[tuple[bytes, bytes]] = []

    def write(self, entry: FileEntry, content: Content) -> None:
        """Writes one entry; links are created by `finish`. Raises `OSError`."""
        if entry.kind is FileKind.LINK:
            if isinstance(content, Path):
                raise _too_long(entry)
            self._links.append((entry.path, content))
            return
        if entry.kind is FileKind.SUBMODULE:
            self._enter(entry.path)
            return
        self._enter(os.path.dirname(entry.path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._at(entry.path), flags, _MODES[entry.kind])
        try:
            os.fchmod(file, _MODES[entry.kind])
            if isinstance(content, Path):
                _copy(content, file)
            else:
                write_all(file, content)
        finally:
            os.close(file)

    def move(self, entry: FileEntry, source: Path) -> None:
        """Makes a file of the same file system the entry, without a copy. Raises `OSError`."""
        if entry.kind is FileKind.LINK:
            raise _too_long(entry)
        self.write(entry, b"")
        os.chmod(source, _MODES[entry.kind])
        os.rename(source, self._at(entry.path))

    def remove(self, entries: Iterable[FileEntry]) -> None:
        """Removes files of an earlier tree, and folders that are then empty."""
        emptied: set[bytes] = set()
        for entry in entries:
            if entry.kind is FileKind.SUBMODULE:
                emptied.add(entry.path)
            else:
                os.unlink(self._at(entry.path))
                emptied.add(os.path.dirname(entry.path))
        # The deepest first. A folder that is not empty stays, and so do those above it.
        waiting = sorted(emptied, key=len)
        while waiting:
            folder = waiting.pop()
            with suppress(OSError):
                if folder:
                    os.rmdir(self._at(folder))
                    waiting.append(os.path.dirname(folder))

    def finish(self) -> None:
        """Creates the links."""
        for path, target in self._links:
            self._enter(os.path.dirname(path))
            os.symlink(target, self._at(path))
        self._links.clear()

    def _enter(self, folder: bytes) -> None:
        if folder in self._folders:
            return
        self._enter(os.path.dirname(folder))
        with suppress(FileExistsError):
            os.mkdir(self._at(folder), _FOLDER_MODE)
            os.chmod(self._at(folder), _FOLDER_MODE)
        self._folders.add(folder)

    def _at(self, path: bytes) -> bytes:
        return self._root + b"/" + path


def _too_long(entry: FileEntry) -> OSError:
    return OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fsdecode(entry.path))


def _copy(source: Path, target: int) -> None:
    """Copies a file in the kernel; file systems that can share the blocks of both do so."""
    with open(source, "rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left and (count := _copy_some(file.fileno(), target, left)):
            left -= count
        if left:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))


def _copy_some(source: int, target: int, count: int) -> int:
    with suppress(OSError):
        return os.copy_file_range(source, target, min(count, _COPY_BYTES))
    # Old kernels, and some file systems, cannot; an error of the disk occurs again.
    return os.sendfile(target, source, None, min(count, _COPY_BYTES))
