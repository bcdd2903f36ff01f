"""A cache of files on disk by their Git id, which evicts the least recently used. Blocking; for one thread at a time.

A file is hashed whenever it is used, so a file that a crash left incomplete, or that was changed, counts as missing. Only small
files are read into memory; large ones are passed on as their path.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

#: What a file contains, or the path of a file with the same content.
Content = bytes | Path
#: Larger files are never in memory as a whole.
SMALL_BYTES_MAX = 1 << 20
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class BlobCache:
    """The cached files below `root`."""

    def __init__(self, root: Path, bytes_max: int) -> None:
        self._root = os.fspath(root)
        self._bytes_max = bytes_max
        self._bytes = 0
        #: Size by name, in the order of use.
        self._sizes: OrderedDict[str, int] | None = None

    def get(self, blob: bytes) -> Content | None:
        """Returns the content, or None when it is not cached or damaged. A path is valid until the next call."""
        name = blob.hex()
        sizes = self._known()
        if name not in sizes:
            return None
        content: Content | None = None
        with suppress(OSError):
            content = _verified(self._path(name), blob)
        if content is None:
            self._forget(name)
            return None
        sizes.move_to_end(name)
        return content

    def has_room(self, size: int) -> bool:
        """Whether a file of this size can be cached."""
        return size <= self._bytes_max

    def put(self, blob: bytes, content: bytes) -> None:
        """Caches a content if there is space. A full disk is not an error: the content is fetched again next time."""
        name, size = blob.hex(), len(content)
        sizes = self._known()
        if name in sizes or size > self._bytes_max:
            return
        self._evict(size)
        if _is_written(self._path(name), content):
            sizes[name] = size
            self._bytes += size

    def adopt(self, blob: bytes, path: Path) -> Path | None:
        """Moves a file with this content, which was verified, into the cache, and returns where it is then.

        None if it is larger than the cache; then it stays where it is. Raises `OSError`.
        """
        name, size = blob.hex(), path.stat().st_size
        sizes = self._known()
        if not self.has_room(size):
            return None
        if name in sizes:
            self._forget(name)
        self._evict(size)
        target = self._path(name)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        os.rename(path, target)
        sizes[name] = size
        self._bytes += size
        return Path(target)

    def _evict(self, size: int) -> None:
        """Makes room for a file."""
        while self._bytes + size > self._bytes_max:
            self._forget(next(iter(self._known())))

    def _known(self) -> OrderedDict[str, int]:
        """Returns what is cached; the first call reads it from disk."""
        if self._sizes is None:
            found: list[tuple[float, str, int]] = []
            for folder in _folders(self._root):
                for entry in os.scandir(folder):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime, os.path.basename(folder) + entry.name, status.st_size))
            self._sizes = OrderedDict((name, size) for _, name, size in sorted(found))
            self._bytes = sum(self._sizes.values())
        return self._sizes

    def _forget(self, name: str) -> None:
        self._bytes -= self._known().pop(name)
        with suppress(OSError):
            os.unlink(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name[2:]}"


def blob_id(content: bytes | bytearray) -> bytes:
    """Returns the Git id of a file with this content."""
    digest = blob_digest(len(content))
    digest.update(content)
    return digest.digest()


def blob_digest(size: int) -> hashlib._Hash:
    """Returns what computes the Git id of a file of this size from its content."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _verified(path: str, blob: bytes) -> Content | None:
    """The content at a path, if it has this Git id. Raises `OSError`."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= SMALL_BYTES_MAX:
            content = file.read()
            return content if blob_id(content) == blob else None
        digest = blob_digest(size)
        while part := file.read(SMALL_BYTES_MAX):
            digest.update(part)
    return Path(path) if digest.digest() == blob else None


def _is_written(path: str, content: bytes) -> bool:
    # Written in place: an incomplete file after a crash is noticed when it is read.
    try:
        try:
            file = os.open(path, _FLAGS, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            file = os.open(path, _FLAGS, 0o600)
        try:
            write_all(file, content)
        finally:
            os.close(file)
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        return False
    return True


def write_all(file: int, content: bytes) -> None:
    """Writes all of the content to an open file."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def _folders(root: str) -> list[str]:
    with suppress(FileNotFoundError):
        return [entry.path for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    return []
