"""Lines from pieces of output, and cursors: the result does not depend on the pieces or the point of resumption."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterflow_agent.errors import Rejected
from waterflowd.api.streaming import output_lines
from waterflowd.api.streaming.output_lines import Cursor, Line, LineCutter, NumberRanges, entry, parse_cursor
from waterflowd.model.records import OutputPiece

_TEXT = st.lists(
    st.sampled_from([b"a", b"\n", "ä".encode(), b"\r\n", b"\xff", b"", b"xyz", "😀".encode()]), max_size=12
)
_WRITES = st.lists(st.tuples(st.integers(1, 2), _TEXT.map(b"".join)), max_size=12)


def pieces_of(writes: list[tuple[int, bytes]], sizes: list[int]) -> list[OutputPiece]:
    """Returns the writes as pieces, split at the given sizes in turn."""
    found: list[OutputPiece] = []
    offset = 0
    turn = 0
    for stream, data in writes:
        while data:
            size = sizes[turn % len(sizes)]
            turn += 1
            found.append(OutputPiece(offset=offset, at=offset, stream=stream, data=data[:size]))
            offset += len(found[-1].data)
            data = data[size:]
    return found


def cut(pieces: list[OutputPiece], positions: tuple[int, int] = (0, 0)) -> list[Line]:
    """Returns all lines from the positions on, read as the store does: from the piece that contains the offset."""
    cutter = LineCutter(positions)
    found: list[Line] = []
    for piece in pieces:
        if piece.offset + len(piece.data) > cutter.next_offset:
            found += cutter.feed(piece)
    return found + list(cutter.finish())


def displayed(lines: list[Line]) -> list[tuple[int, int, str, bool]]:
    return [(line.offset, line.stream, line.text, line.is_cut) for line in lines]


@settings(max_examples=200, deadline=None)
@given(_WRITES, st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([4, 7, 1 << 16]))
def test_lines_do_not_depend_on_the_pieces_and_reading_can_resume_at_any_line(
    writes: list[tuple[int, bytes]], sizes: list[int], line_bytes: int
) -> None:
    """The lines per stream are the same; resuming at a line gives exactly the rest, without gaps or repeats."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_lines, "LINE_BYTES_MAX", line_bytes)
        whole = cut(pieces_of(writes, [1 << 20]))
        pieces = pieces_of(writes, sizes)
        torn = cut(pieces)
        for stream in (1, 2):
            of_stream = [row for row in displayed(torn) if row[1] == stream]
            assert of_stream == [row for row in displayed(whole) if row[1] == stream]
        for index, line in enumerate(torn):
            rest = cut(pieces, line.positions)
            assert sorted(displayed(rest)) == sorted(displayed(torn[index + 1 :]))


@settings(max_examples=100, deadline=None)
@given(_WRITES)
def test_the_lines_contain_every_printed_byte(writes: list[tuple[int, bytes]]) -> None:
    """Joined, the lines of a stream are its whole content as text."""
    lines = cut(pieces_of(writes, [3]))
    for stream in (1, 2):
        printed = b"".join(data for number, data in writes if number == stream)
        expected = printed.removesuffix(b"\n").split(b"\n") if printed else []
        # A carriage return belongs to the newline after it; a last line without one keeps it.
        whole = [part.removesuffix(b"\r") for part in expected[:-1]]
        last = [part.removesuffix(b"\r") if printed.endswith(b"\n") else part for part in expected[-1:]]
        decoded = [part.decode("utf-8", "replace") for part in whole + last]
        assert [line.text for line in lines if line.stream == stream] == decoded


def test_a_long_line_is_split_between_characters_and_marked() -> None:
    """The line has 64 KiB of two-byte characters after one byte: none is split, and all parts except the last are marked."""
    text = "x" + "ä" * 100_000
    lines = cut(pieces_of([(1, text.encode() + b"\nnext\n")], [1000]))
    assert "".join(line.text for line in lines[:-1]) == text
    assert [line.is_cut for line in lines] == [True, True, True, False, False]
    assert all(len(line.text.encode()) <= output_lines.LINE_BYTES_MAX for line in lines)


@given(
    st.integers(0, 99),
    st.integers(0, 500),
    st.lists(st.integers(100, 130)),
    st.dictionaries(st.integers(131, 150), st.tuples(st.integers(0, 9), st.integers(0, 9))),
)
def test_a_cursor_reads_as_it_was_written(
    done: int, offset: int, closed: list[int], positions: dict[int, tuple[int, int]]
) -> None:
    """Encoding and decoding returns the same cursor, including ranges."""
    ranges = NumberRanges()
    for number in closed:
        ranges.add(number)
    cursor = Cursor(done=done, offset=offset, ranges=ranges.pairs(), positions=positions)
    read = parse_cursor(cursor.text() + entry(200, (5, 6)))
    assert read.offset == offset
    assert read.positions == positions | {200: (5, 6)}
    assert [number for number in range(131) if read.is_done(number)] == sorted({*range(done), *closed})


@given(st.lists(st.integers(0, 40)), st.integers(0, 41))
def test_ranges_of_numbers_are_ascending_and_as_few_as_possible(numbers: list[int], lowest: int) -> None:
    """They contain the numbers in any order of adding; ranges that end before a number can be removed."""
    ranges = NumberRanges()
    for number in numbers:
        ranges.add(number)
    assert [n for first, last in ranges.pairs() for n in range(first, last + 1)] == sorted(set(numbers))
    assert all(after[0] > before[1] + 1 for before, after in itertools.pairwise(ranges.pairs()))
    kept = [pair for pair in ranges.pairs() if pair[1] >= lowest]
    ranges.forget_below(lowest)
    assert list(ranges.pairs()) == kept


@pytest.mark.parametrize(
    "text", ["", "c", "c1+", "x1", "c1;", "c1;2", "c1;2=", "c1;2=3=4", "c1;2=3.4.5", "c٣", "c1" + ";1=1" * 20_000]
)
def test_an_invalid_cursor_is_a_400(text: str) -> None:
    """This includes hostile cursors."""
    with pytest.raises(Rejected):
        parse_cursor(text)
