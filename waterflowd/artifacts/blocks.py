"""Blocks on disk: `blocks/<scope>/<two digits>/<rest of the SHA-256>`, one file each.

Rules of this file:

- A block is written under a temporary name, flushed, and renamed; so under its digest is all of it or nothing. The names become
  durable when an artifact that consists of them is committed (`sync`).
- Each block is hashed when it arrives and whenever it is read. A damaged one is set aside, so that it can be stored again.
- The scope is the repository: runs of different repositories share no blocks, so a digest does not reveal what another
  repository has stored.
- A block is used if an artifact has it. An unused one stays for `GRACE_S` after an upload last stored it or asked for it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.durability import sync_directory

#: How long an unused block is kept for the upload that it belongs to.
GRACE_S = 86_400.0
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def scope_of(repository: str | None, run: str) -> str:
    """The scope of a run's blocks; that of a workflow that was sent to the API is the run itself."""
    text = f"repository {repository}" if repository is not None else f"run {run}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class BlockFiles:
    """All blocks below a directory. Blocking."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blocks = root / "blocks"
        self._temporary = root / "new"
        self._numbers = itertools.count()
        #: Directories whose names are durable.
        self._synced: set[str] = set()
        self._stored_bytes: int | None = None
        self._has_discarded = False

    @property
    def stored_bytes(self) -> int:
        """Size of all blocks. The first call reads the directories."""
        if self._stored_bytes is None:
            self._stored_bytes = sum(size for _, _, size in self.listed())
        return self._stored_bytes

    @property
    def known_bytes(self) -> int | None:
        """The same without reading; None before the first call of `stored_bytes`."""
        return self._stored_bytes

    def _discard_unfinished(self) -> None:
        """Removes what an earlier process has left under temporary names."""
        self._has_discarded = True
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._temporary):
                os.unlink(self._temporary / name)

    def has(self, scope: str, digest: bytes, *, touches: bool = False) -> bool:
        """Whether a block exists; with `touches` it is kept for another `GRACE_S`."""
        path = self._path(scope, digest)
        try:
            if touches:
                os.utime(path)
                return True
            return os.path.exists(path)
        except FileNotFoundError:
            return False

    def size(self, scope: str, digest: bytes) -> int | None:
        """Size of a block; None if it does not exist."""
        try:
            return os.stat(self._path(scope, digest)).st_size
        except FileNotFoundError:
            return None

    def put(self, scope: str, digest: bytes, data: bytes) -> bool:
        """Stores a block; False if it exists already. Raises `Rejected` WF331 if digest and data differ, and `OSError`."""
        if hashlib.sha256(data).digest() != digest:
            raise Rejected("WF331", "a block arrived damaged: its SHA-256 is different")
        if self.has(scope, digest, touches=True):
            return False
        if not self._has_discarded:
            self._discard_unfinished()
        total = self.stored_bytes
        path = self._path(scope, digest)
        new = f"{self._temporary}/{next(self._numbers)}"
        try:
            with _created(new, self._temporary) as file:
                _write_all(file, data)
                os.fdatasync(file)
            self._synced.discard(os.path.dirname(path))
            try:
                os.rename(new, path)
            except FileNotFoundError:
                _make_directories(os.path.dirname(path))
                os.rename(new, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        self._stored_bytes = total + len(data)
        return True

    def get(self, scope: str, digest: bytes, *, sets_aside: bool = True) -> bytes:
        """The content of a block. Raises `Stalled` WF304 if it is missing or damaged."""
        path = self._path(scope, digest)
        try:
            descriptor = os.open(path, _READ)
            with open(descriptor, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            # It may be stored again by now, so nothing is set aside.
            data, sets_aside = b"", False
        if hashlib.sha256(data).digest() != digest:
            with contextlib.suppress(OSError):
                if sets_aside:
                    os.rename(path, f"{path}.damaged")
            raise Stalled(
                "WF304", f"block {digest.hex()[:16]} of an artifact is missing or damaged on the daemon's disk"
            )
        return data

    def sync(self, scope: str, digests: Iterator[bytes]) -> None:
        """Makes the names of these blocks durable, and those of their directories.

        An earlier process may have been killed after it had created a directory.
        """
        folders = {os.path.dirname(self._path(scope, digest)) for digest in digests}
        above = {f"{self._blocks}/{scope}", str(self._blocks), str(self._root), str(self._root.parent)}
        for folder in (folders | above) - self._synced:
            sync_directory(Path(folder))
            self._synced.add(folder)

    def listed(self, scope: str | None = None) -> Iterator[tuple[str, bytes, int]]:
        """Scope, digest and size of every block, also of those with a name that is not a digest (empty then)."""
        for folder in self.folders(scope):
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        yield Path(folder).parent.name, _digest_of(entry.path), entry.stat().st_size

    def scopes(self) -> list[str]:
        """All scopes that have blocks."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self._blocks))
        return []

    def folders(self, scope: str | None = None) -> Iterator[str]:
        """The directories with blocks, of one scope or of all."""
        for name in [scope] if scope is not None else self.scopes():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for prefix in sorted(os.listdir(self._blocks / name)):
                    yield f"{self._blocks}/{name}/{prefix}"

    def remove_unused(self, folder: str, used: set[bytes], before: float) -> int:
        """Removes the blocks of one directory that are not used, and were not touched since `before`; returns their size.

        `before` must be some time before `used` was computed, whatever the clock says now.
        """
        removed = 0
        # Its first call must not count what is removed here.
        total = self.stored_bytes
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if _digest_of(entry.path) not in used and status.st_mtime < before:
                    os.unlink(entry.path)
                    removed += status.st_size
        self._stored_bytes = total - removed
        self._remove_if_empty(folder)
        return removed

    def _remove_if_empty(self, folder: str) -> None:
        """Removes a directory of blocks, and that of its scope, if nothing is in them."""
        for path in (folder, os.path.dirname(folder)):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                return
            self._synced.discard(path)

    def remove(self, scope: str, digests: Sequence[bytes], before: float) -> int:
        """Removes those of these blocks that were not touched since `before`; returns their size."""
        total, removed = self.stored_bytes, 0
        for digest in digests:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(self._path(scope, digest))
                if status.st_mtime < before:
                    os.unlink(self._path(scope, digest))
                    removed += status.st_size
        self._stored_bytes = total - removed
        for folder in {os.path.dirname(self._path(scope, digest)) for digest in digests}:
            self._remove_if_empty(folder)
        return removed

    def path(self, scope: str, digest: bytes) -> Path:
        """The file of a block."""
        return Path(self._path(scope, digest))

    def _path(self, scope: str, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._blocks}/{scope}/{name[:2]}/{name[2:]}"


def _digest_of(path: str) -> bytes:
    folder, name = os.path.split(path)
    try:
        return bytes.fromhex(os.path.basename(folder) + name)
    except ValueError:
        return b""


@contextlib.contextmanager
def _created(path: str, folder: Path) -> Iterator[int]:
    try:
        file = os.open(path, _NEW, 0o600)
    except FileNotFoundError:
        _make_directories(os.fspath(folder))
        file = os.open(path, _NEW, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _make_directories(path: str) -> None:
    """Creates a directory and its parents, durably."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_directories(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    sync_directory(Path(parent))


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
