"""Files of this server.

Below the folder that the step names no link is followed, neither when reading nor when writing: every part of a name is
opened by itself, without following, from the folder above it. So neither a name nor a link that appears meanwhile leads
elsewhere.

A file is written beside its place under a temporary name, flushed, given its mode and owner, and renamed over it; then the
folder is flushed. A link in its place is replaced, not followed.
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

#: A disk that is full now may have room later.
_MAY_PASS = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EIO, errno.ESTALE])
#: Of lines about what is left out.
_WARNINGS_MAX = 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def inside(workspace: Path, path: str, parameter: str) -> Path:
    """The file `path` of the job's working directory. Raises `NodeFailure` when it leads out of it, also by a link."""
    place = workspace / path
    # What a pattern matches is found without following links; what is in front of it may be one.
    fixed = place if not names.is_pattern(path) else workspace / names.split(path)[0]
    if path.startswith("/") or not Path(os.path.realpath(fixed)).is_relative_to(os.path.realpath(workspace)):
        raise NodeFailure(f"{parameter}: repo:{path} leads out of the job's working directory")
    return place


def _failure(what: str, path: object, error: OSError) -> NodeFailure:
    return NodeFailure(f"cannot {what} {path}: {error.strerror}", may_retry=error.errno in _MAY_PASS)


@contextlib.contextmanager
def _below(folder: Path, parts: list[str], *, is_made: bool = False) -> Iterator[int]:
    """The folder `parts` below `folder`, opened part by part; with `is_made` what is not there is made."""
    if is_made:
        folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder, _FOLDER)
    try:
        for part in parts:
            if is_made:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


class _Local:
    """What a source and a target have in common: nothing to connect to."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class LocalSource(_Local):
    """A file, a folder with all that is in it, or what matches a pattern."""

    def __init__(self, context: Context, path: Path) -> None:
        self._context = context
        self._path = path
        self._folder: Path | None = None
        self._left_out = 0

    async def find(self) -> Listing:
        """See the contract."""
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
            return Listing(entries=[SourceFile(name=name, key=text, size=found.st_size)], is_many=False)
        elif not stat.S_ISDIR(found.st_mode):
            raise NodeFailure(f"{self._path} is neither a file nor a folder")
        else:
            entries = list(self._walk(self._path))
        if self._left_out > _WARNINGS_MAX:
            self._context.warn(f"... {self._left_out} in all are left out")
        return Listing(entries=sorted(entries, key=lambda entry: entry.name), is_many=True)

    def _walk(self, folder: Path) -> Iterator[SourceFile]:
        self._folder = folder

        def stop(error: OSError) -> None:
            raise error

        count = 0
        for place, folders, files in os.walk(folder, onerror=stop):
            for name in (*files, *(one for one in folders if os.path.islink(f"{place}/{one}"))):
                path = os.path.join(place, name)
                found = os.lstat(path)
                if not stat.S_ISREG(found.st_mode):
                    self._leave_out(path, found)
                    continue
                count += 1
                if count > names.FILES_MAX:
                    raise NodeFailure(f"{folder} has more than {names.FILES_MAX} files; transfer it in parts")
                below = names.checked(os.path.relpath(path, folder), folder)
                yield SourceFile(name=below, key=below, size=found.st_size)

    def _leave_out(self, path: str, found: os.stat_result) -> None:
        self._left_out += 1
        if self._left_out <= _WARNINGS_MAX:
            kind = "a link" if stat.S_ISLNK(found.st_mode) else "no regular file"
            self._context.warn(f"{path!r} is {kind} and is left out")

    async def read(self, entry: SourceFile) -> AsyncGenerator[bytes]:
        """See the contract."""
        try:
            file = await asyncio.to_thread(self._open, entry)
            with file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise NodeFailure(f"{entry.key} is no regular file any more", may_retry=True)
                left = before.st_size
                # No further than what it had: a file that grows would never end.
                while left and (chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
                after = os.fstat(file.fileno())
        except OSError as error:
            raise _failure("read", entry.key, error) from error
        was, now = ((found.st_size, found.st_mtime_ns, found.st_ino) for found in (before, after))
        if was != now or before.st_size != entry.size:
            raise NodeFailure(f"{entry.key} has changed while it was sent", may_retry=True)

    def _open(self, entry: SourceFile) -> BinaryIO:
        if self._folder is None:
            return open(os.open(entry.key, _READ), "rb", buffering=0)
        *folders, name = entry.key.split("/")
        with _below(self._folder, folders) as fd:
            return open(os.open(name, _READ | os.O_NOFOLLOW, dir_fd=fd), "rb", buffering=0)


class LocalTarget(_Local):
    """A file, or a folder for many."""

    def __init__(self, path: Path, mode: int | None, owner: tuple[int, int]) -> None:
        self._path = path
        self._mode = mode
        self._owner = owner

    async def is_folder(self) -> bool:
        """See the contract."""
        return await asyncio.to_thread(self._path.is_dir)

    async def write(self, name: str | None, content: Content) -> None:
        """See the contract."""
        if name is None and self._path.name in ("", ".."):
            raise NodeFailure(f"{self._path} is no name of a file")
        folder = self._path.parent if name is None else self._path
        *folders, last = (name or self._path.name).split("/")
        try:
            with _below(folder, folders, is_made=True) as fd:
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
        """Mode, owner, and all of it on disk. What the step does not give stays as it was."""
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
        # After the owner, whose change takes away set-user-id bits.
        os.fchmod(file, parameter_values.DEFAULT_MODE if mode is None else mode)
        os.fsync(file)


def _create(name: str, folder: int) -> BinaryIO:
    return open(os.open(name, _NEW, 0o600, dir_fd=folder), "wb", buffering=0)


def _write_all(file: BinaryIO, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]
