"""Reusable directories for the files of one attempt: script, outputs, environment, summary.

For a short step, creating and removing five files costs as much as everything else together. So directories are numbered and
kept: `<data-dir>/steps/<number>/`. The number is in the journal's `AcceptedRecord`, so a later process of the agent finds what
a step has written. A directory is reused only when it is clean: it contains only the known files, each a regular file of this
user with a single link, and no process of the step is left that may have them open. All others are moved to the trash.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from waterflow_agent.nodes import step_files

#: More than a large agent has slots, so that a steady load creates no directories.
FREE_MAX = 64
#: A directory with this file is never clean.
_IN_USE = "in-use"
_KNOWN = frozenset({"script", "script.py", "script.ps1", *step_files.RETURNED})


class StepDirectories:
    """The directories of one agent. For the loop's thread; calls take microseconds."""

    def __init__(self, root: Path, discard: Callable[[Path], None]) -> None:
        """`discard` moves a directory to the trash."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = str(root)
        self._discard = discard
        self._taken: set[int] = set()
        self._free: list[int] = []
        self._next = 1

    def adopt(self, number: int) -> None:
        """Keeps the directory of an attempt of an earlier process. Call this before `sweep`."""
        self._taken.add(number)

    def sweep(self) -> None:
        """Frees the directories of an earlier process that no attempt has. Called once, after every `adopt`."""
        for name in os.listdir(self._root):
            number = int(name) if name.isdigit() else 0
            if number == 0:
                self._discard(Path(self._root, name))
            elif number not in self._taken:
                self._free_or_discard(number)
        self._next = max((*self._taken, *self._free), default=0) + 1

    def take(self) -> int:
        """Returns a number for an attempt; its directory need not exist yet."""
        if self._free:
            number = self._free.pop()
        else:
            number, self._next = self._next, self._next + 1
        self._taken.add(number)
        return number

    def path(self, number: int) -> str:
        """Returns the path of the directory."""
        return f"{self._root}/{number}"

    def never_reuse(self, number: int) -> None:
        """Has the directory discarded when it is released, also by a later process."""
        with contextlib.suppress(OSError):
            Path(self.path(number), _IN_USE).touch(0o600)

    def release(self, number: int) -> None:
        """Frees the directory of an ended attempt. A second call has no effect."""
        if number in self._taken:
            self._taken.discard(number)
            self._free_or_discard(number)

    def _free_or_discard(self, number: int) -> None:
        path = self.path(number)
        try:
            is_clean = len(self._free) < FREE_MAX and _make_clean(path)
        except FileNotFoundError:
            # Never created: the number can be reused.
            is_clean = True
        except OSError:
            is_clean = False
        if is_clean:
            self._free.append(number)
        else:
            self._discard(Path(path))


def _make_clean(path: str) -> bool:
    user = os.geteuid()
    with os.scandir(path) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if entry.name not in _KNOWN or not stat.S_ISREG(status.st_mode):
                return False
            if status.st_nlink != 1 or status.st_uid != user or status.st_mode & 0o777 != 0o600:
                return False
            if status.st_size and entry.name in step_files.RETURNED:
                os.truncate(entry.path, 0)
    return True
