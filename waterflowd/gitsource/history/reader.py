"""The files of `.git` for a checkout with history or with a single commit, for agents.

Theory: the mirror of a remote has no history, because most jobs do not need it. So a second mirror with all branches and
tags is filled when a job first asks for history. A local repository has everything. The commits are sent as packs, which agents
cache as they do files; the small files are made for each checkout.

A shallow `.git` needs the trees and files of one commit, which every mirror has. They are packed without the commit, which is
one of the small files, so that the repository really has a single commit although agents have packs of earlier ones.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from waterflow_agent.checkout.blob_cache import blob_id
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable, WaterflowError
from waterflowd.gitsource import child_process, reading
from waterflowd.gitsource.history import git_files
from waterflowd.gitsource.history.pack_protocol import PackFile
from waterflowd.gitsource.history.pack_store import PackStore
from waterflowd.gitsource.lfs.content_store import ContentStore, MakeRequest
from waterflowd.gitsource.objects import ObjectStore
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Commit, Refs, Source

#: Processes that write packs, of all repositories, and for how long one that is slow delays others.
_AT_ONCE = 2
_SLOT_S = 5.0
#: Requests of many servers that arrive together fetch a remote once.
_TOGETHER_S = 2.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


class CompleteRepository(msgspec.Struct, frozen=True, kw_only=True):
    """A repository with all branches, tags and commits."""

    source: Source
    #: The object directory; exists after `source.refs`.
    objects: Callable[[], str]
    #: The commits whose parents do not exist.
    shallow: Callable[[], tuple[str, ...]]
    #: Asks for contents in Git LFS.
    lfs_request: MakeRequest


class GitFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a `.git`, relative to it."""

    entries: tuple[FileEntry, ...]
    #: The content of each file by its Git id, or the path of a file that has it.
    contents: Mapping[bytes, bytes | str]


class HistoryReader:
    """One repository."""

    def __init__(
        self,
        settings: RepositorySettings,
        repository: CompleteRepository,
        packs: PackStore,
        shallow_packs: PackStore,
        lfs: ContentStore,
    ) -> None:
        #: The contents of files in Git LFS.
        self.lfs = lfs
        self._settings = settings
        self._repository = repository
        self._packs = packs
        self._shallow_packs = shallow_packs
        self._lock = asyncio.Lock()
        self._refs: Refs | None = None
        self._read_at = 0.0

    async def git_files(self, revision: str, head: str) -> GitFiles:
        """The `.git` for a commit; `head` is the branch or tag that it is for, or empty.

        Raises what `Source.refs` and `PackStore.update` raise.
        """
        refs = await self._refs_with(revision)
        objects = await asyncio.to_thread(self._repository.objects)
        shallow = await asyncio.to_thread(self._repository.shallow)
        wants = list(git_files.usable_refs(refs).values())
        packs = await self._packs.update(objects, revision, wants, shallow, self._settings.fetch_bytes_max)
        small = git_files.git_files(url=self._settings.url, ref=head, revision=revision, refs=refs, shallow=shallow)
        return _listed(self._packs, packs, small)

    async def shallow_git_files(self, revision: str, head: str, objects: Callable[[], str]) -> GitFiles:
        """The `.git` with this commit alone; `objects` is the object directory that has it. `head` is as for `git_files`.

        Raises what `PackStore.update` and `reading.commit` raise.
        """
        directory = await asyncio.to_thread(objects)
        commit, content = await asyncio.to_thread(_read_commit, directory, revision)
        packs = await self._shallow_packs.update(
            directory, revision, (commit.tree,), (), self._settings.fetch_bytes_max
        )
        small = git_files.git_files(
            url=self._settings.url,
            ref=head,
            revision=revision,
            refs=Refs(head_ref=None, object_ids={head: revision} if head else {}),
            shallow=(revision,) if commit.parent is not None else (),
        )
        loose = zlib.compress(b"commit %d\0" % len(content) + content)
        return _listed(self._shallow_packs, packs, {f"objects/{revision[:2]}/{revision[2:]}": loose, **small})

    async def resolve(self, ref: str) -> tuple[str, str]:
        """The commit of a branch, tag or commit (empty: the default branch), and the full name of the branch or tag.

        Raises `Rejected` WF604 if there is none, and what `Source.refs` raises.
        """
        is_commit = _COMMIT.fullmatch(ref) is not None
        if is_commit and (known := await asyncio.to_thread(self._commit, ref)) is not None:
            return known, ""
        refs = await self._refs_with(ref if is_commit else "")
        name = "" if is_commit else _full_name(ref, refs)
        object_id = ref if is_commit else refs.object_ids.get(name, "")
        found = await asyncio.to_thread(self._commit, object_id) if object_id else None
        if found is None:
            what = f'branch, tag or commit "{escape_for_display(ref)}"' if ref else "default branch"
            raise Rejected(codes.NOT_FOUND, f'repository "{self._settings.name}" has no {what}')
        return found, name

    def objects(self) -> str:
        """The object directory with all commits; exists once a commit was resolved."""
        return self._repository.objects()

    async def close(self) -> None:
        """Ends the threads."""
        await self._repository.source.close()

    def _commit(self, object_id: str) -> str | None:
        """The commit of an object; None if it does not exist, or is something else."""
        with closing(ObjectStore(self._repository.objects())) as store:
            try:
                return reading.commit(store, object_id).id
            except Retryable as error:
                if error.code != codes.OBJECT_UNREADABLE:
                    raise
                return None

    async def _refs_with(self, revision: str) -> Refs:
        """The current refs. A remote is not fetched again within its interval for a commit that is there already."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            is_known = self._refs is not None and revision in self._refs.object_ids.values()
            fresh_s = self._fresh_s() if is_known else min(self._fresh_s(), _TOGETHER_S)
            if self._refs is not None and (is_known or not revision) and now < self._read_at + fresh_s:
                return self._refs
            try:
                self._refs = await self._repository.source.refs()
            except WaterflowError:
                if self._refs is None or not is_known:
                    # For a branch, the newest commit must be known.
                    raise
                # The remote cannot be reached, but the commit was fetched before.
                return self._refs
            self._read_at = now
            return self._refs

    def _fresh_s(self) -> float:
        is_remote = self._repository.source.watch_status().is_remote
        return self._settings.interval_ms / 1_000 if is_remote else 0.0


def _read_commit(objects: str, revision: str) -> tuple[Commit, bytes]:
    with closing(ObjectStore(objects)) as store:
        return reading.commit_object(store, revision)


def _listed(store: PackStore, packs: Sequence[PackFile], small: Mapping[str, bytes]) -> GitFiles:
    """Packs, and small files by their path."""
    contents: dict[bytes, bytes | str] = {file.blob: str(store.path(file.name)) for file in packs}
    entries = [FileEntry(f"objects/pack/{file.name}".encode(), FileKind.GIT, file.blob) for file in packs]
    for path, content in small.items():
        blob = blob_id(content)
        contents[blob] = content
        entries.append(FileEntry(path.encode(), FileKind.GIT, blob))
    return GitFiles(entries=tuple(entries), contents=contents)


def _full_name(ref: str, refs: Refs) -> str:
    """The full name of a branch or tag, as Git's checkout finds it; the branch of HEAD for an empty one."""
    if not ref:
        return refs.head_ref or ""
    names = (ref,) if ref.startswith("refs/") else (f"refs/heads/{ref}", f"refs/tags/{ref}")
    return next((name for name in names if name in refs.object_ids), "")


def derived_directories(directory: Path, name: str) -> tuple[Path, Path, Path]:
    """What is made of a repository, for mirrors in `directory`: packs of all commits, those of single ones, and Git LFS."""
    return directory / "packs" / name, directory / "shallow-packs" / name, directory / "lfs" / name


class HistoryReaders:
    """The histories of all repositories."""

    def __init__(self, directory: Path, open_complete: Callable[[RepositorySettings], CompleteRepository]) -> None:
        """`directory` is that of all repositories. `open_complete` raises `Rejected` for a repository that is never opened."""
        self._directory = directory
        self._open_complete = open_complete
        self._slots = child_process.Slots(_AT_ONCE, _SLOT_S)
        self._readers: dict[str, tuple[RepositorySettings, HistoryReader]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, settings: RepositorySettings) -> HistoryReader:
        """The history of a repository, whose settings may have changed since the last call."""
        known, reader = self._readers.get(settings.name, (None, None))
        if reader is not None and known == settings:
            return reader
        if reader is not None:
            task = asyncio.create_task(reader.close(), name="close a repository's history")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        repository = self._open_complete(settings)
        full, shallow, lfs = derived_directories(self._directory, settings.name)
        reader = HistoryReader(
            settings,
            repository,
            PackStore(full, settings.url, self._slots),
            PackStore(shallow, settings.url, self._slots, is_shallow=True),
            ContentStore(lfs, self._slots, repository.lfs_request),
        )
        self._readers[settings.name] = (settings, reader)
        return reader

    async def close(self) -> None:
        """Ends the threads."""
        await asyncio.gather(*self._closing, *(reader.close() for _, reader in self._readers.values()))
