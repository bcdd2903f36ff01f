"""The files of a commit for agents' checkouts: the list of files, and their content.

Rules of this file: a tree is sent as it is or not at all. A hostile name, or a link that leads out of the tree, fails the
checkout with an error that names the path; the checkout's patterns can exclude it. A submodule is an empty directory, as in Git
until it is initialized. Lists and recently read files are cached for a while, because many agents request the same ones. What a
checkout has besides the files of its commit (`.git`) is added to the list of these.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TypeVar

from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.display import escape_for_display, quote
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflow_agent.wire.messages import FileChunk
from waterflowd.gitsource import links, objects, reading, tree_walk, urls
from waterflowd.gitsource.checkouts import composition, submodules
from waterflowd.gitsource.history.reader import GitFiles, HistoryReaders
from waterflowd.gitsource.objects import ObjectStore
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.gitsource.worker import Worker
from waterflowd.model.records import Checkout, CheckoutPart, FilesListed
from waterflowd.reconcile import codes, globs
from waterflowd.reconcile.settings import RepositorySettings

Result = TypeVar("Result")

_LINK_BYTES_MAX = 4_096
_CALL_TIMEOUT_S = 60.0
#: Limits of the cache of one repository: entries of file lists, and bytes of files.
_LISTED_MAX = 2 * file_list.FILES_MAX
_CACHED_BYTES_MAX = 32 << 20
#: The cache is cleared after this long without a request.
_IDLE_S = 30.0
#: Branches and tags of a list may be this old.
_COMPOSED_S = 10.0
_KINDS = {0o100644: FileKind.FILE, 0o100755: FileKind.EXECUTABLE, 0o100664: FileKind.FILE, 0o160000: FileKind.SUBMODULE}


class RevisionFileReader:
    """Implements `ports.RevisionFiles` over the configured repositories."""

    def __init__(
        self, repositories: Mapping[str, RepositorySettings], opener: RepositoryOpener, histories: HistoryReaders
    ) -> None:
        self._repositories = repositories
        self._opener = opener
        self._histories = histories
        #: With the URL that each reads: another one has other files.
        self._readers: dict[tuple[str, bool], tuple[str, _Reader]] = {}
        #: Composed lists, and until when each is used (the loop's time); the oldest first.
        self._composed: OrderedDict[Checkout, tuple[FilesListed, float]] = OrderedDict()

    async def listed(self, checkout: Checkout) -> FilesListed:
        """See `ports.RevisionFiles`."""
        if not checkout.parts:
            return await self._reader(checkout.repository).listed(checkout)
        now = asyncio.get_running_loop().time()
        composed, until = self._composed.get(checkout, (None, 0.0))
        if composed is None or until < now:
            parts = await self._parts(checkout)
            composed = await asyncio.to_thread(lambda: composition.composed(parts))
            self._composed.pop(checkout, None)
            self._composed[checkout] = (composed, now + _COMPOSED_S)
            while len(self._composed) > 1 and _entry_count(self._composed) > _LISTED_MAX:
                self._composed.popitem(last=False)
        return composed

    async def _parts(self, checkout: Checkout) -> list[composition.Part]:
        parts: list[composition.Part] = []
        for wanted in checkout.parts:
            settings, part = await self._part(checkout, wanted)
            parts.append(part)
            if wanted.submodules:
                await self._add_submodules(checkout.repository, settings, part, parts, 1)
        return parts

    async def _part(self, checkout: Checkout, wanted: CheckoutPart) -> tuple[RepositorySettings, composition.Part]:
        """The repository of a part of a checkout, and its files."""
        settings = self._settings(checkout.repository)
        if wanted.repository:
            settings = self._readable(checkout.repository, wanted.repository)
        history = self._histories.of(settings)
        is_complete = bool(wanted.ref) or settings.name != checkout.repository
        revision, head = checkout.revision, wanted.head
        if is_complete:
            revision, head = await history.resolve(wanted.ref)
        files = await self._reader(settings.name, is_complete=is_complete).listed(
            Checkout(repository=settings.name, revision=revision, patterns=wanted.patterns)
        )
        git: GitFiles | None = None
        if wanted.history:
            git = await history.git_files(revision, head)
        elif wanted.shallow:
            directory = history.objects if is_complete else lambda: self._opener.objects(settings)
            git = await history.shallow_git_files(revision, head, directory)
        complete = settings.name if is_complete else ""
        return settings, composition.Part(path=os.fsencode(wanted.path), files=files, git=git, complete=complete)

    async def _add_submodules(
        self,
        reader: str,
        parent: RepositorySettings,
        part: composition.Part,
        parts: list[composition.Part],
        depth: int,
    ) -> None:
        """Adds the submodules of a part, which jobs of the repository `reader` must be allowed to read."""
        entries = await asyncio.to_thread(file_list.decode, part.files.content)
        if not any(entry.kind is FileKind.SUBMODULE for entry in entries):
            return
        modules = next((entry.blob for entry in entries if entry.path == submodules.MODULES_FILE), None)
        content = b""
        if modules is not None:
            source = self._reader(parent.name, is_complete=bool(part.complete))
            content = (await source.pieces([modules], 0, submodules.MODULES_BYTES_MAX))[0].data
        for found in submodules.submodules(entries, content):
            path = part.path + b"/" + found.path if part.path else found.path
            settings = submodules.repository_of(found, parent, self._repositories)
            if settings is None or not settings.is_readable_by(reader):
                raise _unreadable(
                    f"submodule {_text(path)}", f"with the address {escape_for_display(found.url)}", reader
                )
            if depth > submodules.DEPTH_MAX or len(parts) >= submodules.COUNT_MAX:
                text = (
                    f"submodule {_text(path)}: a job can have {submodules.COUNT_MAX} submodules,"
                    f" nested {submodules.DEPTH_MAX} levels deep"
                )
                raise Stalled(codes.LIMIT, text)
            revision, _ = await self._histories.of(settings).resolve(found.commit)
            files = await self._reader(settings.name, is_complete=True).listed(
                Checkout(repository=settings.name, revision=revision)
            )
            parts.append(composition.Part(path=path, files=files, complete=settings.name))
            await self._add_submodules(reader, settings, parts[-1], parts, depth + 1)

    def _readable(self, reader: str, wanted: str) -> RepositorySettings:
        """The repository that a job of `reader` wants, by its name, or by owner and name. Raises `Rejected` WF604."""
        named = self._repositories.get(wanted)
        candidates = [
            one
            for one in ([named] if named is not None else self._repositories.values())
            if named is not None or urls.full_name(one.url, one.name).lower() == wanted.lower()
        ]
        for settings in candidates:
            if settings.is_readable_by(reader):
                return settings
        raise _unreadable("checkout", f'called "{escape_for_display(wanted)}"', reader)

    async def pieces(
        self, repository: str, listed: FilesListed, blobs: Sequence[bytes], offset: int, bytes_max: int
    ) -> list[FileChunk]:
        """See `ports.RevisionFiles`."""
        made = list(itertools.takewhile(lambda blob: blob in listed.made, blobs))
        if made:
            return await asyncio.to_thread(lambda: composition.made_pieces(listed, made, offset, bytes_max))
        other = listed.repositories.get(blobs[0], "")
        stored = list(
            itertools.takewhile(
                lambda blob: blob not in listed.made and listed.repositories.get(blob, "") == other, blobs
            )
        )
        reader = self._reader(other or repository, is_complete=bool(other))
        return await reader.pieces(stored, offset, bytes_max)

    async def close(self) -> None:
        """Lets the threads end."""
        for _, reader in self._readers.values():
            reader.close()
        await self._histories.close()

    def _settings(self, repository: str) -> RepositorySettings:
        settings = self._repositories.get(repository)
        if settings is None:
            raise Rejected(
                codes.NOT_FOUND,
                f'repository "{escape_for_display(repository)}" is no longer watched',
            )
        return settings

    def _reader(self, repository: str, *, is_complete: bool = False) -> _Reader:
        """What reads the mirror of the watched refs, or the copy with all commits."""
        settings = self._settings(repository)
        key = (repository, is_complete)
        url, reader = self._readers.get(key, ("", None))
        if reader is None or url != settings.url:
            if reader is not None:
                reader.close()
            directory = self._histories.of(settings).objects if is_complete else lambda: self._opener.objects(settings)
            reader = _Reader(repository, directory)
            self._readers[key] = (settings.url, reader)
        return reader


class _Reader:
    """One repository. Its calls run one at a time in one thread."""

    def __init__(self, name: str, directory: Callable[[], str]) -> None:
        self._directory = directory
        self._worker = Worker(f"files {name}")
        self._lock = asyncio.Lock()
        self._lists: OrderedDict[Checkout, FilesListed] = OrderedDict()
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
                raise Stalled(codes.UNSAFE_NAME, f"{_text(path)}: Git would not create a file with this name")
            is_chosen = not patterns or globs.selects(patterns, path.decode("utf-8", "surrogateescape"))
            if is_chosen and not stat.S_ISDIR(mode):
                yield _entry(path, mode, object_id)


def _entry(path: bytes, mode: int, object_id: str) -> FileEntry:
    kind = FileKind.LINK if stat.S_ISLNK(mode) else _KINDS.get(mode)
    if kind is None:
        raise Stalled(codes.UNKNOWN_MODE, f"{_text(path)}: the mode is {mode:o}, expected 100644 or 100755")
    return FileEntry(path, kind, bytes.fromhex(object_id))


def _check_links(store: ObjectStore, entries: Sequence[FileEntry]) -> None:
    targets: dict[bytes, bytes] = {}
    for entry in entries:
        if entry.kind is FileKind.LINK:
            try:
                _, targets[entry.path] = store.read(entry.blob.hex(), _LINK_BYTES_MAX)
            except objects.TooLarge as error:
                raise Stalled(codes.SYMLINK, f"{_text(entry.path)}: the target of the link is too long") from error
    for path, target in targets.items():
        if links.leaves(targets, path):
            text = (
                f"{_text(path)}: links to {_text(target)}, outside of the repository; exclude it in the job's checkout"
            )
            raise Stalled(codes.SYMLINK, text)


def _text(path: bytes) -> str:
    return escape_for_display(path.decode("utf-8", "backslashreplace"))


def _too_many() -> Stalled:
    text = f"the commit has more than {file_list.FILES_MAX:,} files; select some of them in the job's checkout"
    return Stalled(codes.LIMIT, text)


def _unreadable(what: str, which: str, reader: str) -> Rejected:
    """One answer for a repository that does not exist and for one that may not be read: names are nobody else's business."""
    text = (
        f"{what}: no repository {which} is watched by this daemon and readable by jobs of {quote(reader)};"
        f' add readable-by = ["{reader}"] to its configuration,'
        f" or if it was added through the API: waterflowctl repositories set NAME --readable-by {reader}"
    )
    return Rejected(codes.NOT_FOUND, text)


def _entry_count(lists: Mapping[Checkout, tuple[FilesListed, float]]) -> int:
    return sum(len(kept.blobs) for kept, _ in lists.values())
