"""Splits the output of steps into lines, and defines the cursor that marks how much a client has received.

Rules of this file: pure. An output log is one sequence of bytes in which pieces of two streams (1 and 2) alternate. A line
belongs to one stream, and pieces of the other stream may be between its parts. So the position in a log is two offsets, one
per stream: everything of that stream before it has been returned, nothing after it. The offsets are equal as long as no line
is incomplete, which is nearly always.

A line longer than `LINE_BYTES_MAX` is returned in parts, split between characters, with `is_cut` on all except the last. Bytes
that are not UTF-8 become U+FFFD only when a whole line or part is complete, so that characters may span two pieces.

The cursor numbers attempts in the order of their dispatch, which the log fixes: `c12;14-17;12=400;18=22.30` means that the
first 12 and the numbers 14 to 17 (from 0) are complete; of number 12, 400 bytes have been returned; of number 18, 22 bytes of
stream 1 and 30 bytes of stream 2; of all others, nothing. `c12+500` means that the first 500 bytes of each attempt were not
requested.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.model.records import OutputPiece

#: Also the largest chunk on the wire; no reasonable line is longer.
LINE_BYTES_MAX = 64 << 10
#: No run has more active attempts at once.
_CURSOR_ENTRIES_MAX = 1_000
_CURSOR = re.compile(r"c(\d{1,9})(?:\+(\d{1,16}))?((?:;\d{1,9}-\d{1,9}|;\d{1,9}=\d{1,16}(?:\.\d{1,16})?)*)", re.ASCII)
_NEWLINE = 10


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line, or a part of a long one. `positions` are the offsets per stream after it."""

    offset: int
    at: int
    stream: int
    text: str
    is_cut: bool
    positions: tuple[int, int]


class _Stream:
    """The content of one stream that has not been returned yet."""

    __slots__ = ("begin", "buffer", "marks", "position", "scanned")

    def __init__(self, position: int) -> None:
        #: Log offset before which everything of this stream has been returned.
        self.position = position
        self.buffer = bytearray()
        #: Bytes of this stream that were returned before `buffer[0]`.
        self.begin = 0
        #: (bytes of this stream before it, log offset, time) of each piece that is partly in `buffer`.
        self.marks: deque[tuple[int, int, int]] = deque()
        #: `buffer[:scanned]` contains no newline.
        self.scanned = 0


class LineCutter:
    """Splits the output of one attempt. Pieces come in the order of the log, from `next_offset` or before it."""

    def __init__(self, positions: tuple[int, int] = (0, 0)) -> None:
        self._streams = (_Stream(positions[0]), _Stream(positions[1]))
        #: Log offset of the first unread byte.
        self.next_offset = min(positions)

    @property
    def positions(self) -> tuple[int, int]:
        """The offsets before which everything has been returned, per stream."""
        first, second = self._streams
        return self._position(first, self.next_offset), self._position(second, self.next_offset)

    @property
    def has_rest(self) -> bool:
        """Whether an incomplete line is waiting for its end."""
        return any(stream.buffer for stream in self._streams)

    @staticmethod
    def _position(stream: _Stream, read: int) -> int:
        return stream.position if stream.buffer else max(stream.position, read)

    def feed(self, piece: OutputPiece) -> Iterator[Line]:
        """Adds one piece and returns the lines that it completes; must be consumed to its end."""
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
        """Returns the rest, which has no newline at its end, because no more output is expected."""
        rest = [number for number in (0, 1) if self._streams[number].buffer]
        rest.sort(key=lambda number: self._offset(self._streams[number]))
        for number in rest:
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
        """Returns `buffer[start:end]` as a line; the caller removes it from the buffer."""
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
    """The last index up to `end` that is not inside a character."""
    for back in range(4):
        if end - back <= start:
            break
        if buffer[end - back] & 0xC0 != 0x80:
            return end - back
    return end


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the output of a run a client has received."""

    #: Attempts before this number, in the order of dispatch, are complete.
    done: int = 0
    #: Where incomplete attempts without a position begin.
    offset: int = 0
    #: Further complete attempts: first and last number, inclusive, ascending.
    ranges: tuple[tuple[int, int], ...] = ()
    #: Offsets per stream of incomplete attempts, by number.
    positions: Mapping[int, tuple[int, int]] = {}

    def text(self) -> str:
        """The cursor as text."""
        ranges = "".join(f";{first}-{last}" for first, last in self.ranges)
        offset = f"+{self.offset}" if self.offset else ""
        return f"c{self.done}{offset}{ranges}" + "".join(entry(number, both) for number, both in self.positions.items())

    def is_done(self, number: int) -> bool:
        """Whether attempt `number` is complete."""
        if number < self.done:
            return True
        before = bisect_right(self.ranges, number, key=_first)
        return before > 0 and number <= self.ranges[before - 1][1]


def _first(numbers: tuple[int, int]) -> int:
    return numbers[0]


def entry(number: int, positions: tuple[int, int]) -> str:
    """The entry for an incomplete attempt; may be appended to the text of a cursor."""
    first, second = positions
    return f";{number}={first}" if first == second else f";{number}={first}.{second}"


class NumberRanges:
    """A set of numbers, as ascending ranges. Adding one costs little when most of its neighbours are in the set."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, number: int) -> None:
        """Adds a number."""
        firsts, lasts = self._firsts, self._lasts
        index = bisect_right(firsts, number)
        if index and number <= lasts[index - 1]:
            return
        continues = index > 0 and lasts[index - 1] == number - 1
        if index < len(firsts) and firsts[index] == number + 1:
            if continues:
                del firsts[index], lasts[index - 1]
            else:
                firsts[index] = number
        elif continues:
            lasts[index - 1] = number
        else:
            firsts.insert(index, number)
            lasts.insert(index, number)

    def forget_below(self, number: int) -> None:
        """Removes ranges that end before this number."""
        count = bisect_left(self._lasts, number)
        del self._firsts[:count], self._lasts[:count]

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """First and last number of each range, inclusive."""
        return tuple(zip(self._firsts, self._lasts, strict=True))


def parse_cursor(text: str) -> Cursor:
    """The cursor in a text; `Rejected` 400 for anything else."""
    matched = _CURSOR.fullmatch(text) if len(text) <= 40 * _CURSOR_ENTRIES_MAX else None
    if matched is None:
        raise Rejected("WF605", "invalid cursor; omit it to start at the beginning", where="from")
    positions: dict[int, tuple[int, int]] = {}
    ranges: list[tuple[int, int]] = []
    for part in matched[3].split(";")[1:]:
        number, equals, offsets = part.partition("=")
        if equals:
            first, _, second = offsets.partition(".")
            positions[int(number)] = (int(first), int(second or first))
        else:
            lowest, _, highest = part.partition("-")
            ranges.append((int(lowest), int(highest)))
    return Cursor(done=int(matched[1]), offset=int(matched[2] or 0), ranges=tuple(sorted(ranges)), positions=positions)
