"""The files of checkouts for agents: of commits of one repository or several, and what they have besides (`.git`).

Lists are cached for a while, because many agents request the same ones.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.file_list import FileKind
from waterflow_agent.display import escape_for_display, quote
from waterflow_agent.errors import Rejected, Stalled
from waterflow_agent.wire.messages import FileChunk
from waterflowd.gitsource import urls
from waterflowd.gitsource.checkouts import commit_files, composition, submodules
from waterflowd.gitsource.checkouts.commit_files import CommitFileReader
from waterflowd.gitsource.history.reader import GitFiles, HistoryReaders
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.model.records import Checkout, CheckoutPart, FilesListed
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings

#: Entries of composed lists.
_LISTED_MAX = 2 * file_list.FILES_MAX
#: Branches and tags of a list may be this old.
_COMPOSED_S = 10.0


class _Submodules(msgspec.Struct, kw_only=True):
    """What submodules a part of a checkout gets."""

    #: The repository whose jobs must be allowed to read each.
    reader: str
    #: All parts of the checkout so far.
    parts: list[composition.Part]
    has_lfs: bool


class RevisionFileReader:
    """Implements `ports.RevisionFiles` over the configured repositories."""

    def __init__(
        self, repositories: Mapping[str, RepositorySettings], opener: RepositoryOpener, histories: HistoryReaders
    ) -> None:
        self._repositories = repositories
        self._opener = opener
        self._histories = histories
        #: With the URL that each reads: another one has other files.
        self._readers: dict[tuple[str, bool], tuple[str, CommitFileReader]] = {}
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
                found = _Submodules(reader=checkout.repository, parts=parts, has_lfs=wanted.lfs)
                await self._add_submodules(found, settings, part, 1)
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
        if wanted.lfs:
            files = await self._with_contents(settings, files, os.fsencode(wanted.path), is_complete=is_complete)
        git: GitFiles | None = None
        if wanted.history:
            git = await history.git_files(revision, head)
        elif wanted.shallow:
            directory = history.objects if is_complete else lambda: self._opener.objects(settings)
            git = await history.shallow_git_files(revision, head, directory)
        complete = settings.name if is_complete else ""
        return settings, composition.Part(path=os.fsencode(wanted.path), files=files, git=git, complete=complete)

    async def _with_contents(
        self, settings: RepositorySettings, files: FilesListed, folder: bytes, *, is_complete: bool
    ) -> FilesListed:
        """The files with the contents of those in Git LFS; `folder` is where the job has the files, for errors."""
        found = await self._reader(settings.name, is_complete=is_complete).pointers(files)
        if not found:
            return files
        store = self._histories.of(settings).lfs
        in_job = {os.path.join(folder, path): large for path, large in found.items()}
        stored = await store.contents(in_job, settings.fetch_bytes_max)
        contents = {
            path: composition.Content(stored[large.oid].blob, store.path(stored[large.oid]))
            for path, large in found.items()
        }
        return await asyncio.to_thread(composition.with_contents, files, contents)

    async def _add_submodules(
        self,
        wanted: _Submodules,
        parent: RepositorySettings,
        part: composition.Part,
        depth: int,
    ) -> None:
        """Adds the submodules of a part."""
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
            if settings is None or not settings.is_readable_by(wanted.reader):
                raise _unreadable(
                    f"submodule {commit_files.path_text(path)}",
                    f"with the address {escape_for_display(found.url)}",
                    wanted.reader,
                )
            if depth > submodules.DEPTH_MAX or len(wanted.parts) >= submodules.COUNT_MAX:
                text = (
                    f"submodule {commit_files.path_text(path)}: a job can have {submodules.COUNT_MAX} submodules,"
                    f" nested {submodules.DEPTH_MAX} levels deep"
                )
                raise Stalled(codes.LIMIT, text)
            revision, _ = await self._histories.of(settings).resolve(found.commit)
            files = await self._reader(settings.name, is_complete=True).listed(
                Checkout(repository=settings.name, revision=revision)
            )
            if wanted.has_lfs:
                files = await self._with_contents(settings, files, path, is_complete=True)
            inner = composition.Part(path=path, files=files, complete=settings.name)
            wanted.parts.append(inner)
            await self._add_submodules(wanted, settings, inner, depth + 1)

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

    def _reader(self, repository: str, *, is_complete: bool = False) -> CommitFileReader:
        """What reads the mirror of the watched refs, or the copy with all commits."""
        settings = self._settings(repository)
        key = (repository, is_complete)
        url, reader = self._readers.get(key, ("", None))
        if reader is None or url != settings.url:
            if reader is not None:
                reader.close()
            directory = self._histories.of(settings).objects if is_complete else lambda: self._opener.objects(settings)
            reader = CommitFileReader(repository, directory)
            self._readers[key] = (settings.url, reader)
        return reader


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
