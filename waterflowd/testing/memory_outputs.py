"""The output logs' in-memory twin: `ports.OutputLogs` without a disk, held to the same contract suite as the real ones."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Sequence
from typing import Any

from waterflow_agent.errors import WaterflowError
from waterflowd.model.ids import AttemptId
from waterflowd.model.records import OutputAppend, OutputPiece

#: What the fields of a stored piece hold; the same as in the store.
AT_MAX, STREAM_MAX = (1 << 63) - 1, 255


class _Settled(Awaitable[list[int]]):
    """An awaitable whose result is there already; needs no loop."""

    def __init__(self, sizes: list[int], error: WaterflowError | None = None) -> None:
        self._sizes = sizes
        self._error = error

    def __await__(self) -> Generator[Any, None, list[int]]:
        if self._error is not None:
            raise self._error
        return self._sizes
        yield


class MemoryOutputLogs:
    """Output logs in memory, durable at once."""

    def __init__(self) -> None:
        self._logs: dict[AttemptId, list[OutputPiece]] = {}
        self._faults: list[WaterflowError] = []

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """Adds what continues each log and gives the new sizes."""
        if self._faults:
            return _Settled([], self._faults.pop(0))
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
        return _Settled(sizes)

    def fail_next(self, *errors: WaterflowError) -> None:
        """The next appends fail with these errors, one each."""
        self._faults += errors

    def size(self, name: AttemptId) -> int:
        """Size of a log in bytes."""
        log = self._logs.get(name)
        return log[-1].offset + len(log[-1].data) if log else 0

    def read(self, name: AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
        """Pieces from the one that holds `offset` on, about `bytes_max` in all and at least one if there is any."""
        found: list[OutputPiece] = []
        for piece in self._logs.get(name, ()):
            if piece.offset + len(piece.data) > max(offset, 0) and (bytes_max > 0 or not found):
                found.append(piece)
                bytes_max -= len(piece.data)
        return found
