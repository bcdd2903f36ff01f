"""Files of this server.

Below the folder of the step no symbolic link is followed, neither when reading nor when writing: every part of a name is
opened relative to its parent without following links. So neither a name nor a link that is created in the meantime can lead
elsewhere.

A file is written under a temporary name in the same folder, flushed, given its mode and owner, and renamed; then the folder
is flushed. A link of that name is replaced, not followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from waterflow_agent.nodes import parameter_values
from waterflow_agent.nodes.node import Context, NodeFailure
from waterflow_agent.nodes.transfer import names
from waterflow_agent.nodes.transfer.content import CHUNK_BYTES, Content
from waterflow_agent.nodes.transfer.endpoints import Listing, SourceFile

#: Errors that may be temporary, such as a full disk.
_MAY_PASS = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EIO, errno.ESTALE])
#: Lines about skipped files.
_WARNINGS_MAX = 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def inside(workspace: Path, path: str, parameter: str) -> Path:
    """Return the path in the job's working directory. Raises `NodeFailure` if it leads out of it, also by a link."""
    target = workspace / path
    # A pattern matches without following links, but the folder before it may contain one.
    fixed = target if not names.is_pattern(path) else workspace / names.split(path)[0]
    if path.startswith("/") or not Path(os.path.realpath(fixed)).is_relative_to(os.path.realpath(workspace)):
        raise NodeFailure(f"{parameter}: repo:{path} is outside the job's working directory")
    return target


def _failure(what: str, path: object, error: OSError) -> NodeFailure:
    return NodeFailure(f"cannot {what} {path}: {error.strerror}", may_retry=error.errno in _MAY_PASS)


@contextlib.contextmanager
def _below(folder: Path, parts: list[str], *, creates_missing: bool = False) -> Iterator[int]:
    """Open the folder `parts` below `folder` part by part; with `creates_missing` missing folders are created."""
    if creates_missing:
        folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder, _FOLDER)
    try:
        for part in parts:
            if creates_missing:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


class _Local:
    """A source or target without a connection."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class LocalSource(_Local):
    """A file, a folder with everything in it, or the files that match a pattern."""

    def __init__(self, context: Context, path: Path) -> None:
        self._context = context
        self._path = path
        self._folder: Path | None = None
        self._skipped = 0

    async def list_files(self) -> Listing:
        """See `endpoints`."""
        try:
            return await asyncio.to_thread(self._find)
        except OSError as error:
            raise _failure("read", error.filename or self._path, error) from error

    def _find(self) -> Listing:
        text = str(self._path)
        if names.is_pattern(text):
            folder, pattern = names.split(text)
            matches = names.compile_pattern(pattern).fullmatch
            entries = [entry for entry in self._walk(Path(folder)) if matches(entry.name)]
        elif stat.S_ISREG((found := self._path.stat()).st_mode):
            name = names.checked(self._path.name, self._path.parent)
            return Listing(entries=[_entry(name, text, found)], is_many=False)
        elif not stat.S_ISDIR(found.st_mode):
            raise NodeFailure(f"{self._path} is neither a regular file nor a folder")
        else:
            entries = list(self._walk(self._path))
        if self._skipped > _WARNINGS_MAX:
            self._context.warn(f"... skipped {self._skipped} in total")
        return Listing(entries=sorted(entries, key=lambda entry: entry.name), is_many=True)

    def _walk(self, folder: Path) -> Iterator[SourceFile]:
        self._folder = folder

        def stop(error: OSError) -> None:
            raise error

        count = 0
        for parent, folders, files in os.walk(folder, onerror=stop):
            for name in (*files, *(one for one in folders if os.path.islink(f"{parent}/{one}"))):
                path = os.path.join(parent, name)
                found = os.lstat(path)
                if not stat.S_ISREG(found.st_mode):
                    self._skip(path, found)
                    continue
                count += 1
                if count > names.FILES_MAX:
                    raise NodeFailure(f"{folder} has more than {names.FILES_MAX} files; transfer it in parts")
                below = names.checked(os.path.relpath(path, folder), folder)
                yield _entry(below, below, found)

    def _skip(self, path: str, found: os.stat_result) -> None:
        self._skipped += 1
        if self._skipped <= _WARNINGS_MAX:
            kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a regular file"
            self._context.warn(f"skipped {path!r}: it is {kind}")

    async def read(self, entry: SourceFile) -> AsyncGenerator[bytes]:
        """See `endpoints`."""
        try:
            file = await asyncio.to_thread(self._open, entry)
            with file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise NodeFailure(f"{entry.key} is no longer a regular file", may_retry=True)
                left = before.st_size
                # Up to the initial size: a file that keeps growing would never end.
                while left and (chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
                after = os.fstat(file.fileno())
        except OSError as error:
            raise _failure("read", entry.key, error) from error
        was, now = ((found.st_size, found.st_mtime_ns, found.st_ino) for found in (before, after))
        if was != now or before.st_size != entry.size:
            raise NodeFailure(f"{entry.key} changed while it was being read", may_retry=True)

    def _open(self, entry: SourceFile) -> BinaryIO:
        if self._folder is None:
            return open(os.open(entry.key, _READ), "rb", buffering=0)
        *folders, name = entry.key.split("/")
        with _below(self._folder, folders) as fd:
            return open(os.open(name, _READ | os.O_NOFOLLOW, dir_fd=fd), "rb", buffering=0)

    async def delete(self, entry: SourceFile) -> None:
        """See `endpoints`."""
        try:
            await asyncio.to_thread(self._delete, entry)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failure("delete", entry.key, error) from error

    def _delete(self, entry: SourceFile) -> None:
        assert self._folder is not None, "only listed files are deleted"
        *folders, name = entry.key.split("/")
        with _below(self._folder, folders) as fd:
            if _entry(entry.name, entry.key, os.stat(name, dir_fd=fd, follow_symlinks=False)) != entry:
                raise NodeFailure(f"{entry.key} has changed since it was listed; it was not deleted", may_retry=True)
            os.unlink(name, dir_fd=fd)


def _entry(name: str, key: str, found: os.stat_result) -> SourceFile:
    return SourceFile(name=name, key=key, size=found.st_size, modified=found.st_mtime)


class LocalTarget(_Local):
    """A file, or a folder for several files."""

    def __init__(self, path: Path, mode: int | None, owner: tuple[int, int]) -> None:
        self._path = path
        self._mode = mode
        self._owner = owner

    async def is_folder(self) -> bool:
        """See `endpoints`."""
        return await asyncio.to_thread(self._path.is_dir)

    async def write(self, name: str | None, content: Content) -> None:
        """See `endpoints`."""
        if name is None and self._path.name in ("", ".."):
            raise NodeFailure(f"{self._path} is not the name of a file")
        folder = self._path.parent if name is None else self._path
        *folders, last = (name or self._path.name).split("/")
        try:
            with _below(folder, folders, creates_missing=True) as fd:
                await self._write(fd, last, content)
        except OSError as error:
            raise _failure("write", folder / (name or last), error) from error

    async def _write(self, fd: int, name: str, content: Content) -> None:
        temporary = f".waterflow-{secrets.token_hex(8)}.part"
        file = await asyncio.to_thread(_create, temporary, fd)
        try:
            with file:
                async for chunk in content:
                    await asyncio.to_thread(_write_all, file, chunk)
                await asyncio.to_thread(self._settle, file.fileno(), fd, name)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=fd)
            raise
        await asyncio.to_thread(os.fsync, fd)

    def _settle(self, file: int, folder: int, name: str) -> None:
        """Set mode and owner, and flush. What the step does not set is kept from the existing file."""
        mode, (uid, gid) = self._mode, self._owner
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if found is not None and stat.S_ISREG(found.st_mode):
            mode = stat.S_IMODE(found.st_mode) if mode is None else mode
            if os.geteuid() == 0:
                uid, gid = found.st_uid if uid == -1 else uid, found.st_gid if gid == -1 else gid
        if (uid, gid) != (-1, -1):
            os.fchown(file, uid, gid)
        # After the owner, because changing it clears set-user-id bits.
        os.fchmod(file, parameter_values.DEFAULT_MODE if mode is None else mode)
        os.fsync(file)


def _create(name: str, folder: int) -> BinaryIO:
    return open(os.open(name, _NEW, 0o600, dir_fd=folder), "wb", buffering=0)


def _write_all(file: BinaryIO, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]
