"""Objects as files below a directory, for one daemon, or for several on a shared file system.

Rules of this file: a file is written under another name, flushed, renamed, and its name is flushed. So an object is there
completely or not at all, and stays there when the machine loses power. Temporary names begin with a dot and are never listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from pathlib import Path

from waterflow_agent.errors import Retryable


class DirectoryObjects:
    """Implements `ports.Objects`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def put(self, key: str, content: bytes) -> None:
        """See `ports.Objects`."""
        await asyncio.to_thread(self._put, self._path / key, content)

    async def get(self, key: str) -> bytes | None:
        """See `ports.Objects`."""
        return await asyncio.to_thread(self._get, self._path / key)

    async def names(self, folder: str) -> list[str]:
        """See `ports.Objects`."""
        return await asyncio.to_thread(self._names, self._path / folder)

    def _put(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            self._make(path.parent)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                with open(fd, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(fd)
                os.rename(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            _sync(path.parent)
        except OSError as error:
            raise _failure(path, error) from error

    def _make(self, folder: Path) -> None:
        """Creates a folder and those above it, each durably."""
        if folder != self._path and not folder.is_dir():
            self._make(folder.parent)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _sync(folder.parent)

    @staticmethod
    def _get(path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failure(path, error) from error

    def _names(self, folder: Path) -> list[str]:
        try:
            return sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except FileNotFoundError:
            if self._path.is_dir():
                return []
            raise Retryable("WF322", f"the object storage {self._path} is not there; is it mounted?") from None
        except OSError as error:
            raise _failure(folder, error) from error


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failure(path: Path, error: OSError) -> Retryable:
    return Retryable("WF322", f"the object storage cannot be used: {path}: {error.strerror}")
