"""CheckoutService: gives a job its working directory with the files of the run's revision, before its first step.

    list of files ──▶ directory with what is kept here ──▶ the rest, over the link ──▶ renamed to the job's directory

Rules of this file: a job's directory is there as a whole or not at all. Steps of one job that begin together wait for the same
checkout. The disk is written by threads, one at a time; the loop only asks and waits. What is cancelled leaves nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.tree_store import PartialTree, TreeStore
from waterflow_agent.errors import Rejected
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId, Tree

if TYPE_CHECKING:
    from waterflow_agent.checkout.file_requests import FileRequests

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
#: Files of one question: enough that small ones fill an answer, few enough that all questions have work.
BLOBS_ASKED = 256


class CheckoutService:
    """All checkouts of one agent. For the loop's thread."""

    def __init__(self, store: TreeStore, requests: FileRequests, workspaces: WorkingDirectories) -> None:
        self._store = store
        self._requests = requests
        self._workspaces = workspaces
        self._disk = asyncio.Lock()
        #: One file at a time may be larger than an answer, so that few of them are in memory.
        self._large = asyncio.Lock()
        self._jobs: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._ahead: set[asyncio.Task[None]] = set()

    def has(self, key: TaskId) -> bool:
        """Whether the attempt's job has its directory."""
        return self._workspaces.has(key.attempt.run, key.attempt.job)

    def on_opened(self) -> None:
        """The link has a new session."""
        self._requests.on_opened()

    def on_response(self, response: messages.FileResponse) -> None:
        """The daemon sent files."""
        self._requests.on_response(response)

    async def close(self) -> None:
        """Ends what is done ahead."""
        for task in self._ahead:
            task.cancel()
        await asyncio.gather(*self._ahead, return_exceptions=True)

    async def make(self, key: TaskId, tree: Tree) -> None:
        """Returns when the attempt's job has its directory. Raises `Rejected` and `OSError`; then it has none."""
        job = (key.attempt.run, key.attempt.job)
        lock = self._jobs.get(job)
        if lock is None:
            lock = self._jobs[job] = asyncio.Lock()
        async with lock:
            if not self.has(key):
                await self._make(key, tree)

    async def _make(self, key: TaskId, tree: Tree) -> None:
        entries = await asyncio.to_thread(file_list.decode, await self._list(key))
        # Filled by the thread, so that a cancel while it works does not lose what it has made.
        made: list[PartialTree] = []
        try:
            await self._on_disk(lambda: made.append(self._store.begin(tree, entries)))
            making = made[0]
            fetched = len(making.missing)
            await self._fetch(key, making)
            await self._on_disk(lambda: self._store.finish(making))
            self._workspaces.adopt(key.attempt.run, key.attempt.job, making.path)
        except BaseException:
            for making in made:
                self._store.drop(making)
            raise
        logger.info(
            "%s of %s: %d files, %d of them fetched", tree.revision[:12], tree.repository, len(entries), fetched
        )
        task = asyncio.create_task(self._prepare_spare(tree, making), name="spare-tree")
        self._ahead.add(task)
        task.add_done_callback(self._ahead.discard)

    async def _prepare_spare(self, tree: Tree, making: PartialTree) -> None:
        await self._on_disk(lambda: self._store.prepare_spare(tree, making.files))

    async def _list(self, key: TaskId) -> bytearray:
        content = bytearray()
        while True:
            piece = (await self._requests.ask(key, (), len(content)))[0]
            content += piece.data
            if len(content) >= piece.size:
                return content
            _check_growth(piece, file_list.BYTES_MAX)

    async def _fetch(self, key: TaskId, making: PartialTree) -> None:
        missing = list(making.missing)
        waiting = deque(missing[at : at + BLOBS_ASKED] for at in range(0, len(missing), BLOBS_ASKED))
        lanes = [
            asyncio.create_task(self._fetch_some(key, making, waiting), name="fetch-files")
            for _ in range(min(messages.FILE_REQUESTS_MAX, len(waiting)))
        ]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _fetch_some(self, key: TaskId, making: PartialTree, waiting: deque[list[bytes]]) -> None:
        while waiting:
            wanted = waiting.popleft()
            while wanted:
                arrived = await self._answer(key, wanted)
                wanted = wanted[len(arrived) :]
                await self._on_disk(lambda arrived=arrived: self._store.add(making, arrived))  # type: ignore[misc]

    async def _answer(self, key: TaskId, wanted: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """The first of the wanted files, at least one, each whole."""
        pieces = await self._requests.ask(key, wanted, 0)
        whole = itertools.takewhile(lambda piece: len(piece.data) == piece.size, pieces)
        arrived = [(blob, piece.data) for blob, piece in zip(wanted, whole, strict=False)]
        if not arrived:
            arrived = [(wanted[0], await self._rest(key, wanted[0], pieces[0]))]
        return arrived

    async def _rest(self, key: TaskId, blob: bytes, piece: messages.FileChunk) -> bytes:
        """A file that is larger than an answer."""
        async with self._large:
            content = bytearray(piece.data)
            while len(content) < piece.size:
                _check_growth(piece, file_list.FILE_BYTES_MAX)
                piece = (await self._requests.ask(key, [blob], len(content)))[0]
                content += piece.data
            return bytes(content)

    async def _on_disk(self, call: Callable[[], Result]) -> Result:
        """In a thread, to its end even when this is cancelled: no two of them may meet."""
        async with self._disk:
            work = asyncio.ensure_future(asyncio.to_thread(call))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.gather(work, return_exceptions=True)
                raise


def _check_growth(piece: messages.FileChunk, bytes_max: int) -> None:
    """Raises `Rejected` WF750 for an answer that brings nothing on, or promises more than may be."""
    if not piece.data or piece.size > bytes_max:
        raise Rejected("WF750", f"the server sent {len(piece.data)} of {piece.size} bytes, where {bytes_max} may be")
