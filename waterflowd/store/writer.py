"""The writer: the only thread that changes the environment.

Rules of this file:

- It takes everything that is queued, up to the size of a group, and commits it in one LMDB transaction. A commit costs one
  flush, however much it contains, so events become cheaper as the load grows.
- Items are committed in the order of their submission. A rejected item does not affect the others (staging.py).
- Every transaction checks the generation record. A different number means that another daemon has opened the directory
  in spite of the lock: this one must never write again.
- Full map: grow it and commit again. Full disk: release the ballast and commit again; without ballast the group fails with
  `Retryable` WF302. Any other LMDB error sets the latch (health.py).
- Results reach an event loop with one `call_soon_threadsafe` per commit, not one per item: a wake-up costs more than an event.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import lmdb

from waterflow_agent.errors import Retryable, Stalled, WaterflowError
from waterflowd.store import health, layout
from waterflowd.store.ballast import Ballast
from waterflowd.store.environment import Environment
from waterflowd.store.health import FailureLatch
from waterflowd.store.staging import Staging, Work

#: About 8,000 events of 1 KiB: some tens of milliseconds, so that a flood from one caller does not delay others for longer.
GROUP_BYTES_MAX = 8 << 20
#: How often the reader slots of dead processes are freed.
READER_CHECK_S = 60.0
#: How often a low disk is checked for space for the ballast.
BALLAST_CHECK_S = 1.0
#: Tries of one commit; each one follows after space was freed.
TRIES_MAX = 24

GENERATION_KEY = b"generation"

#: Called with a result or an error; a set error wins.
Done = Callable[[Any, BaseException | None], None]


class _Submission:
    """One submitted work item and its callback."""

    __slots__ = ("done", "loop", "work")

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop | None, done: Done) -> None:
        self.work = work
        self.loop = loop
        self.done = done


_Outcome = tuple[_Submission, Any, BaseException | None]


class Writer:
    """Owns the writer thread of one environment. `submit` and `run` are safe on every thread."""

    def __init__(self, environment: Environment, generation: int, *, ballast: Ballast, latch: FailureLatch) -> None:
        self._environment = environment
        self._directory = environment.path.parent
        self._generation = str(generation).encode()
        self._ballast = ballast
        self._latch = latch
        self._queue: queue.SimpleQueue[_Submission | None] = queue.SimpleQueue()
        self._submitting = threading.Lock()
        self._is_closed = False
        self.last_seq, self.last_at = 0, 0
        self._readers_checked_at = self._ballast_checked_at = time.monotonic()
        self._ballast.reserve()
        self._thread = threading.Thread(target=self._main, name="waterflow-log-writer", daemon=True)

    def start(self, last_seq: int, last_at: int) -> None:
        """Starts the thread, which appends after the log's newest record."""
        self.last_seq, self.last_at = last_seq, last_at
        self._thread.start()

    @property
    def is_disk_low(self) -> bool:
        """True from the first full disk until there is space for the ballast again: admit no new work meanwhile."""
        return not self._ballast.is_reserved

    def submit(self, work: Work) -> asyncio.Future[Any]:
        """Queues a work item; the future belongs to the running loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._put(_Submission(work, loop, done))
        return future

    def run(self, work: Work) -> concurrent.futures.Future[Any]:
        """Queues a work item from a thread without an event loop."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def done(result: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._put(_Submission(work, None, done))
        return future

    def close(self) -> None:
        """Commits what is queued and ends the thread. Later submissions are rejected."""
        with self._submitting:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, ticket: _Submission) -> None:
        with self._submitting:
            self._latch.check()
            if self._is_closed:
                raise Stalled("WF303", "the store is closed")
            self._queue.put(ticket)

    def _main(self) -> None:
        """The thread's function. However it ends, every caller gets an answer."""
        group: list[_Submission] = []
        try:
            while not self._is_last(group):
                _deliver(self._commit(group))
                group.clear()
                self._maintain()
        finally:
            self._fail_pending(group)

    def _is_last(self, group: list[_Submission]) -> bool:
        """Fills `group` with the next items; True at the end."""
        ticket = self._take()
        size = 0
        while ticket is not None:
            group.append(ticket)
            size += ticket.work.size_bytes
            if size >= GROUP_BYTES_MAX:
                return False
            try:
                ticket = self._queue.get_nowait()
            except queue.Empty:
                return False
        self._queue.put(None)
        return not group

    def _take(self) -> _Submission | None:
        """The next item. While the disk is low, it checks for free space: no new work may arrive before there is some."""
        while True:
            try:
                return self._queue.get(timeout=None if self._ballast.is_reserved else BALLAST_CHECK_S)
            except queue.Empty:
                self._maintain()

    def _commit(self, group: list[_Submission]) -> list[_Outcome]:
        error = self._latch.error
        if error is not None:
            return [(ticket, None, Stalled(error.code, error.text)) for ticket in group]
        for _ in range(TRIES_MAX):
            try:
                return self._transact(group)
            except lmdb.MapFullError:
                if not self._environment.grow() and not self._ballast.release():
                    break
            except lmdb.Error as problem:
                if not health.is_disk_full(problem, self._directory):
                    return self._poison(group, health.poisoned(problem))
                if not self._ballast.release():
                    break
            except _DirectoryTaken:
                text = "another daemon has opened the data directory; this one stops writing"
                return self._poison(group, Stalled("WF301", text))
        full: Retryable = health.disk_full(self._directory)
        return [(ticket, None, Retryable(full.code, full.text, after_s=full.after_s)) for ticket in group]

    def _transact(self, group: list[_Submission]) -> list[_Outcome]:
        """Commits the whole `group` in one transaction; raises only when nothing of it is durable."""
        transaction = self._environment.begin_write()
        try:
            found = transaction.get(GENERATION_KEY, db=self._environment.database("meta"))
            if found != layout.seal(GENERATION_KEY, self._generation):
                raise _DirectoryTaken
            staging = Staging(self._environment, transaction, self.last_seq, self.last_at)
            outcomes = [_stage(ticket, staging) for ticket in group]
            if staging.is_empty:
                return outcomes
            staging.flush()
            transaction.commit()
        finally:
            # Does nothing after a commit, whether it succeeded or failed.
            transaction.abort()
        self.last_at = staging.last_at
        self.last_seq = staging.last_seq
        return outcomes

    def _poison(self, group: list[_Submission], error: Stalled) -> list[_Outcome]:
        error = self._latch.set(error)
        return [(ticket, None, Stalled(error.code, error.text)) for ticket in group]

    def _maintain(self) -> None:
        """Periodic maintenance: stale readers and the ballast."""
        now = time.monotonic()
        if now - self._readers_checked_at > READER_CHECK_S:
            self._readers_checked_at = now
            self._environment.forget_dead_readers()
        if not self._ballast.is_reserved and now - self._ballast_checked_at > BALLAST_CHECK_S:
            self._ballast_checked_at = now
            self._ballast.reserve()

    def _fail_pending(self, group: list[_Submission]) -> None:
        """Fails everything that was not committed; after an orderly close there is nothing left."""
        with self._submitting:
            is_orderly, self._is_closed = self._is_closed, True
        left = list(group)
        while True:
            try:
                ticket = self._queue.get_nowait()
            except queue.Empty:
                break
            if ticket is not None:
                left.append(ticket)
        if left or not is_orderly:
            _deliver(self._poison(left, health.poisoned(RuntimeError("the writer thread has ended"))))


class _DirectoryTaken(Exception):
    """The generation record belongs to another daemon."""


def _stage(ticket: _Submission, staging: Staging) -> _Outcome:
    try:
        return ticket, ticket.work.stage(staging), None
    except WaterflowError as error:
        return ticket, None, error


def _deliver(outcomes: list[_Outcome]) -> None:
    """Delivers results, with one wake-up per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        loop = outcome[0].loop
        if loop is None:
            _settle([outcome])
        else:
            by_loop.setdefault(loop, []).append(outcome)
    for loop, of_loop in by_loop.items():
        # A closed loop has no waiting callers.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, of_loop)


def _settle(outcomes: list[_Outcome]) -> None:
    for ticket, result, error in outcomes:
        ticket.done(result, error)
