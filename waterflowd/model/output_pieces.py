"""How pieces of output continue an output log, and where its lines are; the same rules for every store of them.

A line is ended by a newline byte, of whichever stream: line n by the n-th newline byte of the log. So its number never changes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from waterflowd.model.records import OutputPiece

#: The ranges of a stored piece's fields.
AT_MAX, STREAM_MAX = (1 << 63) - 1, 255
#: The piece that replaces output that was left out (`waterflow_agent.display.missing_line`); longer ones are not.
_LEFT_OUT = re.compile(rb"\n\[waterflow: (\d{1,18}) bytes of output were dropped here(?:: [^\n]*)?\]\n")
_LEFT_OUT_LENGTH_MAX = 300


class LineMark(NamedTuple):
    """An offset of an output log, and how many newline bytes are before it."""

    offset: int
    lines: int
    #: The piece at this offset says that so many bytes were left out there; 0 for any other.
    left_out_bytes: int = 0

    @property
    def left_out_line(self) -> int:
        """The number of the line that says so; the piece begins with the newline that ends the line before it."""
        return self.lines + 2


def line_marks_of(pieces: Sequence[OutputPiece]) -> list[LineMark]:
    """The mark of the first of consecutive pieces, those of pieces that say what was left out, and of their end."""
    if not pieces:
        return [LineMark(0, 0)]
    marks = [LineMark(pieces[0].offset, 0)]
    lines = 0
    for piece in pieces:
        left_out = left_out_bytes(piece.stream, piece.data)
        if left_out:
            marks.append(LineMark(piece.offset, lines, left_out))
        lines += piece.data.count(b"\n")
    marks.append(LineMark(pieces[-1].offset + len(pieces[-1].data), lines))
    return marks


def left_out_bytes(stream: int, printed: bytes) -> int:
    """How much output was left out where this piece is, as it says itself; 0 for any other piece."""
    if stream == 1 or len(printed) > _LEFT_OUT_LENGTH_MAX:
        return 0
    found = _LEFT_OUT.fullmatch(printed)
    return int(found[1]) if found is not None else 0


def new_pieces(pieces: Sequence[OutputPiece], size: int) -> list[OutputPiece]:
    """The part of `pieces` that continues a log of `size` bytes; a piece that begins before the end is shortened.

    Time and stream come from an agent and are clamped to the range of their fields, so that no agent can make a write fail.
    """
    fresh: list[OutputPiece] = []
    for piece in pieces:
        end = piece.offset + len(piece.data)
        if piece.offset > size:
            break
        if end <= size:
            continue
        at = min(max(piece.at, 0), AT_MAX)
        stream = min(max(piece.stream, 0), STREAM_MAX)
        if (piece.offset, piece.at, piece.stream) != (size, at, stream):
            piece = OutputPiece(offset=size, at=at, stream=stream, data=piece.data[size - piece.offset :])
        fresh.append(piece)
        size = end
    return fresh
