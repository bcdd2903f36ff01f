"""The files of a commit for working directories: which there are, and what is in them.

Rules of this file: a tree is sent as it is or not at all. What could stand outside of the directory (a hostile name, a link
that leads out) refuses the checkout with the path, and the patterns can leave it out. A submodule is an empty directory, as
it is for Git until somebody fills it. Lists and recently read files are kept for a while, as many agents ask for the same ones.
"""

from __future__ import annotations

import asyncio
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TypeVar

from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflow_agent.wire.messages import FileChunk
from waterflowd.gitsource import links, objects, reading, walk
from waterflowd.gitsource.objects import Objects
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.gitsource.worker import Worker
from waterflowd.model.records import Checkout, FilesListed
from waterflowd.reconcile import codes, globs
from waterflowd.reconcile.settings import RepositorySettings

Result = TypeVar("Result")

_LINK_BYTES_MAX = 4_096
_CALL_TIMEOUT_S = 60.0
#: Files of all lists that are kept, and bytes of files, for each repository.
_LISTED_MAX = 2 * file_list.FILES_MAX
_READ_BYTES_MAX = 32 << 20
#: Without a question for this long, what was kept goes.
_IDLE_S = 30.0
_KINDS = {0o100644: FileKind.FILE, 0o100755: FileKind.EXECUTABLE, 0o100664: FileKind.FILE, 0o160000: FileKind.SUBMODULE}


class RevisionFileReader:
    """Implements `ports.RevisionFiles` over the configured repositories."""

    def __init__(self, repositories: Mapping[str, RepositorySettings], opener: RepositoryOpener) -> None:
        self._repositories = repositories
        self._opener = opener
        self._readers: dict[str, _Reader] = {}

    async def listed(self, checkout: Checkout) -> FilesListed:
        """See `ports.RevisionFiles`."""
        return await self._reader(checkout.repository).listed(checkout)

    async def pieces(self, repository: str, blobs: Sequence[bytes], offset: int, bytes_max: int) -> list[FileChunk]:
        """See `ports.RevisionFiles`."""
        return await self._reader(repository).pieces(blobs, offset, bytes_max)

    def close(self) -> None:
        """Lets the threads end."""
        for reader in self._readers.values():
            reader.close()

    def _reader(self, repository: str) -> _Reader:
        settings = self._repositories.get(repository)
        if settings is None:
            raise Rejected(
                codes.NOT_FOUND,
                f'the repository "{escape_for_display(repository)}" is not in the configuration any more',
            )
        if repository not in self._readers:
            self._readers[repository] = _Reader(repository, lambda: self._opener.objects(settings))
        return self._readers[repository]


class _Reader:
    """One repository; its calls come after each other, in a thread of its own."""

    def __init__(self, name: str, directory: Callable[[], str]) -> None:
        self._directory = directory
        self._worker = Worker(f"files {name}")
        self._turn = asyncio.Lock()
        self._lists: OrderedDict[Checkout, FilesListed] = OrderedDict()
        self._read: OrderedDict[bytes, bytes] = OrderedDict()
        self._read_bytes = 0
        self._idle: asyncio.TimerHandle | None = None

    async def listed(self, checkout: Checkout) -> FilesListed:
        found = self._lists.get(checkout)
        if found is None:
            found = await self._call(lambda: self._list(checkout))
        return found

    async def pieces(self, blobs: Sequence[bytes], offset: int, bytes_max: int) -> list[FileChunk]:
        return await self._call(lambda: self._pieces(blobs, offset, bytes_max))

    def close(self) -> None:
        self._worker.close()
        if self._idle is not None:
            self._idle.cancel()

    async def _call(self, function: Callable[[], Result]) -> Result:
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                return await self._worker.call(function, _CALL_TIMEOUT_S)
            finally:
                self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._forget)

    def _forget(self) -> None:
        self._lists.clear()
        self._read.clear()
        self._read_bytes = 0

    def _list(self, checkout: Checkout) -> FilesListed:
        found = self._lists.get(checkout)
        if found is None:
            found = listed(self._directory(), checkout)
            self._lists[checkout] = found
            while len(self._lists) > 1 and sum(len(kept.blobs) for kept in self._lists.values()) > _LISTED_MAX:
                self._lists.popitem(last=False)
        return found

    def _pieces(self, blobs: Sequence[bytes], offset: int, bytes_max: int) -> list[FileChunk]:
        pieces: list[FileChunk] = []
        left = bytes_max
        with closing(Objects(self._directory())) as store:
            for blob in blobs:
                try:
                    content = self._content(store, blob)
                except (Retryable, Stalled):
                    if pieces:
                        # It is asked for again, as the first one, and then this is the answer.
                        break
                    raise
                part = content[offset : offset + left]
                pieces.append(FileChunk(len(content), part))
                left -= len(part)
                if left <= 0 or offset + len(part) < len(content):
                    break
                offset = 0
        return pieces

    def _content(self, store: Objects, blob: bytes) -> bytes:
        content = self._read.get(blob)
        if content is not None:
            self._read.move_to_end(blob)
            return content
        try:
            kind, content = store.read(blob.hex(), file_list.FILE_BYTES_MAX)
        except objects.TooLarge as error:
            text = f"it is larger than {file_list.FILE_BYTES_MAX >> 20} MiB; leave it out with the job's checkout"
            raise Stalled(codes.LIMIT, text) from error
        if kind != objects.BLOB:
            raise objects.unreadable(blob.hex(), "is no file")
        self._read[blob] = content
        self._read_bytes += len(content)
        while len(self._read) > 1 and self._read_bytes > _READ_BYTES_MAX:
            self._read_bytes -= len(self._read.popitem(last=False)[1])
        return content


def listed(directory: str, checkout: Checkout) -> FilesListed:
    """The files of a checkout.

    Raises `Stalled` WF508 (too many, too deep), WF520 (a link that leads out) and WF523 (a name that may not be), `Retryable`
    WF506 for an object that cannot be read.
    """
    with closing(Objects(directory)) as store:
        tree = reading.commit(store, checkout.revision).tree
        entries = sorted(_entries(store, tree, checkout.patterns), key=lambda entry: entry.path)
        _check_links(store, entries)
    content = file_list.encode(entries)
    if len(content) > file_list.BYTES_MAX:
        raise _too_many()
    return FilesListed(content=content, blobs=frozenset(entry.blob for entry in entries if entry.blob))


def _entries(store: Objects, root: str, patterns: Sequence[str]) -> Iterator[FileEntry]:
    count = 0
    for prefix, found in walk.folders(store, root):
        count += len(found)
        if count > file_list.FILES_MAX:
            raise _too_many()
        names = Counter(name for name, _, _ in found)
        for name, mode, object_id in found:
            path = prefix + name
            if names[name] > 1 or b"/" in name or not file_list.is_safe(path):
                raise Stalled(codes.UNSAFE_NAME, f"{_text(path)}: the name is none that Git would make")
            is_chosen = not patterns or globs.selects(patterns, path.decode("utf-8", "surrogateescape"))
            if is_chosen and not stat.S_ISDIR(mode):
                yield _entry(path, mode, object_id)


def _entry(path: bytes, mode: int, object_id: str) -> FileEntry:
    kind = FileKind.LINK if stat.S_ISLNK(mode) else _KINDS.get(mode)
    if kind is None:
        raise Stalled(codes.UNKNOWN_MODE, f"{_text(path)}: its mode is {mode:o}, expected 100644 or 100755")
    return FileEntry(path, kind, b"" if kind is FileKind.SUBMODULE else bytes.fromhex(object_id))


def _check_links(store: Objects, entries: Sequence[FileEntry]) -> None:
    targets: dict[bytes, bytes] = {}
    for entry in entries:
        if entry.kind is FileKind.LINK:
            try:
                _, targets[entry.path] = store.read(entry.blob.hex(), _LINK_BYTES_MAX)
            except objects.TooLarge as error:
                raise Stalled(codes.SYMLINK, f"{_text(entry.path)}: a link with too long a target") from error
    for path, target in targets.items():
        if links.leaves(targets, path):
            text = (
                f"{_text(path)}: a link to {_text(target)}, out of the repository; leave it out with the job's checkout"
            )
            raise Stalled(codes.SYMLINK, text)


def _text(path: bytes) -> str:
    return escape_for_display(path.decode("utf-8", "backslashreplace"))


def _too_many() -> Stalled:
    text = f"the commit has more than {file_list.FILES_MAX:,} files; choose some of them with the job's checkout"
    return Stalled(codes.LIMIT, text)
