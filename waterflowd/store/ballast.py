"""Reserved disk space, so that work in progress can still be committed when the disk is full.

LMDB needs fresh pages even to delete something. At the first "no space left" the reserve file is deleted, which lets the
current transaction through. From then on the disk counts as low, until there is room to create the file again. The file
exists only while a daemon runs: an orderly shutdown removes it, and the next daemon creates it again.
"""

from __future__ import annotations

import os
from pathlib import Path

from waterflowd.store import layout

#: The reserve is created again only when this many times its size is free; otherwise it would be released again at once.
FREE_TIMES = 2


class Ballast:
    """The reserve file of one data directory. Only used by the writer thread."""

    def __init__(self, directory: Path, *, size_bytes: int = layout.BALLAST_BYTES) -> None:
        self._path = directory / layout.BALLAST_FILE
        disk = os.statvfs(directory)
        self._bytes = min(size_bytes, disk.f_blocks * disk.f_frsize // layout.BALLAST_SHARE)
        self._exists = self._path.exists() and self._path.stat().st_size >= self._bytes

    @property
    def is_reserved(self) -> bool:
        """False while the disk is low. A reserve of zero bytes always counts as reserved."""
        return self._exists or self._bytes == 0

    def reserve(self) -> bool:
        """Reserves the space if there is plenty; returns whether it is reserved now. Never raises for a full disk."""
        if self.is_reserved:
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
        self._exists = True
        return True

    def release(self) -> bool:
        """Frees the space; returns whether there was any to free."""
        self._exists = False
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
