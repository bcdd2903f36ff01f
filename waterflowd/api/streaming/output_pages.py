"""Reads output by line: any line of a log of any size, the end of a log, and what is new in it.

Rules of this file: the marks of the log (`ports.OutputLogs.line_marks`) say near which offset a line begins, so only what is
near it is read. An answer has at most `TEXT_BYTES_MAX` of text, and the rest of its last line. The log is read in a thread,
because what a step printed slowly has thousands of small pieces, and everything else on the loop continues between some pieces.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence

from waterflowd.api.streaming.output_blocks import BlockBuilder, OutputBlock
from waterflowd.model.ids import AttemptId
from waterflowd.model.output_pieces import LineMark
from waterflowd.model.records import OutputPiece
from waterflowd.ports import OutputLogs

TEXT_BYTES_MAX = 1 << 20
#: More than the log engine reads on the event loop, and than lies between two line marks of a file.
READ_BYTES = 320 << 10
#: Pieces that are taken before the event loop continues: half a millisecond.
_PIECES = 256


async def count_lines(outputs: OutputLogs, name: AttemptId, marks: Sequence[LineMark]) -> int:
    """The lines of a log, with one that has no newline at its end."""
    end = marks[-1]
    last = await outputs.read(name, end.offset - 1, 1) if end.offset else []
    is_ended = not last or last[0].data[end.offset - 1 - last[0].offset : end.offset - last[0].offset] == b"\n"
    return end.lines + (not is_ended)


async def find_line(outputs: OutputLogs, name: AttemptId, marks: Sequence[LineMark], line: int) -> BlockBuilder:
    """A builder at the beginning of a line; for a line behind the end, at its beginning once it is there."""
    wanted = min(line - 1, marks[-1].lines)
    if wanted <= 0:
        return BlockBuilder(1, 0)
    # The last mark with fewer newlines before it: the newline that ends the line before is behind it.
    mark = marks[max(0, bisect_left(marks, wanted, key=_lines_of) - 1)]
    offset, left = mark.offset, wanted - mark.lines
    while True:
        pieces = await outputs.read(name, offset, READ_BYTES)
        if not pieces:
            return BlockBuilder(wanted - left + 1, offset)
        async for piece in in_turns(pieces):
            data = piece.data[max(0, offset - piece.offset) :]
            count = data.count(b"\n")
            if count >= left:
                return BlockBuilder(wanted + 1, offset + sum(map(len, data.split(b"\n", left)[:left])) + left)
            left -= count
            offset += len(data)
        await asyncio.sleep(0)


async def read_lines(
    outputs: OutputLogs, name: AttemptId, marks: Sequence[LineMark], line: int, count: int
) -> list[OutputBlock]:
    """Up to `count` lines from a line on, up to the end that the marks know."""
    builder = await find_line(outputs, name, marks, line)
    await extend(outputs, name, marks, builder, line_end=line + count)
    return builder.take()


async def extend(
    outputs: OutputLogs, name: AttemptId, marks: Sequence[LineMark], builder: BlockBuilder, *, line_end: int
) -> bool:
    """Continues blocks up to a line, or to the end that the marks know; returns whether there is more."""
    end = marks[-1].offset
    while builder.offset < end:
        if builder.is_over_long:
            # The rest of the line is not read, except near its end.
            last = marks[bisect_left(marks, builder.line, key=_lines_of) - 1]
            if last.offset > builder.offset:
                builder.skip_to(last.offset)
                continue
        async for piece in in_turns(await outputs.read(name, builder.offset, READ_BYTES)):
            if piece.offset >= end:
                return False
            if not builder.feed(piece, line_end, TEXT_BYTES_MAX):
                return True
        await asyncio.sleep(0)
    return False


async def in_turns(pieces: Sequence[OutputPiece]) -> AsyncIterator[OutputPiece]:
    """The pieces, with turns of the event loop between some of them."""
    for index, piece in enumerate(pieces, 1):
        yield piece
        if index % _PIECES == 0:
            await asyncio.sleep(0)


def _lines_of(mark: LineMark) -> int:
    return mark.lines
