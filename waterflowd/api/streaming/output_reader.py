"""The whole output of a run as one sequence of lines that can be resumed at any line.

Rules of this file: it reads the history and the output logs, and never waits for anything new. Reading takes turns: some
output of some attempts is read, for which the storage may take its time, and then split into lines, which is divided work
(time_slices.py), because a run may have thousands of attempts and megabytes of output. Attempts come in the order of their
`attempt-dispatched` events. While a run is active, several attempts print concurrently: each `read_some` returns what is new
of each of them in turn.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from waterflowd.api.runs.run_lookup import is_within
from waterflowd.api.streaming.output_lines import Cursor, Line, LineCutter, NumberRanges, entry
from waterflowd.api.timestamps import Timestamp, format_timestamp
from waterflowd.engine import events
from waterflowd.model.ids import AttemptId, RunId, run_stream
from waterflowd.model.records import CUT_STREAM, OutputPiece
from waterflowd.ports import History, OutputLogs

#: Bytes and attempts that are read before their lines are split: less than a millisecond on the daemon's own disk.
_READ_BYTES = 256 << 10
_READ_ATTEMPTS = 32
#: Events that are read at a time. A multiple of what the history reads before it can be interrupted.
_RECORDS = 512


class OutputLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of output, or a part of a long one. `cursor` resumes after it."""

    job: str
    step: str
    attempt: int
    at: Timestamp
    stream: Literal["stdout", "stderr"]
    offset: int
    text: str
    cut: bool
    cursor: str


class _Attempt:
    """The output of one attempt, and how much of it has been returned."""

    __slots__ = ("cutter", "is_cut_off", "is_finished", "is_left", "name", "number", "output_bytes")

    def __init__(self, number: int, name: AttemptId, positions: tuple[int, int]) -> None:
        self.number = number
        self.name = name
        self.cutter = LineCutter(positions)
        self.is_finished = False
        #: No longer read although more may come; a client that resumes continues here.
        self.is_left = False
        #: Size of the whole log, known once the attempt is finished.
        self.output_bytes = 0
        #: What was read last is the mark of what the daemon did not store.
        self.is_cut_off = False


class _Found(NamedTuple):
    """Output of an attempt that was read."""

    attempt: _Attempt
    pieces: list[OutputPiece]
    #: There was no more.
    is_all: bool


class RunOutput:
    """Reads the output of a run after a cursor, or from a byte offset of every log."""

    def __init__(
        self,
        history: History,
        outputs: OutputLogs,
        run: RunId,
        *,
        job: str | None = None,
        step: str | None = None,
        start: Cursor | int = 0,
    ) -> None:
        self._history = history
        self._outputs = outputs
        self._run = run
        self._job = job
        self._step = step
        self._cursor = start if isinstance(start, Cursor) else Cursor()
        self._offset = start if isinstance(start, int) else start.offset
        self._position = 0
        #: Every attempt of the run, numbered in this order; None for those that were not selected.
        self._attempts: dict[AttemptId, _Attempt | None] = {}
        #: Selected attempts that may have more output, in order.
        self._open: list[_Attempt] = []
        #: Those of them of which a part has been returned, by number.
        self._partial: dict[int, _Attempt] = {}
        #: Numbers of selected attempts that have been returned completely, as ranges, without those before the first open one.
        self._closed = NumberRanges()
        self.is_completed = False

    async def learn(self) -> None:
        """Reads the new events of the run."""
        stream = run_stream(self._run)
        while True:
            count = _RECORDS - self._position % _RECORDS
            records = await self._history.read(stream, self._position + 1, count)
            for record in records:
                self._position = record.position
                self._learn(record.event)
            if len(records) < count:
                return

    def _learn(self, event: Any) -> None:
        match event:
            case events.AttemptDispatched():
                attempt = AttemptId(self._run, event.job, event.step, event.attempt)
                if attempt not in self._attempts:
                    self._add(attempt)
            case events.AttemptFinished():
                found = self._attempts.get(AttemptId(self._run, event.job, event.step, event.attempt))
                if found is not None:
                    found.is_finished = True
                    found.output_bytes = event.output_bytes
            case events.RunCompleted():
                self.is_completed = True
            case _:
                pass

    def _add(self, attempt: AttemptId) -> None:
        number = len(self._attempts)
        self._attempts[attempt] = None
        is_wanted = (self._job is None or is_within(attempt.job, self._job)) and (
            self._step is None or is_within(attempt.step, self._step)
        )
        if not is_wanted:
            return
        if self._cursor.is_done(number):
            self._closed.add(number)
            return
        added = _Attempt(number, attempt, self._cursor.positions.get(number, (self._offset, self._offset)))
        self._attempts[attempt] = added
        self._open.append(added)
        if number in self._cursor.positions:
            self._partial[number] = added

    @property
    def is_drained(self) -> bool:
        """True when all output that finished attempts announced has been returned, and no attempt is still open."""
        return all(attempt.is_left for attempt in self._open)

    @property
    def is_missing_output(self) -> bool:
        """True while output that a finished attempt announced has not arrived."""
        return any(attempt.is_finished and not attempt.is_left for attempt in self._open)

    async def read_some(self, *, is_last: bool) -> AsyncGenerator[Iterator[OutputLine | None], None]:
        """New lines, if there are any, in parts; None where the work may be interrupted. Consume each part to its end.

        A finished attempt is returned completely before the next one; active attempts take turns. `is_last` means that no more
        output is expected: a line without its end is returned as it is. Raises `Retryable` and `Stalled` as the output logs do.
        """
        waiting = [attempt for attempt in self._open if not attempt.is_left]
        while waiting:
            found = await self._read(waiting[:_READ_ATTEMPTS])
            yield self._lines(found, is_last=is_last)
            if found[-1].attempt.is_finished and not found[-1].is_all:
                return
            del waiting[: len(found)]

    async def _read(self, attempts: Sequence[_Attempt]) -> list[_Found]:
        """What is new of the first of these attempts; at least of one."""
        found: list[_Found] = []
        left = _READ_BYTES
        for attempt in attempts:
            offset = attempt.cutter.next_offset
            pieces = await self._outputs.read(attempt.name, offset, left)
            last = pieces
            if not last and attempt.is_finished and 0 < offset < attempt.output_bytes:
                last = await self._outputs.read(attempt.name, offset - 1, 1)
            if last:
                attempt.is_cut_off = last[-1].stream == CUT_STREAM
            left -= sum(len(piece.data) for piece in pieces)
            found.append(_Found(attempt, pieces, left > 0))
            if left <= 0:
                break
        return found

    def _lines(self, found: Sequence[_Found], *, is_last: bool) -> Iterator[OutputLine | None]:
        for attempt, pieces, is_all in found:
            yield from self._lines_of(attempt, pieces)
            if is_all:
                yield from self._rest_of(attempt, is_last=is_last)
            yield None

    def _lines_of(self, attempt: _Attempt, pieces: Sequence[OutputPiece]) -> Iterator[OutputLine]:
        if not pieces:
            return
        before = self._cursor_without(attempt)
        self._partial[attempt.number] = attempt
        for piece in pieces:
            for line in attempt.cutter.feed(piece):
                yield _output_line(attempt, line, before, is_cut=line.is_cut)

    def _rest_of(self, attempt: _Attempt, *, is_last: bool) -> Iterator[OutputLine]:
        """What remains when everything that there is of the attempt's log has been split into lines."""
        cutter = attempt.cutter
        before = self._cursor_without(attempt) if cutter.has_rest else ""
        if attempt.is_finished and (cutter.next_offset >= attempt.output_bytes or attempt.is_cut_off):
            for line in cutter.finish():
                yield _output_line(attempt, line, before, is_cut=line.is_cut)
            self._open.remove(attempt)
            self._closed.add(attempt.number)
            self._partial.pop(attempt.number, None)
        elif is_last:
            for line in cutter.finish():
                yield _output_line(attempt, line, before, is_cut=True)
            attempt.is_left = True

    def _cursor_without(self, attempt: _Attempt) -> str:
        """The cursor without the entry for `attempt`, which is open."""
        done = self._open[0].number
        self._closed.forget_below(done)
        positions = {
            number: other.cutter.positions for number, other in self._partial.items() if number != attempt.number
        }
        return Cursor(done=done, offset=self._offset, ranges=self._closed.pairs(), positions=positions).text()


def _output_line(attempt: _Attempt, line: Line, before: str, *, is_cut: bool) -> OutputLine:
    return OutputLine(
        job=attempt.name.job,
        step=attempt.name.step,
        attempt=attempt.name.number,
        at=format_timestamp(line.at),
        stream="stdout" if line.stream == 1 else "stderr",
        offset=line.offset,
        text=line.text,
        cut=is_cut,
        cursor=before + entry(attempt.number, line.positions),
    )
