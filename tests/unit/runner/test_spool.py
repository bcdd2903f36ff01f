"""The spool preserves the order, the offsets, and the start and the end of excessive output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waterflow_agent.runner import spool
from waterflow_agent.runner.spool import MISSING, STDERR, STDOUT, SpoolChunk, SpoolReader, SpoolWriter, UnknownFormat


def write(path: Path, pieces: list[tuple[int, bytes]], bytes_max: int = 1 << 20) -> SpoolWriter:
    writer = SpoolWriter(str(path), bytes_max)
    for at, (stream, payload) in enumerate(pieces):
        writer.append(stream, memoryview(payload), at)
    return writer


def read_all(path: Path, from_offset: int = 0, max_bytes: int = 100) -> list[SpoolChunk]:
    reader = SpoolReader(str(path))
    chunks: list[SpoolChunk] = []
    while more := reader.read(from_offset, max_bytes):
        chunks += more
        from_offset = more[-1].end
    return chunks


def directory_bytes(path: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(path))


def test_chunks_are_read_in_order_with_stream_time_and_offset(tmp_path: Path) -> None:
    """Appended output is read unchanged, for each stream."""
    write(tmp_path / "output", [(STDOUT, b"one"), (STDERR, b"two\xff\x00"), (STDOUT, b"three")]).close(9)

    chunks = read_all(tmp_path / "output")

    assert [(c.offset, c.at, c.stream, c.data) for c in chunks] == [
        (0, 0, STDOUT, b"one"),
        (3, 1, STDERR, b"two\xff\x00"),
        (8, 2, STDOUT, b"three"),
    ]


@pytest.mark.parametrize("from_offset", range(12))
def test_reading_resumes_from_any_offset(tmp_path: Path, from_offset: int) -> None:
    """From an offset inside a chunk, the rest of that chunk is returned."""
    write(tmp_path / "output", [(STDOUT, b"0123"), (STDERR, b"4567"), (STDOUT, b"89ab")]).close(0)

    data = b"".join(chunk.data for chunk in read_all(tmp_path / "output", from_offset, max_bytes=3))

    assert data == b"0123456789ab"[from_offset:]


def test_a_reader_sees_what_is_appended_after_it_reached_the_end(tmp_path: Path) -> None:
    """A reader may be ahead of the writer."""
    reader = SpoolReader(str(tmp_path / "output"))
    assert reader.read(0) == []
    writer = write(tmp_path / "output", [(STDOUT, b"one")])
    assert [chunk.data for chunk in reader.read(0)] == [b"one"]
    assert reader.read(3) == []

    writer.append(STDERR, memoryview(b"two"), 5)

    assert [(chunk.offset, chunk.data) for chunk in reader.read(3)] == [(3, b"two")]
    writer.close(6)


def test_output_up_to_the_limit_is_complete(tmp_path: Path) -> None:
    """Up to the size limit nothing is dropped, whatever the sizes of the writes."""
    pieces = [(STDOUT, bytes([65 + number % 26]) * (number % 97 + 1)) for number in range(200)]
    whole = b"".join(payload for _, payload in pieces)

    writer = write(tmp_path / "output", pieces, bytes_max=len(whole))
    writer.close(0)

    assert writer.dropped == 0
    assert b"".join(chunk.data for chunk in read_all(tmp_path / "output")) == whole


@pytest.mark.parametrize("bytes_max", [16, 1_000, 65_536])
def test_a_flood_keeps_its_first_and_last_part_and_the_size_of_the_gap(tmp_path: Path, bytes_max: int) -> None:
    """First half and at least the last seven sixteenths stay; the gap between them has the exact size."""
    whole = b"".join(b"%07d " % number for number in range(bytes_max))
    writer = write(tmp_path / "output", [(STDOUT, whole[i : i + 700]) for i in range(0, len(whole), 700)], bytes_max)
    writer.close(7)

    chunks = read_all(tmp_path / "output", max_bytes=65_536)

    gaps = [chunk for chunk in chunks if chunk.stream == MISSING]
    assert len(gaps) == 1
    first = b"".join(chunk.data for chunk in chunks if chunk.offset < gaps[0].offset)
    last = b"".join(chunk.data for chunk in chunks if chunk.offset > gaps[0].offset)
    assert gaps[0].dropped == writer.dropped == len(whole) - len(first) - len(last)
    assert first == whole[: bytes_max // 2]
    assert bytes_max * 7 // 16 - 1 <= len(last) <= bytes_max // 2
    assert whole.endswith(last)


def test_a_reader_that_starts_in_the_gap_gets_the_size_of_its_rest(tmp_path: Path) -> None:
    """Offsets count missing bytes too, so reading may start anywhere in a gap."""
    writer = write(tmp_path / "output", [(STDOUT, b"x" * 100)] * 100, bytes_max=1_600)
    writer.close(0)
    gap = next(chunk for chunk in read_all(tmp_path / "output") if chunk.stream == MISSING)

    rest = SpoolReader(str(tmp_path / "output")).read(gap.offset + 10)[0]

    assert (rest.stream, rest.offset, rest.dropped) == (MISSING, gap.offset + 10, gap.dropped - 10)


def test_the_tail_can_be_omitted(tmp_path: Path) -> None:
    """While the step runs, only the first half is read."""
    write(tmp_path / "output", [(STDOUT, b"x" * 100)] * 100, bytes_max=1_600)

    chunks = SpoolReader(str(tmp_path / "output")).read(0, 1 << 20, tail=False)

    assert sum(len(chunk.data) for chunk in chunks) == 800


def test_bytes_on_disk_are_bounded_even_for_output_of_single_bytes(tmp_path: Path) -> None:
    """Headers cannot fill the disk either."""
    cap = 8_192
    writer = write(tmp_path / "output", [(STDOUT, b"x")] * 300_000, bytes_max=cap)
    writer.close(0)

    assert directory_bytes(tmp_path) < 12 * spool.PAYLOAD_BYTES_MAX
    assert writer.offset == 300_000
    assert sum(len(chunk.data) + chunk.dropped for chunk in read_all(tmp_path / "output")) == 300_000


def test_a_limit_of_zero_keeps_the_count(tmp_path: Path) -> None:
    """With a size limit of 0 only the number of bytes is known."""
    write(tmp_path / "output", [(STDOUT, b"abc"), (STDERR, b"de")], bytes_max=0).close(4)

    chunks = read_all(tmp_path / "output")

    assert [(chunk.stream, chunk.offset, chunk.dropped) for chunk in chunks] == [(MISSING, 0, 5)]


def test_a_torn_last_record_is_the_end(tmp_path: Path) -> None:
    """A writer that was killed during a write leaves a readable spool."""
    write(tmp_path / "output", [(STDOUT, b"whole"), (STDOUT, b"torn")]).close(0)
    content = (tmp_path / "output").read_bytes()
    (tmp_path / "output").write_bytes(content[:-2])

    assert [chunk.data for chunk in read_all(tmp_path / "output")] == [b"whole"]


def test_a_failing_disk_loses_only_output(tmp_path: Path) -> None:
    """The writer keeps counting when nothing can be written."""
    writer = write(tmp_path / "absent" / "output", [(STDOUT, b"lost"), (STDOUT, b"too")])
    (tmp_path / "absent").mkdir()
    writer.append(STDERR, memoryview(b"kept"), 3)
    writer.close(4)

    chunks = read_all(tmp_path / "absent" / "output")

    assert [(chunk.stream, chunk.data, chunk.dropped) for chunk in chunks] == [(MISSING, b"", 7), (STDERR, b"kept", 0)]
    assert writer.dropped == 7


def test_a_spool_of_one_byte_is_empty_and_reusable(tmp_path: Path) -> None:
    """A reused directory keeps the first byte of its files."""
    write(tmp_path / "output", [(STDOUT, b"before")]).close(0)
    os.truncate(tmp_path / "output", 1)
    assert read_all(tmp_path / "output") == []

    write(tmp_path / "output", [(STDOUT, b"after")]).close(0)

    assert [(chunk.offset, chunk.data) for chunk in read_all(tmp_path / "output")] == [(0, b"after")]


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    """An unknown first byte is never read as records."""
    (tmp_path / "output").write_bytes(b"\x02something else")

    with pytest.raises(UnknownFormat, match="format"):
        SpoolReader(str(tmp_path / "output")).read(0)
