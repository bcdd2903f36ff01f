"""Output by line: every block, page and line number compared with the whole log."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator

from waterflow_agent.testing import attempt_id
from waterflowd.api.streaming import output_pages
from waterflowd.api.streaming.output_blocks import BLOCK_BYTES, BlockBuilder, OutputBlock
from waterflowd.api.streaming.output_lines import LINE_BYTES_MAX
from waterflowd.api.streaming.output_pages import TEXT_BYTES_MAX, count_lines, read_lines
from waterflowd.host.history import LogOutputs
from waterflowd.model import ids
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.testing.memory_outputs import MemoryOutputLogs

NAME = attempt_id(ids.run_id(1_700_000_000_000, 7), "deploy", "build", 1)
WORDS = (
    b"one\n",
    b"two",
    b"\n",
    b"\n\n",
    "Grüße, 世界 🎉\n".encode(),
    b"\x00\xff\xfe",
    b"a\r\n",
    "é".encode(),
    b"x" * 200,
)


def _pieces(texts: list[bytes], dice: random.Random | None = None) -> Iterator[OutputPiece]:
    offset = 0
    for number, text in enumerate(texts):
        at = 1_000 + number // 2
        yield OutputPiece(offset=offset, at=at, stream=1 if dice is None else dice.choice((1, 1, 2)), data=text)
        offset += len(text)


async def _logs(pieces: list[OutputPiece]) -> LogOutputs:
    logs = LogOutputs(MemoryOutputLogs())
    await logs.append([OutputAppend(attempt=NAME, pieces=pieces)])
    return logs


async def _page(logs: LogOutputs, line: int, count: int) -> list[OutputBlock]:
    return await read_lines(logs, NAME, await logs.line_marks(NAME), line, count)


def _text(blocks: list[OutputBlock]) -> str:
    return "".join(block.text for block in blocks)


def _lines(whole: bytes) -> list[bytes]:
    lines = whole.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _expected(whole: bytes, line: int, count: int) -> str:
    return b"".join(_lines(whole)[line - 1 : line - 1 + count]).decode("utf-8", "replace")


async def test_every_line_of_any_log_can_be_read() -> None:
    """Pieces split lines and characters, and streams alternate: text, offsets, times and streams are those of the log."""
    for seed in range(40):
        dice = random.Random(seed)
        texts = [dice.choice(WORDS) for _ in range(dice.randrange(1, 60))]
        whole = b"".join(texts)
        cut = sorted({0, len(whole), *(dice.randrange(len(whole)) for _ in range(dice.randrange(12)))})
        pieces = list(_pieces([whole[a:b] for a, b in itertools.pairwise(cut)], dice))
        logs = await _logs(pieces)
        lines = _lines(whole)
        assert await count_lines(logs, NAME, await logs.line_marks(NAME)) == len(lines), seed
        starts = [sum(map(len, lines[:index])) for index in range(len(lines))]
        for line in range(1, len(lines) + 1):
            count = dice.randrange(1, 8)
            blocks = await _page(logs, line, count)
            assert _text(blocks) == _expected(whole, line, count), seed
            assert (blocks[0].line, blocks[0].offset) == (line, starts[line - 1])
            for block in blocks:
                times, errors = dict(block.at), {first + n for first, run in block.stderr for n in range(run)}
                at = None
                for shown in range(block.line, min(block.line + count, len(lines) + 1)):
                    at = times.get(shown, at)
                    first = next(each for each in reversed(pieces) if each.offset <= starts[shown - 1])
                    assert (at, shown in errors) == (first.at, first.stream == 2), (seed, shown)


def test_blocks_of_a_growing_log_have_no_seam() -> None:
    """However the log grows, the blocks are consecutive ranges of it, and no character is split between two of them."""
    whole = "".join(f"{number} Grüße 世界 🎉\n" for number in range(200)).encode()
    for seed in range(30):
        dice = random.Random(seed)
        builder, offset, text = BlockBuilder(1, 0), 0, ""
        pieces: list[OutputPiece] = []
        while builder.offset < len(whole):
            size = dice.randrange(1, 50)
            if offset < len(whole):
                pieces.append(OutputPiece(offset=offset, at=1, stream=1, data=whole[offset : offset + size]))
                offset = min(len(whole), offset + size)
            for piece in pieces:
                if piece.offset + len(piece.data) > builder.offset:
                    builder.feed(piece, 1 << 53, TEXT_BYTES_MAX)
            for block in builder.take(is_end=False):
                assert block.offset == len(text.encode())
                assert block.line == text.count("\n") + 1
                assert block.bytes == len(block.text.encode())
                text += block.text
        assert text == whole.decode(), seed


async def test_a_line_of_any_length_shows_its_first_bytes() -> None:
    """The bytes that are left out are between two blocks, and are not read; the lines around have their numbers."""
    long = ("🎉" * 2_500_000).encode()
    whole = b"before\n" + long + b"\nafter\n"
    sizes = [whole[begin : begin + 100_000] for begin in range(0, len(whole), 100_000)]
    logs = await _logs(list(_pieces(sizes)))
    blocks = await _page(logs, 1, 10)
    assert [block.line for block in blocks] == [1, 2]
    first, second = blocks
    shown = first.text.removeprefix("before\n")
    assert shown == "🎉" * (LINE_BYTES_MAX // 4)
    assert first.bytes == 7 + LINE_BYTES_MAX
    assert (second.offset, second.text) == (7 + len(long), "\nafter\n")
    assert await _page(logs, 3, 1) == [
        OutputBlock(line=3, offset=len(whole) - 6, bytes=6, text="after\n", at=[(3, second.at[0][1])], stderr=[])
    ]
    still_open = await _logs(list(_pieces(sizes[:50])))
    assert [block.bytes for block in await _page(still_open, 2, 10)] == [LINE_BYTES_MAX]


async def test_an_answer_is_bounded_and_says_where_to_continue() -> None:
    """Many long lines: at most 1 MiB and the rest of a line; the next answer continues after the last line."""
    texts = [b"%09d" % number * 700 + b"\n" for number in range(400)]
    logs = await _logs(list(_pieces(texts)))
    line, text = 1, ""
    while line <= len(texts):
        blocks = await _page(logs, line, 10_000)
        assert sum(block.bytes for block in blocks) <= TEXT_BYTES_MAX + LINE_BYTES_MAX
        assert all(block.bytes <= BLOCK_BYTES + LINE_BYTES_MAX for block in blocks)
        text += _text(blocks)
        line = text.count("\n") + 1
    assert text.encode() == b"".join(texts)


async def test_only_what_is_near_a_line_is_read() -> None:
    """The cost of a page does not depend on the size of the log."""
    reads: list[int] = []

    class Counted(MemoryOutputLogs):
        def read(self, name: ids.AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
            reads.append(offset)
            return super().read(name, offset, bytes_max)

    logs = LogOutputs(Counted())
    texts = [b"%0999d\n" % number for number in range(8_000)]
    await logs.append([OutputAppend(attempt=NAME, pieces=list(_pieces(texts)))])
    assert _text(await _page(logs, 7_000, 5)) == _expected(b"".join(texts), 7_000, 5)
    assert len(reads) <= 2
    assert output_pages.READ_BYTES > 256 << 10, "less is read on the event loop"


async def test_small_pieces_are_taken_in_turns() -> None:
    """A step that prints a line at a time makes a piece of each: everything else on the loop continues between some of them."""
    logs = await _logs(list(_pieces([b"%d\n" % number for number in range(20_000)])))
    marks = await logs.line_marks(NAME)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    blocks = await read_lines(logs, NAME, marks, 10_001, 10_000)
    counting.cancel()
    assert _text(blocks).endswith("19999\n")
    assert turns >= 10_000 // 256
