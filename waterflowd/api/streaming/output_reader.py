"""A run's whole output as one sequence of lines that can be left and taken up again at any line.

Rules of this file: synchronous, over the ports `Log` and `OutputLogs`; it reads a bounded piece at a time and never waits.
The attempts are taken in the order of their `attempt-dispatched` events. While a run goes on, several attempts print at once:
each `read_some` gives what is new of each of them in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from waterflowd.api.run_lookup import is_within
from waterflowd.api.streaming.output_lines import Cursor, Line, LineCutter, entry, ranges_of
from waterflowd.api.views.rendering import time_text
from waterflowd.engine import events
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import AttemptName
from waterflowd.ports import Log, OutputLogs

#: Read from one attempt before the next one's turn comes: a few milliseconds of work.
_READ_BYTES = 256 << 10
_RECORDS = 1_000


class _Attempt:
    """One attempt's output and how much of it is given out."""

    __slots__ = ("cutter", "is_finished", "is_left", "name", "number", "output_bytes")

    def __init__(self, number: int, name: AttemptName, positions: tuple[int, int]) -> None:
        self.number = number
        self.name = name
        self.cutter = LineCutter(positions)
        self.is_finished = False
        #: Not read any more although more may come; whoever resumes begins here.
        self.is_left = False
        #: Size of the whole log once the attempt is finished.
        self.output_bytes = 0


class RunOutput:
    """Reads a run's output from a cursor, or from byte `offset` of every log, on."""

    def __init__(
        self,
        log: Log,
        outputs: OutputLogs,
        run: RunId,
        *,
        job: str | None = None,
        step: str | None = None,
        start: Cursor | int = 0,
    ) -> None:
        self._log = log
        self._outputs = outputs
        self._run = run
        self._job = job
        self._step = step
        self._cursor = start if isinstance(start, Cursor) else Cursor()
        self._offset = start if isinstance(start, int) else 0
        self._position = 0
        self._by_name: dict[tuple[str, str, int], _Attempt | None] = {}
        #: Selected attempts that may have more to give, in order.
        self._open: list[_Attempt] = []
        #: Numbers of selected attempts that are given out whole, those before the first open one left out.
        self._closed: list[int] = []
        self.is_completed = False

    def learn(self) -> None:
        """Takes in the run's new events."""
        stream = run_stream(self._run)
        while True:
            records = self._log.read(stream, self._position + 1, _RECORDS)
            for record in records:
                self._position = record.position
                self._learn(record.event)
            if len(records) < _RECORDS:
                return

    def _learn(self, event: Any) -> None:
        match event:
            case events.AttemptDispatched():
                key = (event.job, event.step, event.attempt)
                if key not in self._by_name:
                    self._add(key)
            case events.AttemptFinished():
                found = self._by_name.get((event.job, event.step, event.attempt))
                if found is not None:
                    found.is_finished = True
                    found.output_bytes = event.output_bytes
            case events.RunCompleted():
                self.is_completed = True
            case _:
                pass

    def _add(self, key: tuple[str, str, int]) -> None:
        job, step, attempt = key
        number = len(self._by_name)
        self._by_name[key] = None
        is_wanted = (self._job is None or is_within(job, self._job)) and (
            self._step is None or is_within(step, self._step)
        )
        if not is_wanted:
            return
        if self._cursor.is_done(number):
            self._closed.append(number)
            return
        name = AttemptName(run=self._run, job=job, step=step, attempt=attempt)
        added = _Attempt(number, name, self._cursor.positions.get(number, (self._offset, self._offset)))
        self._by_name[key] = added
        self._open.append(added)

    @property
    def is_drained(self) -> bool:
        """True when every byte that finished attempts have announced is given out, and no other is waited for."""
        return all(attempt.is_left for attempt in self._open)

    @property
    def is_owed(self) -> bool:
        """True while a finished attempt has announced output that is not there yet."""
        return any(attempt.is_finished and not attempt.is_left for attempt in self._open)

    def read_some(self, *, is_last: bool) -> Iterator[dict[str, Any]]:
        """Gives new lines, a bounded number; nothing when there is nothing new. Must be consumed to its end.

        A finished attempt is given out whole before the next one's turn comes; those at work take turns. With `is_last`
        nobody waits for more: a line without its end is given out as it is.
        """
        for attempt in list(self._open):
            if attempt.is_left:
                continue
            yield from self._read(attempt, is_last=is_last)
            if attempt.is_finished and attempt.cutter.next_offset < self._outputs.size(attempt.name):
                return

    def _read(self, attempt: _Attempt, *, is_last: bool) -> Iterator[dict[str, Any]]:
        cutter = attempt.cutter
        size = self._outputs.size(attempt.name)
        before = self._cursor_without(attempt) if cutter.next_offset < size or attempt.is_finished or is_last else ""
        if cutter.next_offset < size:
            for piece in self._outputs.read(attempt.name, cutter.next_offset, _READ_BYTES):
                for line in cutter.feed(piece):
                    yield _row(attempt, line, before)
        if cutter.next_offset < size:
            return
        if attempt.is_finished and size >= attempt.output_bytes:
            for line in cutter.finish():
                yield _row(attempt, line, before)
            self._open.remove(attempt)
            self._closed.append(attempt.number)
        elif is_last:
            for line in cutter.finish():
                yield {**_row(attempt, line, before), "cut": True}
            attempt.is_left = True

    def _cursor_without(self, attempt: _Attempt) -> str:
        """The cursor but for what stands in it for `attempt`, which is open."""
        done = self._open[0].number
        self._closed = sorted(number for number in self._closed if number > done)
        positions = {
            other.number: other.cutter.positions
            for other in self._open
            if other is not attempt and other.cutter.positions != (0, 0)
        }
        return Cursor(done=done, ranges=ranges_of(self._closed), positions=positions).text()


def _row(attempt: _Attempt, line: Line, before: str) -> dict[str, Any]:
    return {
        "job": attempt.name.job,
        "step": attempt.name.step,
        "attempt": attempt.name.attempt,
        "at": time_text(line.at),
        "stream": "stdout" if line.stream == 1 else "stderr",
        "offset": line.offset,
        "text": line.text,
        "cut": line.is_cut,
        "cursor": before + entry(attempt.number, line.positions),
    }
