"""Disk space kept back for the day the disk is full, so that what is already under way can still be committed.

LMDB needs fresh pages even to delete something. The file is given up at the first "no space left", which lets the
transaction at hand through; from then on the disk counts as low, until there is room to make the file again. It exists
while a daemon runs: an orderly end takes it away, for its successor to make.
"""

from __future__ import annotations

import os
from pathlib import Path

from waterflowd.store import layout

#: The ballast is made again only when this many times its size is free, or it would be given up again at once.
FREE_TIMES = 2


class Ballast:
    """The reserve file of one data directory. Used by the writer thread alone."""

    def __init__(self, directory: Path, *, size_bytes: int = layout.BALLAST_BYTES) -> None:
        self._path = directory / layout.BALLAST_FILE
        disk = os.statvfs(directory)
        self._bytes = min(size_bytes, disk.f_blocks * disk.f_frsize // layout.BALLAST_SHARE)
        self._is_there = self._path.exists() and self._path.stat().st_size >= self._bytes

    @property
    def is_there(self) -> bool:
        """False while the disk is low. A ballast of no bytes is always there."""
        return self._is_there or self._bytes == 0

    def make(self) -> bool:
        """Sets the space aside if there is plenty; tells whether the ballast is there now. Never raises for a full disk."""
        if self.is_there:
            return True
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < FREE_TIMES * self._bytes:
            return False
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, self._bytes)
            finally:
                os.close(file)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        self._is_there = True
        return True

    def release(self) -> bool:
        """Gives the space back; tells whether there was any to give."""
        self._is_there = False
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
