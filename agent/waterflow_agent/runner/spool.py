"""The output of an attempt on disk: written by the runner, and read by the agent while it grows.

Format. `output` and its continuations are a format byte (1) and a sequence of records, appended and never changed:

    kind (1 byte: 1 stdout, 2 stderr, 3 missing) · 3 zero bytes · length (4) · at (8, milliseconds) · offset (8) · payload

all little endian. `offset` counts every byte that the step printed on both streams since its start, stored or not. So an offset
always means the same, and a jump in the offsets is a gap. A record of kind 3 marks a gap without a later record: its payload is
the number of missing bytes (8 bytes), counted from its offset.

Size limit. The first half of the limit is stored in `output`, the rest in segments `output.1`, `output.2`, ... of a sixteenth
of the limit each. When they exceed the other half, the oldest is removed. So a step that prints no more than the limit loses
nothing, and of a flood the first half and at least the last seven sixteenths are kept. A file also ends when it is larger than
twice its share (headers of one-byte writes), so the disk usage is bounded too. The file is created with the first byte.

On a full disk bytes are lost (counted, and visible as a gap), but the step continues: its pipes are always drained.

Writer and reader may work at the same time: the writer never touches a file again after it has started the next one, and a
reader treats an incomplete last record as the end.
"""

from __future__ import annotations

import os
import struct
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STDOUT = 1
STDERR = 2
MISSING = 3
#: The first byte of each file; a file of one byte is an empty spool.
FORMAT = b"\x01"
#: One read of a pipe at its default capacity.
PAYLOAD_BYTES_MAX = 65_536
#: Segments of the second half. With more segments the tail is closer to a full half, at the cost of one file each.
SEGMENTS = 8

_HEADER = struct.Struct("<BxxxIQQ")
_COUNT = struct.Struct("<Q")
#: Holds four full records, so a block without a complete record is the end of the file.
_BLOCK_BYTES = 4 * (PAYLOAD_BYTES_MAX + _HEADER.size)


class SpoolWriter:
    """Appends the output of a step. A full or failing disk raises nothing; the missing bytes are counted."""

    __slots__ = (
        "_end",
        "_fd",
        "_first_end",
        "_path",
        "_payload",
        "_segments",
        "_share",
        "_size",
        "_tail",
        "kept",
        "offset",
    )

    def __init__(self, path: str, bytes_max: int) -> None:
        self._path = path
        self._share = bytes_max - bytes_max // 2
        self._first_end = self._share
        self._tail = bytes_max // 2
        self._fd = -1
        self._size = 0
        self._payload = 0
        #: First offset, payload bytes and number of each segment, oldest first.
        self._segments: deque[list[int]] = deque()
        #: One past the last byte that is on disk.
        self._end = 0
        #: Bytes printed so far, and how many of them are on disk.
        self.offset = 0
        self.kept = 0

    @property
    def dropped(self) -> int:
        """Number of printed bytes that are not on disk."""
        return self.offset - self.kept

    def append(self, stream: int, payload: memoryview, at: int) -> None:
        """Append what was read from `stream` (1 or 2) at the time `at` (milliseconds)."""
        while payload:
            room = min(self._room(), PAYLOAD_BYTES_MAX)
            if room <= 0:
                self.offset += len(payload)
                return
            piece = payload[:room]
            self._make_space(len(piece))
            self._write(stream, piece, at, len(piece))
            payload = payload[room:]

    def close(self, at: int) -> None:
        """Mark missing bytes and close the file. Nothing may be appended afterwards."""
        if self._end < self.offset:
            self._mark(self._end, self.offset - self._end, at)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._segments and self._segments[0][2] > 1:
            # The first file ends where the removed segments began, so the gap is marked there.
            begin, end = self._first_end, self._segments[0][0]
            self._size = self._open(self._path)
            if self._fd >= 0 and begin < end:
                self._mark(begin, end - begin, at)
                os.close(self._fd)
                self._fd = -1

    def _room(self) -> int:
        """Return how many bytes fit into the current file, after moving to the next one if it is full."""
        room = self._share - self._payload
        if room > 0 and self._size <= 2 * self._share + PAYLOAD_BYTES_MAX:
            return room
        if self._tail <= 0:
            return 0
        if not self._segments:
            self._first_end = self.offset
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        number = self._segments[-1][2] + 1 if self._segments else 1
        self._segments.append([self.offset, 0, number])
        self._share = max(1, self._tail // SEGMENTS)
        self._size = self._payload = 0
        return self._share

    def _make_space(self, count: int) -> None:
        segments = self._segments
        while len(segments) > 1 and sum(segment[1] for segment in segments) + count > self._tail:
            _, payload, number = segments.popleft()
            self.kept -= payload
            try:
                os.unlink(f"{self._path}.{number}")
            except OSError:
                continue

    def _write(self, kind: int, payload: memoryview, at: int, advance: int) -> None:
        """Write a record that covers `advance` bytes. On failure the file is truncated to complete records."""
        size = _HEADER.size + len(payload)
        if self._fd < 0:
            self._size = self._open(f"{self._path}.{self._segments[-1][2]}" if self._segments else self._path)
        begin = self.offset
        self.offset += advance
        try:
            if self._fd < 0:
                return
            written = os.writev(self._fd, (_HEADER.pack(kind, len(payload), at, begin), payload))
            if written != size:
                os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_CUR) - written)
                return
        except OSError:
            return
        self._size += size
        self._payload += advance
        self.kept += advance
        self._end = self.offset
        if self._segments:
            self._segments[-1][1] += advance

    def _mark(self, begin: int, count: int, at: int) -> None:
        if self._fd < 0:
            self._open(f"{self._path}.{self._segments[-1][2]}" if self._segments else self._path)
        try:
            if self._fd >= 0:
                os.write(self._fd, _HEADER.pack(MISSING, _COUNT.size, at, begin) + _COUNT.pack(count))
        except OSError:
            return

    def _open(self, path: str) -> int:
        """Open `path` for appending as `_fd` (-1 on failure), and return its size."""
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if os.fstat(self._fd).st_size == 0:
                os.write(self._fd, FORMAT)
            return len(FORMAT)
        except OSError:
            self._fd = -1
            return 0


class SpoolChunk:
    """A piece of output: `data` of `stream` (1, 2) printed at `at`, or (`stream` 3) `dropped` missing bytes."""

    __slots__ = ("at", "data", "dropped", "offset", "stream")

    def __init__(self, offset: int, at: int, stream: int, data: bytes, dropped: int = 0) -> None:
        self.offset = offset
        self.at = at
        self.stream = stream
        self.data = data
        self.dropped = dropped

    @property
    def end(self) -> int:
        """The offset after this chunk."""
        return self.offset + len(self.data) + self.dropped

    def __repr__(self) -> str:
        return f"SpoolChunk({self.offset}, {self.at}, {self.stream}, {self.data!r}, dropped={self.dropped})"


class UnknownFormat(ValueError):
    """The spool was written by a later version of this package."""


class SpoolReader:
    """Reads the spool of one attempt from any offset, also while it is written. Keeps no file open between reads.

    Reading on from where the last read ended is cheap; any other offset is searched from the beginning.
    """

    def __init__(self, path: str) -> None:
        """`path` is the first file, `.../output`; it need not exist yet."""
        self._directory, self._name = os.path.split(path)
        self._part = 0
        self._position = 0
        self._offset = 0

    def read(self, from_offset: int, max_bytes: int = PAYLOAD_BYTES_MAX, *, tail: bool = True) -> list[SpoolChunk]:
        """Return output from `from_offset` on, up to `max_bytes`, in the order in which it was read from the pipes.

        Returns nothing when there is no more yet. Missing bytes are one chunk of stream 3 (`at` is that of the next record).
        With `tail=False` only the first half of the size limit is read: the rest may still be removed while the step runs, so
        sending it on at once could exceed the limit in total.
        """
        if from_offset < self._offset:
            self._part = self._position = self._offset = 0
        chunks: list[SpoolChunk] = []
        expected = from_offset
        for kind, at, begin, length, data in self._records(tail):
            if begin + length <= expected:
                continue
            if begin > expected or kind == MISSING:
                missing_end = begin + length if kind == MISSING else begin
                chunks.append(SpoolChunk(expected, at, MISSING, b"", missing_end - expected))
                expected = missing_end
            if kind == MISSING:
                continue
            piece = bytes(data[expected - begin : expected - begin + max_bytes])
            if piece:
                chunks.append(SpoolChunk(expected, at, kind, piece))
            expected += len(piece)
            max_bytes -= len(piece)
            if max_bytes <= 0:
                break
        return chunks

    def _records(self, tail: bool) -> Iterator[tuple[int, int, int, int, memoryview]]:
        """Yield records from the stored position on, and move it to each record that is yielded."""
        while True:
            # Listed before reading: if a later file exists, this one is complete, so its end is final.
            later = self._later_parts() if tail else []
            path = os.path.join(self._directory, f"{self._name}.{self._part}" if self._part else self._name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                pass
            else:
                try:
                    self._position = max(self._position, self._check_format(fd))
                    yield from self._records_of(fd)
                finally:
                    os.close(fd)
            if not later:
                return
            self._part, self._position = later[0], 0

    def _check_format(self, fd: int) -> int:
        found = os.pread(fd, len(FORMAT), 0)
        if found not in (b"", FORMAT):
            raise UnknownFormat(f"{self._directory}/{self._name}: unknown format {found!r}")
        return len(FORMAT)

    def _records_of(self, fd: int) -> Iterator[tuple[int, int, int, int, memoryview]]:
        position = self._position
        while True:
            block = memoryview(os.pread(fd, _BLOCK_BYTES, position))
            at_block = 0
            while len(block) - at_block >= _HEADER.size:
                kind, size, at, offset = _HEADER.unpack_from(block, at_block)
                payload = block[at_block + _HEADER.size : at_block + _HEADER.size + size]
                if len(payload) < size:
                    break
                length = _COUNT.unpack(payload)[0] if kind == MISSING else size
                self._position, self._offset = position + at_block, offset
                yield kind, at, offset, length, payload
                at_block += _HEADER.size + size
            if at_block == 0:
                return
            position += at_block

    def _later_parts(self) -> list[int]:
        prefix = self._name + "."
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        numbers = (
            int(name[len(prefix) :]) for name in names if name.startswith(prefix) and name[len(prefix) :].isdigit()
        )
        return sorted(number for number in numbers if number > self._part)
