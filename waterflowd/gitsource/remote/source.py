"""A remote repository, read through a mirror on this machine.

Rules of this file: the network is asked in `refs` alone, by a fetch child; everything else reads the mirror, so it works
without the remote, and what was fetched once stays readable. A fetch that fails changes nothing. Nothing is ever pushed.

Theory: a mirror holds the trees of the watched tips, mostly without history. A forced push, a merge or a deleted ref makes no
difference to it: the loop compares trees, and the tree that was applied last stays in the mirror. Only a fresh mirror (too many
packs, a damaged one, another url) lacks it, so one is filled when nothing moves, or it cannot be helped.
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
from waterflowd.gitsource.remote.fetcher import Fetches
from waterflowd.gitsource.remote.mirror import Mirror, MirrorState, ago
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.gitsource.worker import Worker
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Refs, Revision, TreeFile, Watching

Result = TypeVar("Result")

#: Removing an old mirror of a gigabyte takes a while on a slow disk.
_CALL_TIMEOUT_S = 60.0
#: More packs than this make every read slower: a fresh mirror takes the place when nothing moves ...
_PACKS_MAX = 50
#: ... and at this number even when something does.
_PACKS_HARD_MAX = 200

_logger = logging.getLogger("waterflow.gitsource")


class RemoteSource:
    """A `Source` over a remote. Needs a running loop from its first method on."""

    def __init__(
        self,
        settings: RepositorySettings,
        url: RemoteUrl,
        mirror: Mirror,
        fetches: Fetches,
        environment: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._url = url
        self._mirror = mirror
        self._fetches = fetches
        self._environment = environment
        self._worker = Worker(f"git {settings.name}")
        self._is_open = False
        #: True once something in the mirror could not be read.
        self._is_suspect = False
        self._object_ids: dict[str, str] = {}
        #: The tips for which a suspect mirror was replaced; for the same ones it would be in vain.
        self._replaced_at: dict[str, str] | None = None

    async def refs(self) -> Refs:
        """Fetches, and gives the remote's refs."""
        try:
            fetched = await self._fetched()
        except WaterflowError as error:
            age = ago(self._mirror.fetched_at)
            if isinstance(error, Retryable):
                raise Retryable(error.code, f"{error.text} ({age})", after_s=error.after_s) from error
            raise type(error)(error.code, f"{error.text} ({age})") from error
        self._object_ids = fetched.object_ids
        return Refs(head_ref=fetched.head_ref, object_ids=fetched.object_ids)

    async def revision(self, object_id: str, previous_tree: str | None, folders: Sequence[str]) -> Revision:
        """One commit with its workflow files and what changed."""
        return await self._read(lambda: reading.revision(self._mirror.objects, object_id, previous_tree, folders))

    async def blobs(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """The contents of blobs."""
        return await self._read(lambda: reading.blobs(self._mirror.objects, ids))

    async def lookup(self, tree: str, paths: Sequence[str]) -> dict[str, TreeFile]:
        """What stands at paths of a tree."""
        return await self._read(lambda: reading.lookup(self._mirror.objects, tree, paths))

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Waits for the time: a remote says nothing by itself."""
        await asyncio.sleep(timeout_s)
        return False

    def watching(self) -> Watching:
        """How changes are noticed: by asking."""
        text = f"the remote is asked every {self._settings.interval_ms / 1_000:g} s"
        return Watching(is_watching=False, code="asked", text=text, is_remote=True)

    async def close(self) -> None:
        """Ends the thread. A fetch ends with the call that waits for it."""
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
            await self._disk(self._mirror.open)
            self._is_open = True

    async def _disk(self, function: Callable[[], Result]) -> Result:
        """Something that writes the mirror."""
        try:
            return await self._call(function)
        except OSError as error:
            raise Retryable(codes.NOT_THERE, f"the mirror cannot be written: {error.strerror}", after_s=5) from error

    async def _fetched(self) -> Fetched:
        await self._open()
        if self._is_suspect and self._replaced_at != self._object_ids:
            self._replaced_at = self._object_ids
            return await self._replaced("something in its mirror could not be read")
        fetched = await self._fetch(self._mirror.objects, self._mirror.state)
        await self._disk(lambda: self._mirror.take(fetched))
        packs = await self._disk(self._mirror.packs)
        if packs > (_PACKS_MAX if not fetched.complete else _PACKS_HARD_MAX):
            try:
                return await self._replaced(f"its mirror has {packs} packs")
            except WaterflowError as error:
                # The mirror that there is does as well; the next look tries again.
                _logger.warning(
                    "repository %s: no fresh mirror: %s",
                    self._settings.name,
                    error,
                    extra={"repository": self._settings.name},
                )
        return fetched

    async def _replaced(self, why: str) -> Fetched:
        """Fills a fresh mirror and puts it in the place of the old one."""
        name = self._settings.name
        _logger.info("repository %s: %s: it is fetched anew", name, why, extra={"repository": name})
        directory = await self._disk(self._mirror.begin_fresh)
        fetched = await self._fetch(directory, MirrorState(remote=""))
        await self._disk(lambda: self._mirror.swap(fetched))
        self._is_suspect = False
        return fetched

    async def _fetch(self, objects: str, state: MirrorState) -> Fetched:
        request = await self._request(objects, state)
        try:
            return await self._fetches.fetch(request)
        except WaterflowError:
            await self._disk(self._mirror.clear)
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
            complete=state.complete,
            commits=state.commits,
            shallow=state.shallow,
        )
