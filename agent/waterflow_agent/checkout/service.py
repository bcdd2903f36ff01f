"""Creates the working directory of a job with the files of the run's revision, before its first step.

    list of files ──▶ directory with the cached files ──▶ missing files, over the link ──▶ renamed to the job's directory

Rules of this file: a job's directory is complete or does not exist. Steps of one job that start together wait for the same
checkout. The disk is written in threads, one at a time; the loop only waits. A cancelled checkout leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from waterflow_agent import logs
from waterflow_agent.checkout import file_list, large_files
from waterflow_agent.checkout.tree_store import PartialTree, TreeStore
from waterflow_agent.errors import Rejected
from waterflow_agent.execution.sharing import UserCommands
from waterflow_agent.execution.step_policy import Account
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.threads import to_end
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId, Tree

if TYPE_CHECKING:
    from waterflow_agent.checkout.file_requests import FileRequests
    from waterflow_agent.checkout.incoming_files import IncomingFile

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
#: Files in one request: enough that small ones fill a response, few enough that all requests in flight have work.
BLOBS_ASKED = 256
#: How often a checkout whose list depends on branches begins again with a new list.
_ATTEMPTS_MAX = 4
#: The daemon's code for a file that is not on the list.
_NOT_LISTED = "WF219"


class CheckoutService:
    """All checkouts of one agent. For the loop's thread."""

    def __init__(
        self,
        store: TreeStore,
        requests: FileRequests,
        workspaces: WorkingDirectories,
        commands: UserCommands | None = None,
    ) -> None:
        """`commands` runs as the users of steps; None when all steps have the agent's own user."""
        self._commands = commands
        self._store = store
        self._requests = requests
        self._workspaces = workspaces
        self._disk = asyncio.Lock()
        #: By the Git ids of files that are larger than a response and are being fetched.
        self._large: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._jobs: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._spare_tasks: set[asyncio.Task[None]] = set()

    def has(self, key: TaskId) -> bool:
        """Whether the attempt's job has its directory."""
        return self._workspaces.has(key.attempt.run, key.attempt.job)

    def on_opened(self) -> None:
        """Repeats the open requests in a new session."""
        self._requests.on_opened()

    def on_response(self, response: messages.FileResponse) -> None:
        """Takes files from the daemon."""
        self._requests.on_response(response)

    async def close(self) -> None:
        """Cancels the preparation of spare directories."""
        for task in self._spare_tasks:
            task.cancel()
        await asyncio.gather(*self._spare_tasks, return_exceptions=True)

    async def make(self, key: TaskId, tree: Tree, account: Account | None = None) -> None:
        """Returns when the attempt's job has its directory, whose files belong to `account`.

        Raises `Rejected` and `OSError`; then no directory exists.
        """
        job = (key.attempt.run, key.attempt.job)
        lock = self._jobs.get(job)
        if lock is None:
            lock = self._jobs[job] = asyncio.Lock()
        async with lock:
            for attempt in range(1, _ATTEMPTS_MAX + 1):
                if self.has(key):
                    return
                try:
                    await self._make(key, tree, account)
                except Rejected as error:
                    # A branch has changed meanwhile, or the daemon has made other packs of the commits.
                    if error.code != _NOT_LISTED or not tree.parts or attempt == _ATTEMPTS_MAX:
                        raise

    async def _make(self, key: TaskId, tree: Tree, account: Account | None) -> None:
        entries = await asyncio.to_thread(file_list.decode, await self._list(key))
        # Filled by the thread, so that a cancellation while it works does not lose the directory.
        begun: list[PartialTree] = []
        try:
            await self._on_disk(lambda: begun.append(self._store.begin(tree, entries)))
            partial = begun[0]
            fetched = len(partial.missing)
            await self._fetch(key, partial)
            await self._on_disk(lambda: self._store.finish(partial))
            if account is None:
                self._workspaces.adopt(key.attempt.run, key.attempt.job, partial.path)
            else:
                await self._copy(key, partial.path, account)
        except BaseException:
            for partial in begun:
                self._store.drop(partial)
            raise
        logger.info(
            "checked out %s of %s: %d files, %d of them fetched",
            tree.revision[:12],
            tree.repository,
            len(entries),
            fetched,
            extra=logs.subject(key.attempt),
        )
        task = asyncio.create_task(self._prepare_spare(tree, partial), name="spare-tree")
        self._spare_tasks.add(task)
        task.add_done_callback(self._spare_tasks.discard)

    async def _copy(self, key: TaskId, files: Path, account: Account) -> None:
        """Makes the job's directory from a copy of the files that a process of the account makes, which then owns it."""
        assert self._commands is not None, "only a runner that can change users has accounts"
        run, job = key.attempt.run, key.attempt.job
        source, target = self._workspaces.prepare(run, job, account, files)
        try:
            await self._commands.copy(source, target, account)
            self._workspaces.adopt(run, job, target)
        except BaseException:
            self._workspaces.discard(target)
            raise
        finally:
            self._workspaces.discard(source)

    async def _prepare_spare(self, tree: Tree, partial: PartialTree) -> None:
        await self._on_disk(lambda: self._store.prepare_spare(tree, partial.files))

    async def _list(self, key: TaskId) -> bytearray:
        content = bytearray()
        while True:
            chunk = (await self._requests.fetch(key, (), len(content)))[0]
            content += chunk.data
            if len(content) >= chunk.size:
                return content
            large_files.check(chunk, file_list.BYTES_MAX)

    async def _fetch(self, key: TaskId, partial: PartialTree) -> None:
        missing = list(partial.missing)
        waiting = deque(missing[at : at + BLOBS_ASKED] for at in range(0, len(missing), BLOBS_ASKED))
        tasks = [
            asyncio.create_task(self._fetch_some(key, partial, waiting), name="fetch-files")
            for _ in range(min(messages.FILE_REQUESTS_MAX, len(waiting)))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch_some(self, key: TaskId, partial: PartialTree, waiting: deque[list[bytes]]) -> None:
        while waiting:
            requested = waiting.popleft()
            while requested:
                chunks = await self._requests.fetch(key, requested, 0)
                whole = itertools.takewhile(lambda chunk: len(chunk.data) == chunk.size, chunks)
                arrived = [(blob, chunk.data) for blob, chunk in zip(requested, whole, strict=False)]
                if arrived:
                    await self._on_disk(lambda arrived=arrived: self._store.add(partial, arrived))  # type: ignore[misc]
                else:
                    large_files.check(chunks[0], file_list.LARGE_FILE_BYTES_MAX)
                    await self._fetch_large(key, partial, requested[0], chunks[0].size)
                requested = requested[max(len(arrived), 1) :]

    async def _fetch_large(self, key: TaskId, partial: PartialTree, blob: bytes, size: int) -> None:
        """Fetches a file that is larger than a response; one checkout at a time fetches it, and others find it cached."""
        lock = self._large.get(blob)
        if lock is None:
            lock = self._large[blob] = asyncio.Lock()
        async with lock:
            if await self._on_disk(lambda: self._store.has_added(partial, blob)):
                return
            # Filled by the thread, as above.
            begun: list[IncomingFile] = []
            is_continued = False
            try:
                await self._on_disk(lambda: begun.append(self._store.begin_file(partial, blob, size)))
                await large_files.receive(self._requests, key, begun[0])
                await self._on_disk(lambda: self._store.add_file(partial, begun[0]))
            except Rejected as error:
                is_continued = error.code == _NOT_LISTED
                raise
            finally:
                for file in begun:
                    await self._on_disk(lambda file=file: self._store.end_file(file, keep=is_continued))  # type: ignore[misc]

    async def _on_disk(self, call: Callable[[], Result]) -> Result:
        """Runs a call in a thread, to its end even when this is cancelled, because no two may run at the same time."""
        async with self._disk:
            return await to_end(call)
