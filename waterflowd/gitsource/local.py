"""A repository on this machine, bare or not, read in place.

Rules of this file: it is opened for each read and closed afterwards, so that it may be moved, recreated or repacked at any
time. Only objects are read, never a work tree. Reads run in one thread per repository (`worker`); dulwich releases the
interpreter while it inflates, and the rest is Python that yields every few milliseconds, so the event loop stays free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from dulwich.refs import DiskRefsContainer, Ref

from waterflow_agent.errors import Retryable
from waterflowd.gitsource import git_layout, reading, urls
from waterflowd.gitsource.watch import DirectoryWatch, Watcher, watch_directories
from waterflowd.gitsource.worker import Worker
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Refs, Revision, TreeFile, WatchStatus

Result = TypeVar("Result")

#: 10,000 files take less than a second.
_CALL_TIMEOUT_S = 60.0


def open_source(settings: RepositorySettings, relative_to: Path | None = None) -> LocalSource:
    """The source for a repository on this machine; raises `Rejected` WF502 for a URL that is not a local path."""
    return LocalSource(settings.name, urls.local_path(settings.url, relative_to))


class LocalSource:
    """A `Source` over a local path. Its methods need a running event loop."""

    def __init__(
        self, name: str, path: Path, open_watch: Callable[[list[str]], DirectoryWatch] = watch_directories
    ) -> None:
        self._path = path
        self._worker = Worker(f"git {name}")
        self._open_watch = open_watch
        self._watcher: Watcher | None = None
        self._has_changed = asyncio.Event()

    async def refs(self) -> Refs:
        """The current refs."""
        return await self._call(self._read_refs)

    async def revision(self, object_id: str, previous_tree: str | None, folders: Sequence[str]) -> Revision:
        """A commit with its workflow files and the changed paths."""
        return await self._call(lambda: self._read_revision(object_id, previous_tree, folders))

    async def blobs(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """The contents of blobs."""
        return await self._call(lambda: self._read_blobs(ids))

    async def lookup(self, tree: str, paths: Sequence[str]) -> dict[str, TreeFile]:
        """The files at paths of a tree."""
        return await self._call(lambda: reading.lookup(git_layout.find(self._path).objects, tree, paths))

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Waits for a hint of the watcher."""
        self._start_watching()
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_changed.wait()
        except TimeoutError:
            return False
        self._has_changed.clear()
        return True

    def watch_status(self) -> WatchStatus:
        """How changes are noticed."""
        if self._watcher is None:
            return WatchStatus(is_watching=False, code="starting", text="not watching yet")
        return self._watcher.state

    async def close(self) -> None:
        """Stops both threads."""
        self._worker.close()
        if self._watcher is not None:
            self._watcher.close()
            await asyncio.to_thread(self._watcher.join, 1.0)

    async def _call(self, function: Callable[[], Result]) -> Result:
        return await self._worker.call(function, _CALL_TIMEOUT_S)

    def _start_watching(self) -> None:
        if self._watcher is not None:
            return
        loop = asyncio.get_running_loop()

        def report() -> None:
            try:
                loop.call_soon_threadsafe(self._has_changed.set)
            except RuntimeError:
                # The event loop was closed before the watcher.
                return

        self._watcher = Watcher(self._path, report, self._open_watch)
        self._watcher.start()

    def _read_refs(self) -> Refs:
        found = git_layout.find(self._path)
        try:
            identity = found.identity()
            head = git_layout.head_ref(found)
            container = DiskRefsContainer(found.common_directory, found.git_directory)
            object_ids: dict[str, str] = {}
            for base in ("refs/heads", "refs/tags"):
                for name, object_id in container.as_dict(Ref(base.encode())).items():
                    _add_ref(object_ids, base, name, object_id)
            # A repository that vanished on the way reads as one without refs, which would be taken for their removal.
            if found.identity() != identity or git_layout.head_ref(found) != head:
                raise Retryable(codes.NOT_THERE, "the repository was replaced while it was being read", after_s=0.1)
        except OSError as error:
            raise Retryable(codes.NOT_THERE, f"cannot read the repository: {error.strerror}") from error
        return Refs(head_ref=head, object_ids=object_ids)

    def _read_revision(self, object_id: str, previous_tree: str | None, folders: Sequence[str]) -> Revision:
        return reading.revision(git_layout.find(self._path).objects, object_id, previous_tree, folders)

    def _read_blobs(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        return reading.blobs(git_layout.find(self._path).objects, ids)


def _add_ref(object_ids: dict[str, str], base: str, name: bytes, object_id: bytes) -> None:
    try:
        object_ids[f"{base}/{name.decode('utf-8')}"] = object_id.decode("ascii")
    except UnicodeDecodeError:
        # No pattern of the configuration can match such a ref.
        return
