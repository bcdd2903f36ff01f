"""The files of one repository's commits: lists of them, and their content.

Rules of this file: a tree is sent as it is or not at all. A hostile name, or a link that leads out of the tree, fails the
checkout with an error that names the path; the checkout's patterns can exclude it. A submodule is an empty directory, as in Git
until it is initialized. Lists and recently read files are cached for a while, because many agents request the same ones.
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
from waterflow_agent.errors import Retryable, Stalled
from waterflow_agent.wire.messages import FileChunk
from waterflowd.gitsource import links, objects, reading, tree_walk
from waterflowd.gitsource.lfs import pointers
from waterflowd.gitsource.lfs.pointers import LargeFile
from waterflowd.gitsource.objects import ObjectStore
from waterflowd.gitsource.worker import Worker
from waterflowd.model.records import Checkout, FilesListed
from waterflowd.reconcile import codes, globs

Result = TypeVar("Result")

_LINK_BYTES_MAX = 4_096
_CALL_TIMEOUT_S = 60.0
#: Limits of the cache of one repository: entries of file lists, and bytes of files.
_LISTED_MAX = 2 * file_list.FILES_MAX
_CACHED_BYTES_MAX = 32 << 20
#: Lists whose files in Git LFS are known.
_POINTER_LISTS_MAX = 8
#: The cache is cleared after this long without a request.
_IDLE_S = 30.0
_KINDS = {0o100644: FileKind.FILE, 0o100755: FileKind.EXECUTABLE, 0o100664: FileKind.FILE, 0o160000: FileKind.SUBMODULE}


class CommitFileReader:
    """The files of one repository's commits. Its calls run one at a time in one thread."""

    def __init__(self, name: str, directory: Callable[[], str]) -> None:
        self._directory = directory
        self._worker = Worker(f"files {name}")
        self._lock = asyncio.Lock()
        self._lists: OrderedDict[Checkout, FilesListed] = OrderedDict()
        #: By the content of the list.
        self._pointers: OrderedDict[bytes, Mapping[bytes, LargeFile]] = OrderedDict()
        self._cached: OrderedDict[bytes, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._idle: asyncio.TimerHandle | None = None

    async def listed(self, checkout: Checkout) -> FilesListed:
        found = self._lists.get(checkout)
        if found is None:
            found = await self._call(lambda: self._list(checkout))
        return found

    async def pieces(self, blobs: Sequence[bytes], offset: int, bytes_max: int) -> list[FileChunk]:
        return await self._call(lambda: self._pieces(blobs, offset, bytes_max))

    async def pointers(self, files: FilesListed) -> Mapping[bytes, LargeFile]:
        """The files in Git LFS among those of a list, by path."""
        found = self._pointers.get(files.content)
        if found is None:
            found = await self._call(lambda: self._find_pointers(files))
        return found

    def close(self) -> None:
        self._worker.close()
        if self._idle is not None:
            self._idle.cancel()

    async def _call(self, function: Callable[[], Result]) -> Result:
        async with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                return await self._worker.call(function, _CALL_TIMEOUT_S)
            finally:
                self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._forget)

    def _forget(self) -> None:
        self._lists.clear()
        self._pointers.clear()
        self._cached.clear()
        self._cached_bytes = 0

    def _list(self, checkout: Checkout) -> FilesListed:
        found = self._lists.get(checkout)
        if found is None:
            found = listed(self._directory(), checkout)
            self._lists[checkout] = found
            while len(self._lists) > 1 and sum(len(kept.blobs) for kept in self._lists.values()) > _LISTED_MAX:
                self._lists.popitem(last=False)
        return found

    def _find_pointers(self, files: FilesListed) -> Mapping[bytes, LargeFile]:
        found = self._pointers.get(files.content)
        if found is None:
            found = pointers.find(self._directory(), file_list.decode(files.content))
            self._pointers[files.content] = found
            while len(self._pointers) > _POINTER_LISTS_MAX:
                self._pointers.popitem(last=False)
        return found

    def _pieces(self, blobs: Sequence[bytes], offset: int, bytes_max: int) -> list[FileChunk]:
        pieces: list[FileChunk] = []
        left = bytes_max
        with closing(ObjectStore(self._directory())) as store:
            for blob in blobs:
                try:
                    content = self._content(store, blob)
                except (Retryable, Stalled):
                    if pieces:
                        # The agent requests it again as the first one, and then gets the error.
                        break
                    raise
                part = content[offset : offset + left]
                pieces.append(FileChunk(len(content), part))
                left -= len(part)
                if left <= 0 or offset + len(part) < len(content):
                    break
                offset = 0
        return pieces

    def _content(self, store: ObjectStore, blob: bytes) -> bytes:
        content = self._cached.get(blob)
        if content is not None:
            self._cached.move_to_end(blob)
            return content
        try:
            kind, content = store.read(blob.hex(), file_list.FILE_BYTES_MAX)
        except objects.TooLarge as error:
            text = f"the file is larger than {file_list.FILE_BYTES_MAX >> 20} MiB; exclude it in the job's checkout"
            raise Stalled(codes.LIMIT, text) from error
        if kind != objects.BLOB:
            raise objects.unreadable(blob.hex(), "is not a file")
        self._cached[blob] = content
        self._cached_bytes += len(content)
        while len(self._cached) > 1 and self._cached_bytes > _CACHED_BYTES_MAX:
            self._cached_bytes -= len(self._cached.popitem(last=False)[1])
        return content


def listed(directory: str, checkout: Checkout) -> FilesListed:
    """The files of a checkout.

    Raises `Stalled` WF508 (too many or too deep), WF520 (a link that leads out) and WF523 (an unsafe name), and `Retryable`
    WF506 for an object that cannot be read.
    """
    with closing(ObjectStore(directory)) as store:
        tree = reading.commit(store, checkout.revision).tree
        entries = sorted(_entries(store, tree, checkout.patterns), key=lambda entry: entry.path)
        _check_links(store, entries)
    content = file_list.encode(entries)
    if len(content) > file_list.BYTES_MAX:
        raise _too_many()
    blobs = frozenset(entry.blob for entry in entries if entry.kind is not FileKind.SUBMODULE)
    return FilesListed(content=content, blobs=blobs)


def _entries(store: ObjectStore, root: str, patterns: Sequence[str]) -> Iterator[FileEntry]:
    count = 0
    for prefix, found in tree_walk.folders(store, root):
        count += len(found)
        if count > file_list.FILES_MAX:
            raise _too_many()
        names = Counter(name for name, _, _ in found)
        for name, mode, object_id in found:
            path = prefix + name
            if names[name] > 1 or b"/" in name or not file_list.is_safe(path):
                raise Stalled(codes.UNSAFE_NAME, f"{path_text(path)}: Git would not create a file with this name")
            is_chosen = not patterns or globs.selects(patterns, path.decode("utf-8", "surrogateescape"))
            if is_chosen and not stat.S_ISDIR(mode):
                yield _entry(path, mode, object_id)


def _entry(path: bytes, mode: int, object_id: str) -> FileEntry:
    kind = FileKind.LINK if stat.S_ISLNK(mode) else _KINDS.get(mode)
    if kind is None:
        raise Stalled(codes.UNKNOWN_MODE, f"{path_text(path)}: the mode is {mode:o}, expected 100644 or 100755")
    return FileEntry(path, kind, bytes.fromhex(object_id))


def _check_links(store: ObjectStore, entries: Sequence[FileEntry]) -> None:
    targets: dict[bytes, bytes] = {}
    for entry in entries:
        if entry.kind is FileKind.LINK:
            try:
                _, targets[entry.path] = store.read(entry.blob.hex(), _LINK_BYTES_MAX)
            except objects.TooLarge as error:
                raise Stalled(codes.SYMLINK, f"{path_text(entry.path)}: the target of the link is too long") from error
    for path, target in targets.items():
        if links.leaves(targets, path):
            text = f"{path_text(path)}: links to {path_text(target)}, outside of the repository"
            raise Stalled(codes.SYMLINK, f"{text}; exclude it in the job's checkout")


def path_text(path: bytes) -> str:
    """A path for people."""
    return escape_for_display(path.decode("utf-8", "backslashreplace"))


def _too_many() -> Stalled:
    text = f"the commit has more than {file_list.FILES_MAX:,} files; select some of them in the job's checkout"
    return Stalled(codes.LIMIT, text)
