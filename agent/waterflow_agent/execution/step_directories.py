"""Directories for the files of one attempt (script, outputs, environment, summary), used again and again.

Making and removing four files costs a short step as much as everything else about it together, so directories are numbered
and kept: `<data-dir>/steps/<number>/`. The number is in the journal's `Accepted`, so a later process of the agent finds what a
step wrote. A directory is used again only when it is as good as new: nothing but the known files, each a regular one of this
user with a single name. Everything else is moved away and removed, whatever it is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

#: More than slots of a large agent, so a steady load makes no directories.
FREE_MAX = 64
#: What a step is given; the script is written over, the others are emptied.
EMPTIED = ("output", "env", "summary")
_KNOWN = frozenset({"script", "script.py", "script.ps1", *EMPTIED})


class StepDirectories:
    """All such directories of one agent; for the loop's thread. Calls take microseconds."""

    def __init__(self, root: Path, discard: Callable[[Path], None]) -> None:
        """`discard` moves a directory out of the way and has it removed later."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = str(root)
        self._discard = discard
        self._taken: set[int] = set()
        self._free: list[int] = []
        self._next = 1

    def adopt(self, number: int) -> None:
        """An attempt of an earlier start has this one; before `sweep`."""
        self._taken.add(number)

    def sweep(self) -> None:
        """Frees what an earlier start left and no attempt has; once, after every `adopt`."""
        for name in os.listdir(self._root):
            number = int(name) if name.isdigit() else 0
            if number == 0:
                self._discard(Path(self._root, name))
            elif number not in self._taken:
                self._free_or_discard(number)
        self._next = max((*self._taken, *self._free), default=0) + 1

    def take(self) -> int:
        """A number for an attempt; its directory need not exist yet."""
        if self._free:
            number = self._free.pop()
        else:
            number, self._next = self._next, self._next + 1
        self._taken.add(number)
        return number

    def path(self, number: int) -> str:
        """Where the directory is."""
        return f"{self._root}/{number}"

    def release(self, number: int) -> None:
        """The attempt is over and nobody wants its files any more; twice does no harm."""
        if number in self._taken:
            self._taken.discard(number)
            self._free_or_discard(number)

    def _free_or_discard(self, number: int) -> None:
        path = self.path(number)
        try:
            is_good = len(self._free) < FREE_MAX and _make_good_as_new(path)
        except FileNotFoundError:
            # Never made: the number may be used all the same.
            is_good = True
        except OSError:
            is_good = False
        if is_good:
            self._free.append(number)
        else:
            self._discard(Path(path))


def _make_good_as_new(path: str) -> bool:
    user = os.geteuid()
    with os.scandir(path) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if entry.name not in _KNOWN or not stat.S_ISREG(status.st_mode):
                return False
            if status.st_nlink != 1 or status.st_uid != user or status.st_mode & 0o777 != 0o600:
                return False
            if status.st_size and entry.name in EMPTIED:
                os.truncate(entry.path, 0)
    return True
