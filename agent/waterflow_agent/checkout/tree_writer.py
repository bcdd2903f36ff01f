"""Writes a tree into a directory, or changes one tree into another. Blocking.

Rules of this file: only the agent uses the directory while it is written. Links are created last, so nothing is ever written
through one. An existing file is an error and is never overwritten: the list contains each path once. Files have the usual
modes, whatever the umask of the agent is, because steps of another user read them. The directory above is private.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from waterflow_agent.checkout.blob_cache import write_all
from waterflow_agent.checkout.file_list import FileEntry, FileKind

_MODES = {FileKind.FILE: 0o644, FileKind.EXECUTABLE: 0o755, FileKind.GIT: 0o644}
_FOLDER_MODE = 0o755


class TreeWriter:
    """Writes below `root`, which exists."""

    def __init__(self, root: str) -> None:
        self._root = os.fsencode(root)
        self._folders = {b""}
        self._links: list[tuple[bytes, bytes]] = []

    def write(self, entry: FileEntry, content: bytes) -> None:
        """Writes one entry; links are created by `finish`. Raises `OSError`."""
        if entry.kind is FileKind.LINK:
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
            write_all(file, content)
        finally:
            os.close(file)

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
