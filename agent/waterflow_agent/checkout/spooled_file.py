"""A file that arrives in parts and may be continued by a later attempt or process. Blocking; one call at a time.

Theory: the hashes are computed while the file grows, so a complete file need not be read again. What is continued is: its
beginning has to be hashed, and a power cut may have damaged it. So a continued file that turns out wrong is begun again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from waterflow_agent.checkout.blob_cache import write_all

_READ_BYTES = 1 << 20


class SpooledFile:
    """A file of `size` bytes, of which `offset` have arrived."""

    def __init__(self, path: Path, size: int, begin_hashes: Callable[[], Sequence[hashlib._Hash]]) -> None:
        """Continues what is at `path`; `begin_hashes` returns hashes that have no content yet. Raises `OSError`."""
        self.path = path
        self.size = size
        self.offset = 0
        self._begin_hashes = begin_hashes
        self._hashes = begin_hashes()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Two at the same time would write into each other's file, which neither notices.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read_again()
        except BaseException:
            os.close(self._file)
            raise
        #: Whether an earlier attempt has received a part of it.
        self.is_continued = self.offset > 0

    @property
    def left(self) -> int:
        """How many bytes have not arrived."""
        return self.size - self.offset

    def hashes(self) -> list[bytes]:
        """The values of the hashes for what has arrived."""
        return [value.digest() for value in self._hashes]

    def append(self, data: bytes) -> None:
        """Writes the next part; no more than is left. Raises `OSError`."""
        assert len(data) <= self.left, "the caller checks the size"
        write_all(self._file, data)
        for value in self._hashes:
            value.update(data)
        self.offset += len(data)

    def restart(self) -> None:
        """Begins again without what has arrived. Raises `OSError`."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self.offset, self.is_continued, self._hashes = 0, False, self._begin_hashes()

    def sync(self) -> None:
        """Returns when everything is on the disk. Raises `OSError`."""
        os.fsync(self._file)

    def close(self) -> None:
        """Closes the file; what has arrived stays. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def discard(self) -> None:
        """Closes the file, and removes it unless it was moved."""
        self.close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def _read_again(self) -> None:
        if os.fstat(self._file).st_size > self.size:
            os.ftruncate(self._file, 0)
        while data := os.read(self._file, _READ_BYTES):
            for value in self._hashes:
                value.update(data)
            self.offset += len(data)
