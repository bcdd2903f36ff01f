"""In-memory `ports.LocalOutputLogs`, which pass the same contract tests as the real output logs."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from waterflow_agent.errors import WaterflowError
from waterflowd.model.ids import AttemptId, RunId
from waterflowd.model.output_pieces import LineMark, line_marks_of
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.testing.awaiting import Immediate

#: The ranges of a stored piece's fields, as in the store.
AT_MAX, STREAM_MAX = (1 << 63) - 1, 255


class MemoryOutputLogs:
    """Output logs in memory."""

    def __init__(self) -> None:
        self._logs: dict[AttemptId, list[OutputPiece]] = {}
        self._faults: list[WaterflowError] = []

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """Appends what continues each log; returns the new sizes."""
        if self._faults:
            return Immediate([], self._faults.pop(0))
        sizes = []
        for append in pieces:
            size = self.size(append.attempt)
            for piece in append.pieces:
                if piece.offset > size:
                    break
                end = piece.offset + len(piece.data)
                if end > size:
                    fresh = OutputPiece(
                        offset=size,
                        at=min(max(piece.at, 0), AT_MAX),
                        stream=min(max(piece.stream, 0), STREAM_MAX),
                        data=piece.data[size - piece.offset :],
                    )
                    self._logs.setdefault(append.attempt, []).append(fresh)
                    size = end
            sizes.append(size)
        return Immediate(sizes)

    def fail_next(self, *errors: WaterflowError) -> None:
        """The next appends fail with these errors, one each."""
        self._faults += errors

    def stored_bytes(self) -> int:
        """Bytes of all output."""
        return sum(map(self.size, self._logs))

    def run_bytes(self, run: RunId) -> int:
        """Bytes of one run's output."""
        return sum(self.size(name) for name in self._logs if name.run == run)

    def has_files(self, run: RunId) -> bool:
        """Whether the run has output."""
        return any(name.run == run for name in self._logs)

    def runs_with_files(self) -> list[RunId]:
        """Runs with output."""
        return sorted({name.run for name in self._logs})

    def forget(self, run: RunId) -> None:
        """Nothing is cached."""

    def remove_files(self, run: RunId) -> bool:
        """Removes all output of the run."""
        for name in [name for name in self._logs if name.run == run]:
            del self._logs[name]
        return True

    def size(self, name: AttemptId) -> int:
        """Size of a log in bytes."""
        log = self._logs.get(name)
        return log[-1].offset + len(log[-1].data) if log else 0

    def read(self, name: AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
        """Pieces from the one that contains `offset`, about `bytes_max` in total; at least one if there are any."""
        found: list[OutputPiece] = []
        for piece in self._logs.get(name, ()):
            if piece.offset + len(piece.data) > max(offset, 0) and (bytes_max > 0 or not found):
                found.append(piece)
                bytes_max -= len(piece.data)
        return found

    def line_marks(self, name: AttemptId) -> list[LineMark]:
        """See `ports.LocalOutputLogs`. There is a mark for every piece."""
        marks = [LineMark(0, 0)]
        for piece in self._logs.get(name, ()):
            lines = marks.pop().lines
            marks += [mark._replace(lines=lines + mark.lines) for mark in line_marks_of([piece])]
        return marks
