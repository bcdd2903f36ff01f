"""A remote repository, read through a mirror on this machine.

Rules of this file: only `refs` uses the network, through a fetch child; everything else reads the mirror, so it works without
the remote, and what was fetched once stays readable. A failed fetch changes nothing. Nothing is ever pushed.

Theory: a mirror holds the trees of the watched refs, mostly without history. Forced pushes, merges and deleted refs make no
difference: the loop compares trees, and the tree that was applied last stays in the mirror. Only a fresh mirror (too many
packs, a damaged one, another URL) lacks it, so one is filled when no ref has changed, or when there is no alternative.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from waterflow_agent.errors import Retryable, WaterflowError
from waterflowd.gitsource import reading
from waterflowd.gitsource.remote import credentials
from waterflowd.gitsource.remote.fetch_protocol import Fetched, FetchRequest, Limits
from waterflowd.gitsource.remote.fetcher import Fetcher
from waterflowd.gitsource.remote.mirror import Mirror, MirrorState, age_text
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.gitsource.worker import Worker
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Refs, Revision, TreeFile, WatchStatus

Result = TypeVar("Result")

#: Removing an old mirror of a gigabyte takes a while on a slow disk.
_CALL_TIMEOUT_S = 60.0
#: Many packs make every read slower: beyond this number the mirror is replaced if no ref has changed ...
_PACKS_MAX = 50
#: ... and beyond this one in any case.
_PACKS_HARD_MAX = 200

_logger = logging.getLogger("waterflow.gitsource")


class RemoteSource:
    """A `Source` over a remote. Its methods need a running event loop."""

    def __init__(
        self,
        settings: RepositorySettings,
        url: RemoteUrl,
        mirror: Mirror,
        fetcher: Fetcher,
        environment: Mapping[str, str],
        *,
        has_history: bool = False,
    ) -> None:
        """`has_history` fetches all branches and tags with all of their commits, in place of the watched ones' trees."""
        self._settings = settings
        self._has_history = has_history
        self._url = url
        self._mirror = mirror
        self._fetcher = fetcher
        self._environment = environment
        self._worker = Worker(f"git {settings.name}")
        self._is_open = False
        #: True once an object of the mirror could not be read.
        self._is_suspect = False
        self._object_ids: dict[str, str] = {}
        #: The refs for which a suspect mirror was replaced; replacing it again for the same refs would not help.
        self._replaced_at: dict[str, str] | None = None

    async def refs(self) -> Refs:
        """Fetcher, and returns the remote's refs."""
        try:
            fetched = await self._fetch_refs()
        except WaterflowError as error:
            age = age_text(self._mirror.fetched_at)
            if isinstance(error, Retryable):
                raise Retryable(error.code, f"{error.text} ({age})", after_s=error.after_s) from error
            raise type(error)(error.code, f"{error.text} ({age})") from error
        self._object_ids = fetched.object_ids
        return Refs(head_ref=fetched.head_ref, object_ids=fetched.object_ids)

    async def revision(self, object_id: str, previous_tree: str | None, folders: Sequence[str]) -> Revision:
        """A commit with its workflow files and the changed paths."""
        return await self._read(lambda: reading.revision(self._mirror.objects, object_id, previous_tree, folders))

    async def blobs(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """The contents of blobs."""
        return await self._read(lambda: reading.blobs(self._mirror.objects, ids))

    async def lookup(self, tree: str, paths: Sequence[str]) -> dict[str, TreeFile]:
        """The files at paths of a tree."""
        return await self._read(lambda: reading.lookup(self._mirror.objects, tree, paths))

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Waits for the timeout: a remote does not announce changes."""
        await asyncio.sleep(timeout_s)
        return False

    def watch_status(self) -> WatchStatus:
        """How changes are noticed: by polling."""
        text = f"the remote is fetched every {self._settings.interval_ms / 1_000:g} s"
        return WatchStatus(is_watching=False, code="polled", text=text, is_remote=True)

    async def close(self) -> None:
        """Ends the thread. A fetch ends when the call that waits for it is cancelled."""
        self._worker.close()

    async def _call(self, function: Callable[[], Result]) -> Result:
        return await self._worker.call(function, _CALL_TIMEOUT_S)

    async def _read(self, function: Callable[[], Result]) -> Result:
        await self._open()
        try:
            return await self._call(function)
        except Retryable as error:
            self._is_suspect = self._is_suspect or error.code == codes.OBJECT_UNREADABLE
            raise

    async def _open(self) -> None:
        if not self._is_open:
            await self._write(self._mirror.open)
            self._is_open = True

    async def _write(self, function: Callable[[], Result]) -> Result:
        """Runs a function that writes the mirror."""
        try:
            return await self._call(function)
        except OSError as error:
            raise Retryable(codes.NOT_THERE, f"cannot write the mirror: {error.strerror}", after_s=5) from error

    async def _fetch_refs(self) -> Fetched:
        await self._open()
        if self._is_suspect and self._replaced_at != self._object_ids:
            self._replaced_at = self._object_ids
            return await self._fetch_fresh("its mirror is damaged")
        fetched = await self._fetch(self._mirror.objects, self._mirror.state)
        await self._write(lambda: self._mirror.record(fetched))
        packs = await self._write(self._mirror.pack_count)
        if packs > (_PACKS_MAX if not fetched.complete else _PACKS_HARD_MAX):
            try:
                return await self._fetch_fresh(f"its mirror has {packs} packs")
            except WaterflowError as error:
                # The existing mirror still works; the next fetch tries again.
                _logger.warning(
                    "repository %s: could not replace the mirror, will retry: %s",
                    self._settings.name,
                    error,
                    extra={"repository": self._settings.name},
                )
        return fetched

    async def _fetch_fresh(self, reason: str) -> Fetched:
        """Fills a fresh mirror and replaces the old one with it."""
        name = self._settings.name
        _logger.info("repository %s: %s; fetching it anew", name, reason, extra={"repository": name})
        directory = await self._write(self._mirror.begin_fresh)
        fetched = await self._fetch(directory, MirrorState(remote=""))
        await self._write(lambda: self._mirror.swap(fetched))
        self._is_suspect = False
        return fetched

    async def _fetch(self, objects: str, state: MirrorState) -> Fetched:
        request = await self._request(objects, state)
        try:
            return await self._fetcher.fetch(request)
        except WaterflowError:
            await self._write(self._mirror.clean_up)
            raise

    async def _request(self, objects: str, state: MirrorState) -> FetchRequest:
        settings = self._settings
        loaded = await self._call(lambda: credentials.load(settings, self._url, self._environment))
        return FetchRequest(
            url=self._url,
            credentials=loaded,
            limits=Limits(time_s=settings.fetch_timeout_ms / 1_000, pack_bytes=settings.fetch_bytes_max),
            objects=objects,
            patterns=settings.refs,
            has_history=self._has_history,
            allow_loopback=settings.allow_loopback,
            complete=state.complete,
            commits=state.commits,
            shallow=state.shallow,
        )
