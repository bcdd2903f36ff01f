"""The files that the lines of a cache's `path` select, and where each line's files belong.

Rules of this file: a folder is taken with all that is in it, hidden files included. Links are kept as links. Sockets, pipes and
devices are left out. What two lines select belongs to the first of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from waterflow_agent.artifacts import patterns
from waterflow_agent.caches.entries import LINES_MAX, EntryKind, EntryPath
from waterflow_agent.errors import Rejected


class CachePaths:
    """The lines of one step, on this server."""

    def __init__(self, text: str, directory: Path, home: str) -> None:
        """Raises `Rejected` WF763 for lines that select nothing, and `ValueError` for an invalid pattern."""
        self._patterns = patterns.parse(text, directory, home=home)
        self._included = [pattern for pattern in self._patterns if not pattern.is_exclusion]
        if not 0 < len(self._included) <= LINES_MAX:
            raise Rejected("WF763", f"path: expected 1 to {LINES_MAX} lines that select files")

    def __len__(self) -> int:
        return len(self._included)

    def place(self, line: int) -> Path:
        """Where the search of a line begins."""
        return Path(self._included[line].base)

    def location(self, path: EntryPath) -> str:
        """Where a path of an entry is on this server."""
        base = self._included[path.line].base
        return f"{base.rstrip('/')}/{path.path}" if path.path else base

    def selected(self) -> Iterator[EntryPath]:
        """What the lines select, in order. Raises `OSError` for a folder that cannot be read."""
        seen: set[str] = set()
        for line, pattern in enumerate(self._included):
            for path in _found(pattern.base):
                is_own = path == pattern.base and pattern.is_literal
                if path in seen or not (is_own or pattern.selects(path)):
                    continue
                if patterns.is_selected(path, self._patterns) or is_own:
                    entry = _entry(line, path, path[len(pattern.base) :].lstrip("/"))
                    if entry is not None:
                        seen.add(path)
                        yield entry


def _found(base: str) -> Iterator[str]:
    """The place itself and all below it, sorted."""
    if not os.path.lexists(base):
        return
    yield base
    if os.path.isdir(base):
        yield from _below(base)


def _below(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        yield entry.path
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path)


def _entry(line: int, path: str, relative: str) -> EntryPath | None:
    """None for what cannot be saved. A line's own place may be a link: what it points to is saved."""
    status = os.stat(path) if not relative else os.lstat(path)
    mode = status.st_mode & 0o777
    if stat.S_ISREG(status.st_mode):
        return EntryPath(line, relative, EntryKind.FILE, status.st_size, mode, status.st_mtime_ns)
    if stat.S_ISDIR(status.st_mode):
        return EntryPath(line, relative, EntryKind.FOLDER, mode=mode)
    if stat.S_ISLNK(status.st_mode):
        return EntryPath(line, relative, EntryKind.LINK, target=os.readlink(path))
    return None
