"""Files of SFTP servers.

A file is written under a temporary name in the same folder, flushed if the server supports it, and renamed atomically
(`posix-rename@openssh.com`, which all common servers support). Listings of servers are not trusted, and links are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Self, TypeVar

import asyncssh

from waterflow_agent.nodes import parameter_values
from waterflow_agent.nodes.node import Context, NodeFailure
from waterflow_agent.nodes.transfer import names, ssh
from waterflow_agent.nodes.transfer.address import Address
from waterflow_agent.nodes.transfer.content import CHUNK_BYTES, Content
from waterflow_agent.nodes.transfer.endpoints import Listing, SourceFile
from waterflow_agent.nodes.transfer.ssh import SshAccess

Answer = TypeVar("Answer")


class Sftp:
    """A source and target: a file, a folder with everything in it, or the files that match a pattern."""

    def __init__(
        self, context: Context, address: Address, access: SshAccess, *, mode: int | None, owner: tuple[int, int]
    ) -> None:
        self._context = context
        self._address = address
        self._access = access
        self._mode = mode
        self._owner = owner
        self._path = address.path[3:] or "." if address.path.startswith("/~/") else address.path
        self._exit = contextlib.AsyncExitStack()
        self._client: asyncssh.SFTPClient

    async def __aenter__(self) -> Self:
        self._client = await ssh.connect(self._address, self._access, self._exit)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def _do(self, what: str, work: Awaitable[Answer]) -> Answer:
        """Send one request to the server, with a timeout."""
        try:
            async with asyncio.timeout(self._access.timeout_s):
                return await work
        except ssh.ERRORS as error:
            raise ssh.failure(f"cannot {what} at {self._address}", self._access, error) from error

    # As a source.

    async def list_files(self) -> Listing:
        """See `endpoints`."""
        if names.is_pattern(self._path):
            folder, pattern = names.split(self._path)
            matches = names.compile_pattern(pattern).fullmatch
            entries = [entry async for entry in self._walk(folder or ".") if matches(entry.name)]
        else:
            found = await self._do(f"stat {self._path}", self._client.stat(self._path))
            if found.type != asyncssh.FILEXFER_TYPE_DIRECTORY:
                name = names.checked(self._path.rpartition("/")[2], self._address)
                return Listing(entries=[_entry(name, self._path, found)], is_many=False)
            entries = [entry async for entry in self._walk(self._path)]
        return Listing(entries=sorted(entries, key=lambda entry: entry.name), is_many=True)

    async def _walk(self, folder: str) -> AsyncIterator[SourceFile]:
        """Yield all regular files below; links are skipped, because they can lead anywhere."""
        waiting, count, base = [""], 0, "" if folder == "/" else folder.rstrip("/")
        while waiting:
            inner = waiting.pop()
            for found in await self._do(f"list {base}/{inner}", self._client.readdir(f"{base}/{inner}")):
                if found.filename in (".", ".."):
                    continue
                count += 1
                if count > names.FILES_MAX:
                    raise NodeFailure(f"{self._address} has more than {names.FILES_MAX} files; transfer it in parts")
                part = names.part(str(found.filename), self._address)
                name = names.checked(f"{inner}/{part}" if inner else part, self._address)
                if found.attrs.type == asyncssh.FILEXFER_TYPE_DIRECTORY:
                    waiting.append(name)
                elif found.attrs.type == asyncssh.FILEXFER_TYPE_REGULAR:
                    yield _entry(name, f"{base}/{name}", found.attrs)
                else:
                    self._context.warn(f"skipped {base}/{name}: it is not a regular file")

    async def read(self, entry: SourceFile) -> AsyncGenerator[bytes]:
        """See `endpoints`."""
        what = f"read {entry.key}"
        file = await self._do(what, self._client.open(entry.key, "rb"))
        try:
            position, size = 0, entry.size or 0
            while position < size:
                chunk = await self._do(what, file.read(min(CHUNK_BYTES, size - position), position))
                if not chunk:
                    break
                assert isinstance(chunk, bytes)
                position += len(chunk)
                yield chunk
            found = await self._do(what, file.stat())
        finally:
            with contextlib.suppress(*ssh.ERRORS):
                async with asyncio.timeout(ssh.CLEAN_UP_S):
                    await file.close()
        if _entry(entry.name, entry.key, found) != entry:
            raise NodeFailure(f"{entry.key} at {self._address} changed while it was being read", may_retry=True)

    async def delete(self, entry: SourceFile) -> None:
        """See `endpoints`."""
        what = f"delete {entry.key}"
        if not await self._do(what, self._client.lexists(entry.key)):
            return
        if _entry(entry.name, entry.key, await self._do(what, self._client.lstat(entry.key))) != entry:
            text = f"{entry.key} at {self._address} has changed since it was listed; it was not deleted"
            raise NodeFailure(text, may_retry=True)
        await self._do(what, self._client.remove(entry.key))

    # As a target.

    async def is_folder(self) -> bool:
        """See `endpoints`."""
        return await self._do(f"stat {self._path}", self._client.isdir(self._path))

    async def write(self, name: str | None, content: Content) -> None:
        """See `endpoints`."""
        path = self._path if name is None else f"{self._path.rstrip('/')}/{name}"
        folder = path.rpartition("/")[0]
        if folder:
            await self._do(f"create the folder {folder}", self._client.makedirs(folder, exist_ok=True))
        temporary = f"{folder}/" if folder or path.startswith("/") else ""
        temporary += f".waterflow-{secrets.token_hex(8)}.part"
        try:
            await self._fill(temporary, path, content)
            await self._do(f"rename to {path}", self._client.posix_rename(temporary, path))
        except BaseException:
            await self._remove(temporary)
            raise

    async def _fill(self, temporary: str, path: str, content: Content) -> None:
        what, position = f"write {path}", 0
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        file = await self._do(
            what, self._client.open(temporary, flags, asyncssh.SFTPAttrs(permissions=0o600), encoding=None)
        )
        try:
            async for chunk in content:
                await self._do(what, file.write(chunk, position))
                position += len(chunk)
            await self._settle(file, path)
        finally:
            with contextlib.suppress(*ssh.ERRORS):
                async with asyncio.timeout(ssh.CLEAN_UP_S):
                    await file.close()

    async def _settle(self, file: asyncssh.SFTPClientFile, path: str) -> None:
        mode = self._mode
        if mode is None:
            there = await self._do(f"stat {path}", self._client.exists(path))
            found = await self._do(f"stat {path}", self._client.stat(path)) if there else None
            kept = found.permissions if found is not None else None
            mode = parameter_values.DEFAULT_MODE if kept is None else stat.S_IMODE(kept)
        if self._owner != (-1, -1):
            await self._do(f"set the owner of {path}", file.chown(*self._owner))
        await self._do(f"set the mode of {path}", file.chmod(mode))
        with contextlib.suppress(asyncssh.SFTPOpUnsupported):
            async with asyncio.timeout(self._access.timeout_s):
                await file.fsync()

    async def _remove(self, temporary: str) -> None:
        """Try to remove a temporary file, over a new connection if the old one is lost."""
        with contextlib.suppress(*ssh.ERRORS, NodeFailure):
            async with asyncio.timeout(ssh.CLEAN_UP_S):
                try:
                    await self._client.remove(temporary)
                except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.DisconnectError):
                    async with contextlib.AsyncExitStack() as stack:
                        client = await ssh.connect(self._address, self._access, stack)
                        await client.remove(temporary)


def _entry(name: str, key: str, found: asyncssh.SFTPAttrs) -> SourceFile:
    return SourceFile(name=name, key=key, size=found.size, version=str(found.mtime), modified=float(found.mtime or 0))
