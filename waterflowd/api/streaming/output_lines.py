"""Bytes that a step printed, cut into lines; and the cursor that says which lines somebody has.

Rules of this file: pure. An output log is one sequence of bytes, in which pieces of two streams (1 and 2) take turns; a line
belongs to one stream and may be spread over pieces with the other's between them. So what has been given out of a log is
two offsets, one per stream: everything of that stream below it is out, nothing above it. They stay equal as long as no line
is half done, which is nearly always.

A line longer than `LINE_BYTES_MAX` is given out in parts, cut between characters, with `is_cut` on all but the last. Bytes
that are not UTF-8 become U+FFFD only when a whole line or part is there, so a character that is spread over two pieces is safe.

The cursor counts attempts in the order of their dispatch, which the log fixes: `c12;14-17;12=400;18=22.30` means that the
first 12 and the numbers 14 to 17 (from 0) are done, of number 12 400 bytes, of number 18 22 bytes of stream 1 and 30 of
stream 2, of all others nothing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.model.records import OutputPiece

#: The largest chunk on the wire, too: a longer line is nobody's line.
LINE_BYTES_MAX = 64 << 10
#: More attempts than this are not at work at once in one run.
_CURSOR_ENTRIES_MAX = 1_000
_CURSOR = re.compile(r"c(\d{1,9})((?:;\d{1,9}-\d{1,9}|;\d{1,9}=\d{1,16}(?:\.\d{1,16})?)*)", re.ASCII)
_NEWLINE = 10


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line, or a part of a long one. `positions` is what is given out of the log once this line is."""

    offset: int
    at: int
    stream: int
    text: str
    is_cut: bool
    positions: tuple[int, int]


class _Stream:
    """What came on one stream and is not given out yet."""

    __slots__ = ("begin", "buffer", "marks", "position", "scanned")

    def __init__(self, position: int) -> None:
        #: Log offset below which everything of this stream is given out.
        self.position = position
        self.buffer = bytearray()
        #: Bytes given out before `buffer[0]`, counted in this stream.
        self.begin = 0
        #: (count in this stream, log offset, time) of each piece that `buffer` holds bytes of.
        self.marks: deque[tuple[int, int, int]] = deque()
        #: `buffer[:scanned]` holds no newline.
        self.scanned = 0


class LineCutter:
    """Cuts one attempt's output; pieces come in the order of the log, from `next_offset` on or before it."""

    def __init__(self, positions: tuple[int, int] = (0, 0)) -> None:
        self._streams = (_Stream(positions[0]), _Stream(positions[1]))
        #: Log offset of the first byte that has not been read.
        self.next_offset = min(positions)

    @property
    def positions(self) -> tuple[int, int]:
        """What is given out, per stream."""
        first, second = self._streams
        return self._position(first, self.next_offset), self._position(second, self.next_offset)

    @staticmethod
    def _position(stream: _Stream, read: int) -> int:
        return stream.position if stream.buffer else max(stream.position, read)

    def feed(self, piece: OutputPiece) -> Iterator[Line]:
        """Takes one piece and gives the lines that it completes; must be consumed to its end."""
        number = 0 if piece.stream == 1 else 1
        stream = self._streams[number]
        end = piece.offset + len(piece.data)
        skipped = max(self.next_offset, stream.position if not stream.buffer else 0) - piece.offset
        data = piece.data[max(skipped, 0) :]
        if not data:
            self.next_offset = max(self.next_offset, end)
            return
        stream.marks.append((stream.begin + len(stream.buffer), end - len(data), piece.at))
        stream.buffer += data
        yield from self._cut(number)
        self.next_offset = end

    def finish(self) -> Iterator[Line]:
        """Gives what is left without a newline at its end: the log has no more, or nobody wants to wait."""
        held = [number for number in (0, 1) if self._streams[number].buffer]
        held.sort(key=lambda number: self._offset(self._streams[number]))
        for number in held:
            stream = self._streams[number]
            size = len(stream.buffer)
            yield self._take(number, 0, size, is_cut=False)
            stream.buffer.clear()
            stream.begin += size
            stream.scanned = 0

    def _cut(self, number: int) -> Iterator[Line]:
        stream = self._streams[number]
        buffer = stream.buffer
        start = 0
        while True:
            newline = buffer.find(b"\n", max(start, stream.scanned), start + LINE_BYTES_MAX + 1)
            if newline >= 0:
                yield self._take(number, start, newline + 1, is_cut=False)
                start = newline + 1
                continue
            if len(buffer) - start <= LINE_BYTES_MAX:
                break
            end = _character_end(buffer, start, start + LINE_BYTES_MAX)
            yield self._take(number, start, end, is_cut=True)
            start = end
        del buffer[:start]
        stream.begin += start
        stream.scanned = len(buffer)

    @staticmethod
    def _offset(stream: _Stream) -> int:
        marks = stream.marks
        while len(marks) > 1 and marks[1][0] <= stream.begin:
            marks.popleft()
        count, offset, _ = marks[0]
        return offset + stream.begin - count

    def _take(self, number: int, start: int, end: int, *, is_cut: bool) -> Line:
        """Gives `buffer[start:end]` out; the caller removes it from the buffer."""
        stream = self._streams[number]
        other = self._streams[1 - number]
        marks = stream.marks
        first, last = stream.begin + start, stream.begin + end
        while len(marks) > 1 and marks[1][0] <= first:
            marks.popleft()
        count, offset, at = marks[0]
        offset += first - count
        while len(marks) > 1 and marks[1][0] < last:
            marks.popleft()
        stream.position = marks[0][1] + last - marks[0][0]
        other_position = self._position(other, max(self.next_offset, stream.position))
        positions = (stream.position, other_position) if number == 0 else (other_position, stream.position)
        content = bytes(stream.buffer[start:end])
        if not is_cut and content[-1] == _NEWLINE:
            content = content[:-1].removesuffix(b"\r")
        text = content.decode("utf-8", "replace")
        return Line(offset=offset, at=at, stream=number + 1, text=text, is_cut=is_cut, positions=positions)


def _character_end(buffer: bytearray, start: int, end: int) -> int:
    """The last place at or before `end` that is not inside a character."""
    for back in range(4):
        if end - back <= start:
            break
        if buffer[end - back] & 0xC0 != 0x80:
            return end - back
    return end


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody has of a run's output."""

    #: Attempts before this number, in the order of dispatch, are given out whole.
    done: int = 0
    #: Further numbers that are given out whole: first and last, both included.
    ranges: tuple[tuple[int, int], ...] = ()
    #: Number of an attempt and what is given out of it, per stream.
    positions: Mapping[int, tuple[int, int]] = {}

    def text(self) -> str:
        """The cursor as it travels."""
        ranges = "".join(f";{first}-{last}" for first, last in self.ranges)
        return f"c{self.done}{ranges}" + "".join(entry(number, both) for number, both in self.positions.items())

    def is_done(self, number: int) -> bool:
        """Whether attempt `number` is given out whole."""
        return number < self.done or any(first <= number <= last for first, last in self.ranges)


def entry(number: int, positions: tuple[int, int]) -> str:
    """What stands in a cursor for one attempt that is given out in part; may be added to a cursor's text."""
    first, second = positions
    return f";{number}={first}" if first == second else f";{number}={first}.{second}"


def ranges_of(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as ranges."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return tuple(ranges)


def parse_cursor(text: str) -> Cursor:
    """Reads a cursor; `Rejected` 400 for anything else."""
    matched = _CURSOR.fullmatch(text) if len(text) <= 40 * _CURSOR_ENTRIES_MAX else None
    if matched is None:
        raise Rejected("WF605", "this is no cursor of an output log; leave it out to begin at the start", where="from")
    positions: dict[int, tuple[int, int]] = {}
    ranges: list[tuple[int, int]] = []
    for part in matched[2].split(";")[1:]:
        number, equals, place = part.partition("=")
        if equals:
            first, _, second = place.partition(".")
            positions[int(number)] = (int(first), int(second or first))
        else:
            lowest, _, highest = part.partition("-")
            ranges.append((int(lowest), int(highest)))
    return Cursor(done=int(matched[1]), ranges=tuple(ranges), positions=positions)
