"""Output by line: consecutive pieces of an output log as blocks of lines.

Rules of this file:

- Pure. Lines are those of the whole log, whichever stream they are of: line n is ended by the n-th newline byte, so its number
  never changes. A line has the stream and the time of its first byte.
- A block is a range of bytes of the log, so blocks that follow one another have no seam: one may begin inside of a line that
  the block before it began. Its text ends with a whole character.
- A line is shown with its first `LINE_BYTES_MAX` bytes. The bytes after them are between two blocks: the next block begins
  with the newline that ends the line.
- Bytes that are not UTF-8 become U+FFFD, so the size of a block says where it ends, and not the length of its text.
"""

from __future__ import annotations

import msgspec

from waterflowd.api.streaming.output_lines import LINE_BYTES_MAX
from waterflowd.model.records import OutputPiece

#: Text of a block; a multiple of it is the text of an answer. Small enough to be made without holding the event loop.
BLOCK_BYTES = 64 << 10


class OutputBlock(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Lines of an output log.

    `text` is the `bytes` bytes of the log from `offset` on, which is in the line `line`. `at` lists the lines whose times
    differ from that of the line before, with the time in ms since 1970; `stderr` lists lines of the standard error, each with
    how many of them follow one another.
    """

    line: int
    offset: int
    bytes: int
    text: str
    at: list[tuple[int, int]]
    stderr: list[tuple[int, int]]


class BlockBuilder:
    """Makes blocks of the pieces from an offset on, which is the beginning of a line."""

    def __init__(self, line: int, offset: int) -> None:
        #: The next byte, and the line that it is in.
        self.offset = offset
        self.line = line
        #: Bytes of that line before it.
        self.line_bytes = 0
        #: Bytes of the log that are in blocks.
        self.taken_bytes = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._first = (line, offset)
        self._at: list[tuple[int, int]] = []
        self._stderr: list[tuple[int, int]] = []
        self._last_at: int | None = None
        self._blocks: list[OutputBlock] = []

    @property
    def is_over_long(self) -> bool:
        """Whether the bytes up to the next newline are left out."""
        return self.line_bytes >= LINE_BYTES_MAX

    def skip_to(self, offset: int) -> None:
        """Goes on at a later byte of the line, which is longer than what is shown of a line."""
        self._keep_whole_characters()
        self._flush()
        self.line_bytes += offset - self.offset
        self.offset = offset

    def feed(self, piece: OutputPiece, line_end: int, bytes_max: int) -> bool:
        """Takes what follows in the piece, up to the line `line_end`; returns whether it would take more.

        Once there are `bytes_max` bytes in blocks, it ends with the line that it is in.
        """
        begin = self.offset - piece.offset
        data = piece.data
        while begin < len(data) and self.line < line_end:
            if self.taken_bytes >= bytes_max:
                if self.line_bytes == 0:
                    return False
                line_end = min(line_end, self.line + 1)
            begin = self._take(data, begin, line_end, piece)
            if self._size >= BLOCK_BYTES and self.line_bytes == 0:
                self._flush()
        return self.line < line_end

    def take(self, *, is_end: bool = True) -> list[OutputBlock]:
        """The blocks. A character of which only a part is there waits for the rest, unless this is the end of the log."""
        if not is_end:
            self._keep_whole_characters()
        self._flush()
        blocks, self._blocks = self._blocks, []
        return blocks

    def _take(self, data: bytes, begin: int, line_end: int, piece: OutputPiece) -> int:
        """Takes some of the piece's bytes, and returns the index of the next one."""
        if self.is_over_long:
            newline = data.find(b"\n", begin)
            end = len(data) if newline < 0 else newline
            if end > begin:
                self.skip_to(piece.offset + end)
                return end
            self._add(b"\n", 1, piece)
            return begin + 1
        end = min(len(data), begin + min(LINE_BYTES_MAX - self.line_bytes, BLOCK_BYTES))
        part = data[begin:end]
        lines = part.count(b"\n")
        if lines >= line_end - self.line:
            lines = line_end - self.line
            part = b"\n".join(part.split(b"\n", lines)[:lines]) + b"\n"
        self._add(part, lines, piece)
        return begin + len(part)

    def _add(self, part: bytes, lines: int, piece: OutputPiece) -> None:
        if not self._parts:
            self._first = (self.line, self.offset)
        first = self.line if self.line_bytes == 0 else self.line + 1
        after_newline = part.rfind(b"\n") + 1
        last = self.line + lines - (after_newline == len(part))
        if first <= last:
            if piece.at != self._last_at:
                self._at.append((first, piece.at))
                self._last_at = piece.at
            if piece.stream != 1:
                self._add_stderr(first, last - first + 1)
        self._parts.append(part)
        self._size += len(part)
        self.taken_bytes += len(part)
        self.offset += len(part)
        self.line += lines
        self.line_bytes = len(part) - after_newline + (0 if lines else self.line_bytes)

    def _add_stderr(self, first: int, count: int) -> None:
        if self._stderr and sum(self._stderr[-1]) == first:
            first, before = self._stderr.pop()
            count += before
        self._stderr.append((first, count))

    def _keep_whole_characters(self) -> None:
        """Gives back the bytes of a character that has just begun; they are fed again."""
        text = b"".join(self._parts)
        rest = _begun_bytes(text)
        if rest:
            self._parts = [text[:-rest]] if rest < len(text) else []
            self._size -= rest
            self.taken_bytes -= rest
            self.offset -= rest
            self.line_bytes -= rest

    def _flush(self) -> None:
        if self._parts:
            line, offset = self._first
            text = b"".join(self._parts).decode("utf-8", "replace")
            block = OutputBlock(line=line, offset=offset, bytes=self._size, text=text, at=self._at, stderr=self._stderr)
            self._blocks.append(block)
        self._parts, self._size = [], 0
        self._at, self._stderr, self._last_at = [], [], None


def _begun_bytes(text: bytes) -> int:
    """How many bytes at the end are the beginning of a character of UTF-8."""
    for count in range(1, min(3, len(text)) + 1):
        byte = text[-count]
        if byte >= 0xC0:
            return count if count < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else 0
        if byte < 0x80:
            return 0
    return 0
