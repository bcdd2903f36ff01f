"""Output logs: what steps print. Small logs are in LMDB, large ones in files.

Rules of this file:

- A log begins as rows of LMDB, written by the same writer and flushed in the same commits as events: a step that prints
  three lines costs no file and no extra flush. When the log would exceed `SMALL_BYTES_MAX`, its rows stay in LMDB and a file
  continues from that offset (output_files.py).
- A separate thread takes all queued appends at once, passes the small ones to the writer as one item, writes the large ones
  meanwhile, and flushes each file once. So a flood of output waits for the disk here and never delays an event.
- Offsets decide: known bytes are skipped, bytes after a gap are ignored, and the returned size says where to continue. That
  makes every append safe to repeat.
- `_tails` has the durable end of each log. Only this thread moves an end. A log that is not in the table is recovered from
  disk first, under the lock, on the thread that needs it. A log that is being written is never dropped from the table.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import queue
import struct
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import lmdb

from waterflow_agent.errors import Stalled, WaterflowError
from waterflowd.model.ids import AttemptId, RunId
from waterflowd.model.output_pieces import LineMark, line_marks_of, new_pieces
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.store import health, layout
from waterflowd.store.environment import Environment
from waterflowd.store.health import FailureLatch
from waterflowd.store.output_files import OutputFile, OutputFiles
from waterflowd.store.rows import hidden, seek_before, seek_from
from waterflowd.store.staging import Staging
from waterflowd.store.writer import Writer

#: Enough for what most steps print. Larger logs would inflate the map and backups with text that is rarely read.
SMALL_BYTES_MAX = 64 << 10
#: Bytes that are flushed together; also the most that a crash can leave unflushed at the end of a file.
GROUP_BYTES_MAX = 8 << 20
#: Ends of logs kept in memory, a few hundred bytes each.
TAILS_MAX = 4096

#: Run, hash of job and step, attempt; the offset follows.
PREFIX_BYTES = 16 + 16 + 4
KEY_BYTES = PREFIX_BYTES + 8

_PIECE = struct.Struct(">QB")
_ROW_OVERHEAD_BYTES = 80


class _Tail(NamedTuple):
    """Where a log ends: its durable size, and the file if it has one."""

    size: int
    file: OutputFile | None


class _Request(NamedTuple):
    pieces: Sequence[OutputAppend]
    done: Callable[[list[int] | None, BaseException | None], None]


class LmdbOutputLogs:
    """The output logs of one data directory. `append` needs a running loop; the rest works on any thread."""

    def __init__(self, environment: Environment, writer: Writer, *, files: OutputFiles, latch: FailureLatch) -> None:
        self._environment = environment
        self._writer = writer
        self._files = files
        self._latch = latch
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._submitting = threading.Lock()
        self._lock = threading.Lock()
        self._is_closed = False
        self._tails: dict[AttemptId, _Tail] = {}
        self._busy: set[AttemptId] = set()
        self._thread = threading.Thread(target=self._main, name="waterflow-output", daemon=True)
        self._thread.start()

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """Makes output durable; see `ports.LocalOutputLogs`. Raises `Retryable` WF302 when the disk is full: send it again.

        Raises `ValueError` at once for an invalid name. A time or stream out of range is clamped.
        """
        for append in pieces:
            log_prefix(append.attempt)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[int]] = loop.create_future()

        def settle(sizes: list[int] | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None or sizes is None:
                future.set_exception(error or RuntimeError("no sizes"))
            else:
                future.set_result(sizes)

        def done(sizes: list[int] | None, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, sizes, error)

        with self._submitting:
            self._latch.check()
            if self._is_closed:
                raise Stalled("WF303", "the store is closed")
            self._queue.put(_Request(pieces, done))
        return future

    def size(self, name: AttemptId) -> int:
        """Durable size of a log in bytes."""
        self._latch.check()
        return self._tail(name).size

    def read(self, name: AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
        """Durable pieces from the one that contains `offset`, about `bytes_max` in total; at least one if there are any."""
        self._latch.check()
        tail = self._tail(name)
        offset = max(offset, 0)
        if offset >= tail.size:
            return []
        pieces: list[OutputPiece] = []
        if tail.file is None or offset < tail.file.base:
            end = tail.size if tail.file is None else tail.file.base
            pieces = self._rows(name, offset, bytes_max, end=end)
        left = bytes_max - sum(len(piece.data) for piece in pieces)
        if tail.file is not None and (not pieces or left > 0):
            try:
                pieces += tail.file.read(max(offset, tail.file.base), left, end=tail.size)
            except OSError as problem:
                raise Stalled("WF304", f"the output log {tail.file.path} cannot be read: {problem}") from problem
        return pieces

    def line_marks(self, name: AttemptId) -> list[LineMark]:
        """See `ports.LocalOutputLogs`."""
        self._latch.check()
        tail = self._tail(name)
        end = tail.size if tail.file is None else tail.file.base
        marks = line_marks_of(self._rows(name, 0, end, end=end) if end else ())
        if tail.file is None:
            return marks
        before = marks.pop()
        return marks + [mark._replace(lines=before.lines + mark.lines) for mark in tail.file.line_marks()]

    def stored_bytes(self) -> int:
        """Space that all output takes, in bytes: the pages in LMDB, and the files. Looks at each run that has files."""
        self._latch.check()
        with self._environment.reading() as transaction:
            found = transaction.stat(self._environment.database("output"))
        pages = found["leaf_pages"] + found["branch_pages"] + found["overflow_pages"]
        in_files: int = sum(self._files.size_of(run) for run in self._files.runs())
        return pages * found["psize"] + in_files

    def run_bytes(self, run: RunId) -> int:
        """Size of the output of one run, in bytes."""
        self._latch.check()
        prefix, size = layout.run_key(run), 0
        with self._environment.reading() as transaction:
            cursor = transaction.cursor(self._environment.database("output"))
            more = seek_from(cursor, "output", prefix)
            while more and cursor.key().startswith(prefix):
                size += len(cursor.value())
                more = cursor.next()
        return size + self._files.size_of(run)

    def has_files(self, run: RunId) -> bool:
        """See `ports.LocalOutputLogs`."""
        return self._files.has(run)

    def runs_with_files(self) -> list[RunId]:
        """See `ports.LocalOutputLogs`."""
        return self._files.runs()

    def forget(self, run: RunId) -> None:
        """See `ports.LocalOutputLogs`."""
        with self._lock:
            for name in [name for name in self._tails if name.run == run]:
                del self._tails[name]

    def remove_files(self, run: RunId) -> bool:
        """See `ports.LocalOutputLogs`."""
        self._latch.check()
        return self._files.remove_run(run)

    def close(self) -> None:
        """Writes what is queued and ends the thread. Call it before the writer is closed."""
        with self._submitting:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        self._thread.join()

    def _tail(self, name: AttemptId) -> _Tail:
        return self._tails.get(name) or self._look_up([name])[name]

    def _look_up(self, names: Collection[AttemptId]) -> dict[AttemptId, _Tail]:
        """The ends of the logs; unknown ones are recovered, with one LMDB read for all of them."""
        with self._lock:
            unknown = [name for name in names if name not in self._tails]
            if unknown:
                with self._environment.reading() as transaction:
                    ends = [self._end_of_rows(transaction, name) for name in unknown]
                self._tails.update((name, self._recover(name, end)) for name, end in zip(unknown, ends, strict=True))
            tails = {name: self._tails[name] for name in names}
            self._trim()
            return tails

    def _end_of_rows(self, transaction: lmdb.Transaction[bytes], name: AttemptId) -> int:
        try:
            prefix = log_prefix(name)
        except ValueError:
            return 0
        return rows_end(self._environment, transaction, prefix)

    def _recover(self, name: AttemptId, end: int) -> _Tail:
        """The end of the log on disk; its rows end at `end`. Truncates what a crash left half written."""
        file = self._files.recover(name)
        if file is None:
            return _Tail(end, None)
        if file.end == file.base or end > file.base:
            # Left by a failed append: nothing in it was acknowledged, and the rows may have grown since.
            self._files.remove(file)
            return _Tail(end, None)
        return _Tail(file.end, file)

    def _trim(self) -> None:
        """Drops the oldest ends. Called under the lock."""
        surplus = len(self._tails) - TAILS_MAX
        if surplus > 0:
            idle = (name for name in self._tails if name not in self._busy)
            for name in list(itertools.islice(idle, surplus)):
                del self._tails[name]

    def _rows(self, name: AttemptId, offset: int, bytes_max: int, *, end: int) -> list[OutputPiece]:
        """Pieces from the one that contains `offset`, from rows without a gap up to `end`."""
        prefix = log_prefix(name)
        pieces: list[OutputPiece] = []
        left = bytes_max
        with self._environment.reading() as transaction:
            cursor = transaction.cursor(self._environment.database("output"))
            has_row = seek_before(cursor, "output", prefix + layout.pack_u64(offset + 1)) is not None
            reached: int | None = None
            while left > 0 or not pieces:
                if reached is not None and reached >= end:
                    break
                key, sealed = cursor.item() if has_row else (b"", b"")
                if not key.startswith(prefix) or reached not in (None, row_offset(key)):
                    raise hidden("output", prefix)
                value = layout.unseal("output", key, sealed)
                at, stream = _PIECE.unpack_from(value)
                piece = OutputPiece(offset=row_offset(key), at=at, stream=stream, data=value[_PIECE.size :])
                reached = row_end(key, value)
                if reached <= offset:
                    raise hidden("output", key)
                pieces.append(piece)
                left -= len(piece.data)
                has_row = cursor.next()
        return pieces

    def _main(self) -> None:
        """The thread's function. However it ends, every caller gets an answer."""
        group: list[_Request] = []
        try:
            while True:
                group = self._next_group()
                if not group:
                    return
                self._write(group)
                group = []
        finally:
            self._fail_pending(group)

    def _next_group(self) -> list[_Request]:
        group: list[_Request] = []
        size = 0
        request = self._queue.get()
        while request is not None:
            group.append(request)
            size += sum(len(piece.data) for append in request.pieces for piece in append.pieces)
            if size >= GROUP_BYTES_MAX:
                return group
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                return group
        self._queue.put(None)
        return group

    def _write(self, group: list[_Request]) -> None:
        error: BaseException | None = None
        try:
            with self._lock:
                self._busy = {append.attempt for request in group for append in request.pieces}
            sizes = self._write_pieces([append for request in group for append in request.pieces])
        except WaterflowError as problem:
            error = problem
        except OSError as problem:
            error = self._disk_error(problem)
        finally:
            with self._lock:
                self._busy = set()
        taken = 0
        for request in group:
            if error is not None:
                request.done(None, error)
            else:
                request.done(sizes[taken : taken + len(request.pieces)], None)
            taken += len(request.pieces)

    def _write_pieces(self, appends: list[OutputAppend]) -> list[int]:
        """Makes everything durable. Returns, for each append, the size of its log after it."""
        sizes: list[int] = []
        small = _SmallWork()
        tails = self._look_up({append.attempt for append in appends})
        ends: dict[AttemptId, _Tail] = {}
        files: dict[AttemptId, OutputFile] = {}
        try:
            for append in appends:
                tail = ends.get(append.attempt) or tails[append.attempt]
                fresh = new_pieces(append.pieces, tail.size)
                end = fresh[-1].offset + len(fresh[-1].data) if fresh else tail.size
                file = tail.file
                if file is None and end > SMALL_BYTES_MAX:
                    if append.attempt in small.names:
                        # The file may follow only durable rows, or a crash would leave a gap.
                        self._commit_rows(small, ends)
                        small = _SmallWork()
                    file = self._files.create(append.attempt, base=tail.size)
                if file is None:
                    small.add(append.attempt, fresh)
                else:
                    files[append.attempt] = file
                    file.add(fresh)
                ends[append.attempt] = _Tail(end, file)
                sizes.append(end)
            self._make_durable(small, files, ends)
        except BaseException:
            for file in files.values():
                file.drop()
            raise
        self._tails.update(ends)
        return sizes

    def _commit_rows(self, small: _SmallWork, ends: dict[AttemptId, _Tail]) -> None:
        self._writer.run(small).result()
        self._tails.update((name, ends[name]) for name in small.names)

    def _make_durable(
        self, small: _SmallWork, files: dict[AttemptId, OutputFile], ends: dict[AttemptId, _Tail]
    ) -> None:
        """The writer commits rows while this thread writes files. Each end moves as soon as it is durable."""
        rows = self._writer.run(small) if small.rows else None
        try:
            for file in files.values():
                file.write()
            for name, file in files.items():
                self._files.sync(file)
                self._tails[name] = _Tail(file.end, file)
        finally:
            if rows is not None:
                rows.result()
                self._tails.update((name, ends[name]) for name in small.names)

    def _disk_error(self, problem: OSError) -> WaterflowError:
        if health.is_disk_full(problem, self._files.path):
            return health.disk_full(self._files.path)
        return self._latch.set(health.poisoned(problem))

    def _fail_pending(self, group: list[_Request]) -> None:
        """Fails everything that was not written; after an orderly close there is nothing left."""
        with self._submitting:
            is_orderly, self._is_closed = self._is_closed, True
        left = list(group)
        while True:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                break
            if request is not None:
                left.append(request)
        if left or not is_orderly:
            error = self._latch.set(health.poisoned(RuntimeError("the output thread has ended")))
            for request in left:
                request.done(None, Stalled(error.code, error.text))


class _SmallWork:
    """Rows of small logs to write into LMDB."""

    def __init__(self) -> None:
        self.rows: list[tuple[bytes, bytes]] = []
        self.names: set[AttemptId] = set()
        self.size_bytes = 0

    def add(self, name: AttemptId, pieces: Sequence[OutputPiece]) -> None:
        """Adds the pieces of one log."""
        prefix = log_prefix(name)
        self.names.add(name)
        for piece in pieces:
            self.rows.append((prefix + layout.pack_u64(piece.offset), _PIECE.pack(piece.at, piece.stream) + piece.data))
            self.size_bytes += len(piece.data) + _ROW_OVERHEAD_BYTES

    def stage(self, staging: Staging) -> Any:
        """Stages the rows. The output thread, the only one that moves a log's end, has checked that they follow it."""
        for key, value in self.rows:
            staging.put("output", key, value)


def rows_end(environment: Environment, transaction: lmdb.Transaction[bytes], prefix: bytes) -> int:
    """The end of one log's rows; `prefix` comes from `log_prefix`."""
    before = seek_before(transaction.cursor(environment.database("output")), "output", prefix + b"\xff" * 9)
    return 0 if before is None or not before[0].startswith(prefix) else row_end(*before)


def row_end(key: bytes, value: bytes) -> int:
    """The offset after the piece in an unsealed row."""
    return row_offset(key) + len(value) - _PIECE.size


def row_offset(key: bytes) -> int:
    """The offset at which the piece in a row begins."""
    return layout.unpack_u64(key[PREFIX_BYTES:])


@lru_cache(maxsize=TAILS_MAX)
def log_prefix(name: AttemptId) -> bytes:
    """The common prefix of the keys of one log's rows: run, hash of job and step, attempt."""
    if not 0 <= name.number < 1 << 32:
        raise ValueError(f"not an attempt number: {name.number}")
    step = hashlib.blake2b(f"{name.job}\0{name.step}".encode(), digest_size=16).digest()
    return layout.run_key(name.run) + step + name.number.to_bytes(4, "big")
