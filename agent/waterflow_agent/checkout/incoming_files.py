"""Files that are larger than a response, while they arrive: each in a file on disk, so that none is in memory. Blocking.

    <data-dir>/trees/incoming/   by Git id; what has arrived so far

Rules of this file: a file leaves the directory only when it has its Git id. What a killed agent has left is continued. What was
not continued within an hour is removed.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from waterflow_agent.checkout.blob_cache import blob_digest
from waterflow_agent.checkout.spooled_file import SpooledFile
from waterflow_agent.display import size_text
from waterflow_agent.errors import Rejected
from waterflow_agent.machine import RESERVED_BYTES

#: How long an incomplete file is kept for the agent's next process.
KEPT_S = 3_600.0


class IncomingFile(SpooledFile):
    """A file with a Git id."""

    def __init__(self, path: Path, blob: bytes, size: int) -> None:
        """Continues what is at `path`. Raises `OSError`."""
        super().__init__(path, size, lambda: [blob_digest(size)])
        self.blob = blob

    def is_right(self) -> bool:
        """Whether everything has arrived, and has the Git id."""
        return not self.left and self.hashes() == [self.blob]


class IncomingFiles:
    """The files below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: set[str] = set()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def begin(self, name: str, blob: bytes, size: int, copies: int) -> IncomingFile:
        """Begins or continues a file of which `copies` are written, too; `name` is for people.

        No other call may be receiving the same file.

        Raises `Rejected` WF755 if the disk does not have the space, and `OSError`.
        """
        self._remove_old()
        file = IncomingFile(self._root / blob.hex(), blob, size)
        try:
            self._check_space(name, file.left + size * copies, size)
        except BaseException:
            file.discard()
            raise
        self._open.add(file.path.name)
        return file

    def end(self, file: IncomingFile, *, keep: bool = False) -> None:
        """Ends the work on a file, and removes what was not moved elsewhere, unless a next attempt continues it."""
        self._open.discard(file.path.name)
        if keep:
            file.close()
        else:
            file.discard()

    def _check_space(self, name: str, written: int, size: int) -> None:
        # A small file needs as much besides, because steps need space, too.
        disk = shutil.disk_usage(self._root)
        needed = written + min(size, RESERVED_BYTES)
        # Some file systems do not know their size.
        if disk.total and disk.free < needed:
            text = f"{name} has {size_text(size)}, and the disk of this server has only {size_text(disk.free)} left"
            raise Rejected("WF755", f"{text}; {size_text(needed)} are needed, so free some space")

    def _remove_old(self) -> None:
        oldest = time.time() - KEPT_S
        for entry in os.scandir(self._root):
            if entry.name not in self._open and entry.stat(follow_symlinks=False).st_mtime < oldest:
                os.unlink(entry.path)
