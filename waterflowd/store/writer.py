"""The writer: the one thread that changes the environment.

Rules of this file:

- It takes everything that is queued, up to the bounds of a group, and makes it durable in one LMDB transaction. A commit
  costs a flush, however much is in it, so the busier the daemon the cheaper each event.
- Items are committed in the order in which they were submitted. One that is refused fails alone (staging.py).
- Every transaction checks the generation record. Another number there means that another daemon has opened the directory
  in spite of the lock: this one must never write again.
- Full map: grow it and commit again. Full disk: give up the ballast and commit again; without ballast the group fails with
  `Retryable` WF302. Anything else that LMDB says sets the latch (health.py).
- Results reach an event loop by one `call_soon_threadsafe` per commit, not one per item: a wake-up costs more than an event.
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

#: About 8,000 events of 1 KiB: some tens of milliseconds, so that nobody waits longer for somebody else's flood.
GROUP_BYTES_MAX = 8 << 20
#: Reader slots of dead processes are looked for this often.
READER_CHECK_S = 60.0
#: How often a low disk is asked whether there is space for the ballast again.
BALLAST_CHECK_S = 1.0
#: A commit is tried again at most this often, each time after more room was made.
TRIES_MAX = 24

GENERATION_KEY = b"generation"

#: Gets a result or an error; exactly one of the two is set, `error` wins.
Done = Callable[[Any, BaseException | None], None]


class _Submission:
    """One submitted work item and who waits for it."""

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
        self._ballast.make()
        self._thread = threading.Thread(target=self._main, name="waterflow-log-writer", daemon=True)

    def start(self, last_seq: int, last_at: int) -> None:
        """Begins to write behind the log's newest record."""
        self.last_seq, self.last_at = last_seq, last_at
        self._thread.start()

    @property
    def is_disk_low(self) -> bool:
        """True from the first full disk on until there is room for the ballast again: admit no new work meanwhile."""
        return not self._ballast.is_there

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
        """Queues a work item from a thread without a loop."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def done(result: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._put(_Submission(work, None, done))
        return future

    def close(self) -> None:
        """Commits what is queued and ends the thread. What is submitted afterwards is refused."""
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
        """The thread. Whatever ends it, nobody is left waiting."""
        group: list[_Submission] = []
        try:
            while not self._is_last(group):
                _deliver(self._commit(group))
                group.clear()
                self._look_around()
        finally:
            self._refuse(group)

    def _is_last(self, group: list[_Submission]) -> bool:
        """Fills `group` with the next items; True when there will be none."""
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
        """The next item; while the disk is low it looks for room meanwhile, as nothing new may come before there is some."""
        while True:
            try:
                return self._queue.get(timeout=None if self._ballast.is_there else BALLAST_CHECK_S)
            except queue.Empty:
                self._look_around()

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
                text = "another daemon has taken the data directory; this one writes nothing any more"
                return self._poison(group, Stalled("WF301", text))
        full: Retryable = health.disk_full(self._directory)
        return [(ticket, None, Retryable(full.code, full.text, after_s=full.after_s)) for ticket in group]

    def _transact(self, group: list[_Submission]) -> list[_Outcome]:
        """One transaction with everything of `group`; raises only when nothing of it is durable."""
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
            # After a commit, good or failed, this does nothing.
            transaction.abort()
        self.last_at = staging.last_at
        self.last_seq = staging.last_seq
        return outcomes

    def _poison(self, group: list[_Submission], error: Stalled) -> list[_Outcome]:
        error = self._latch.set(error)
        return [(ticket, None, Stalled(error.code, error.text)) for ticket in group]

    def _look_around(self) -> None:
        """The few things that want doing now and then."""
        now = time.monotonic()
        if now - self._readers_checked_at > READER_CHECK_S:
            self._readers_checked_at = now
            self._environment.forget_dead_readers()
        if not self._ballast.is_there and now - self._ballast_checked_at > BALLAST_CHECK_S:
            self._ballast_checked_at = now
            self._ballast.make()

    def _refuse(self, group: list[_Submission]) -> None:
        """Ends everything that was not committed; nothing is left after an orderly close."""
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
    """The generation record is not ours."""


def _stage(ticket: _Submission, staging: Staging) -> _Outcome:
    try:
        return ticket, ticket.work.stage(staging), None
    except WaterflowError as error:
        return ticket, None, error


def _deliver(outcomes: list[_Outcome]) -> None:
    """Hands out results: one wake-up for each loop that waits."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        loop = outcome[0].loop
        if loop is None:
            _settle([outcome])
        else:
            by_loop.setdefault(loop, []).append(outcome)
    for loop, of_loop in by_loop.items():
        # A loop that is closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, of_loop)


def _settle(outcomes: list[_Outcome]) -> None:
    for ticket, result, error in outcomes:
        ticket.done(result, error)
