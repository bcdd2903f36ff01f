"""Writes an entry beside its destination, and moves it there at the end; see `nodes/artifacts/staging.py`.

Rules of this file: nothing at the destination changes before everything was written and can be moved. Then files and links
replace those of the same name, and folders are completed. Permissions of folders are set last, because a folder may be one in
which nothing can be created.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path

from waterflow_agent.artifacts import writing
from waterflow_agent.caches.entries import EntryKind, EntryPath
from waterflow_agent.caches.selection import CachePaths
from waterflow_agent.nodes.artifacts import staging
from waterflow_agent.nodes.artifacts.staging import Staging

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Unpacking:
    """One entry. Every method blocks, and raises `OSError` and `NodeFailure`; call `close` at the end in any case."""

    def __init__(self, places: CachePaths, paths: Sequence[EntryPath]) -> None:
        self._places = places
        self._paths = paths
        #: By line: the folder that gets its files, what is written before, and the name of a single file in both.
        self._stages: dict[int, tuple[Path, Staging, str]] = {}
        #: Folders that did not exist, the deepest first.
        self._made: list[Path] = []

    def begin(self) -> None:
        """Creates the hidden folders."""
        alone = {path.line for path in self._paths if not path.path and path.kind is not EntryKind.FOLDER}
        for line in sorted({path.line for path in self._paths}):
            place = self._places.place(line)
            target, name = (place.parent, place.name) if line in alone else (place, "")
            self._make(target)
            self._stages[line] = (target, Staging(target), name)
        size = sum(path.size for path in self._paths)
        for _, stage, _ in self._stages.values():
            stage.check_space(size)

    def write(self) -> Generator[None, bytes, None]:
        """A generator that takes the content in blocks, and writes the files one after the other; links come last."""
        block = memoryview(b"")
        for path in self._paths:
            if path.kind is EntryKind.FOLDER:
                os.makedirs(self._place(path), exist_ok=True)
            if path.kind is not EntryKind.FILE:
                continue
            where = self._place(path)
            os.makedirs(where.parent, exist_ok=True)
            descriptor = os.open(where, _NEW, 0o600)
            try:
                block = yield from writing.fill(descriptor, path.size, block)
                os.fchmod(descriptor, path.mode)
                os.utime(descriptor, ns=(path.modified_ns, path.modified_ns))
            finally:
                os.close(descriptor)
        for path in self._paths:
            if path.kind is EntryKind.LINK:
                where = self._place(path)
                os.makedirs(where.parent, exist_ok=True)
                os.symlink(path.target, where)

    def finish(self) -> None:
        """Moves everything to its place."""
        staging.move_all([(stage.folder(0), target) for target, stage, _ in self._stages.values()])
        self._made.clear()
        for path in reversed(self._paths):
            if path.kind is EntryKind.FOLDER:
                with contextlib.suppress(OSError):
                    os.chmod(self._places.location(path), path.mode)

    def close(self) -> None:
        """Removes the hidden folders, and after an error what was created for them."""
        for _, stage, _ in self._stages.values():
            stage.remove()
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _make(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
        self._made = missing + self._made

    def _place(self, path: EntryPath) -> Path:
        _, stage, name = self._stages[path.line]
        return stage.folder(0) / (path.path or name)
