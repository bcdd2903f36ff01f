"""Output logs on a real disk: growth beyond LMDB, incomplete tails, damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.store.file_faults import files_replaced
from waterflow_agent.errors import Retryable, Stalled
from waterflow_agent.testing import attempt_id
from waterflowd.model import ids
from waterflowd.model.ids import AttemptId
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.store import layout, outputs
from waterflowd.store.opening import Store, open_store
from waterflowd.store.output_files import OutputFiles

NAME = attempt_id(ids.run_id(1_700_000_000_000, 7), "deploy", "build", 1)
OTHER = attempt_id(NAME.run, "deploy", "other", 1)


async def add(store: Store, *printed: bytes, to: AttemptId = NAME) -> int:
    offset = store.outputs.size(to)
    pieces = []
    for data in printed:
        pieces.append(OutputPiece(offset=offset, at=offset, stream=1, data=data))
        offset += len(data)
    return (await store.outputs.append([OutputAppend(attempt=to, pieces=pieces)]))[0]


def files(path: Path) -> list[Path]:
    return sorted(
        file for file in (path / layout.OUTPUT_DIRECTORY).rglob("*") if file.is_file() and file.suffix != ".index"
    )


def text(store: Store, offset: int = 0) -> bytes:
    return b"".join(piece.data for piece in store.outputs.read(NAME, offset, 1 << 30))


async def test_a_small_log_costs_no_file(tmp_path: Path) -> None:
    """Up to 64 KiB a log is stored in LMDB, and is flushed with the events."""
    with open_store(tmp_path, {}) as store:
        for _ in range(8):
            await add(store, b"x" * 4096, b"y" * 4096)
        assert store.outputs.size(NAME) == outputs.SMALL_BYTES_MAX
        assert files(tmp_path) == []


async def test_a_log_that_outgrows_lmdb_continues_in_a_file(tmp_path: Path) -> None:
    """Its rows stay in LMDB; the file begins at that offset and contains the rest."""
    with open_store(tmp_path, {}) as store:
        await add(store, b"a" * 60_000)
        await add(store, b"b" * 10_000)
        await add(store, b"c")
        (file,) = files(tmp_path)
        assert file == tmp_path / "output" / NAME.run / "deploy.build.1"
        assert b"a" not in file.read_bytes().partition(b"b" * 10_000)[2]
        assert text(store) == b"a" * 60_000 + b"b" * 10_000 + b"c"
        assert text(store, 59_999)[:60_001].endswith(b"b")


@pytest.mark.parametrize("cut", [1, 20, 29, 30, 5_000, 9_000, 20_000])
async def test_a_torn_tail_is_truncated_after_a_crash(tmp_path: Path, cut: int) -> None:
    """Whole frames are kept, a partial frame is removed, and the log continues from there without a gap."""
    whole = [bytes([number]) * 8_000 for number in range(65, 85)]
    with open_store(tmp_path, {}) as store:
        await add(store, b"first" * 100)
        await add(store, *whole)
    (file,) = files(tmp_path)
    os.truncate(file, file.stat().st_size - cut)
    with open_store(tmp_path, {}) as store:
        kept = (cut - 1) // 8_029 + 1
        assert store.outputs.size(NAME) == 500 + 8_000 * (20 - kept)
        assert await add(store, *whole[-kept:]) == 500 + 160_000
        assert text(store, 500) == b"".join(whole)


@pytest.mark.parametrize("garbage", [b"\x00" * 100, b"\xff" * 3, b"\x00" * 200_000])
async def test_a_tail_of_garbage_is_truncated(tmp_path: Path, garbage: bytes) -> None:
    """A power failure may leave a file longer than its content: zeros and garbage are not frames."""
    with open_store(tmp_path, {}) as store:
        await add(store, b"x" * 70_000, b"y" * 70_000)
    (file,) = files(tmp_path)
    with file.open("ab") as stream:
        stream.write(garbage)
    with open_store(tmp_path, {}) as store:
        assert await add(store, b"z") == 140_001
        assert text(store)[-2:] == b"yz"


async def test_a_file_with_a_damaged_header_is_set_aside(tmp_path: Path) -> None:
    """It was torn before its first flush: nothing in it was acknowledged, so the log ends where its rows end."""
    with open_store(tmp_path, {}) as store:
        await add(store, b"x" * 60_000)
    path = tmp_path / "output" / NAME.run / "deploy.build.1"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"WFOUT")
    with open_store(tmp_path, {}) as store:
        assert store.outputs.size(NAME) == 60_000
        assert await add(store, b"y" * 60_000) == 120_000
        assert text(store)[-1:] == b"y"
    assert path.with_name("deploy.build.1.damaged").exists()


async def test_a_flipped_byte_in_a_file_is_detected(tmp_path: Path) -> None:
    """The part before it can be read; the damaged piece is never returned."""
    with open_store(tmp_path, {}) as store:
        await add(store, *[bytes([number]) * 60_000 for number in range(65, 85)])
    (file,) = files(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"C" * 60_000, b"C" * 59_999 + b"c"))
    with open_store(tmp_path, {}) as store:
        assert store.outputs.read(NAME, 0, 100_000)[-1].data[:1] == b"B"
        with pytest.raises(Stalled, match="WF304"):
            store.outputs.read(NAME, 125_000, 100)
        assert store.outputs.read(NAME, 300_000, 1)[0].data[:1] == b"F"


def check_line_marks(store: Store) -> None:
    """The marks count the newlines before them, up to the end."""
    whole, marks = text(store), store.outputs.line_marks(NAME)
    assert [mark.lines for mark in marks] == [whole[: mark.offset].count(b"\n") for mark in marks]
    assert (marks[0].offset, marks[-1].offset) == (0, len(whole))


@pytest.mark.parametrize("index", ["missing", "cut", "wrong", "flipped", "zeros"])
async def test_the_index_of_a_file_is_only_a_hint(tmp_path: Path, index: str) -> None:
    """Without it, with half of it, or with garbage in it, the same bytes are found, and lines have the same numbers."""
    whole = [b"%04d\n" % number * 2_000 for number in range(300)]
    with open_store(tmp_path, {}) as store:
        for start in range(0, 300, 30):
            await add(store, *whole[start : start + 30])
    (path,) = (tmp_path / layout.OUTPUT_DIRECTORY).rglob("*.index")
    assert path.stat().st_size > 100
    if index == "missing":
        path.unlink()
    elif index == "cut":
        os.truncate(path, path.stat().st_size - 7)
    elif index == "wrong":
        path.write_bytes(os.urandom(16 * 9))
    else:
        # A lower byte of the number of lines of the fifth entry, or a part that never reached the disk.
        content = bytearray(path.read_bytes())
        begin = 4 * 36 + 22
        content[begin : begin + 2] = b"\x77\x77" if index == "flipped" else bytes(2)
        path.write_bytes(content)
    with open_store(tmp_path, {}) as store:
        assert store.outputs.size(NAME) == 3_000_000
        for number in (0, 7, 150, 299):
            assert store.outputs.read(NAME, number * 10_000 + 5, 1)[0].data == whole[number]
        check_line_marks(store)
        await add(store, b"!")
        assert text(store)[-4:] == b"99\n!"
        check_line_marks(store)


def test_lines_are_counted_once_when_an_append_fails(tmp_path: Path) -> None:
    """What could not be written is not counted, and is counted when it is sent again."""

    def pieces(offset: int, count: int) -> list[OutputPiece]:
        printed = b"a line\n" * 10_000
        return [OutputPiece(offset=offset + 70_000 * n, at=1, stream=1, data=printed) for n in range(count)]

    output_files = OutputFiles(tmp_path / "output")
    file = output_files.create(NAME, base=0)
    for failures in range(3):
        for _ in range(failures):
            file.add(pieces(file.end, 9))
            file.write()
            file.drop()
        file.add(pieces(file.end, 6))
        file.write()
        output_files.sync(file)
        marks = file.line_marks()
        assert [mark.lines * 7 for mark in marks] == [mark.offset for mark in marks]
        assert marks[-1].offset == file.end == 420_000 * (failures + 1)
    again = output_files.recover(NAME)
    assert again is not None
    assert again.line_marks() == marks


async def test_a_full_disk_under_one_log_loses_nothing_of_another(tmp_path: Path) -> None:
    """When the rows of a group fail and its file does not, a repetition with other pieces is stored once."""
    with open_store(tmp_path, {}, ballast_bytes=0) as store:
        await add(store, b"x" * 70_000)
        with files_replaced("/dev/full"):
            group = [
                OutputAppend(attempt=OTHER, pieces=[OutputPiece(offset=0, at=1, stream=1, data=b"small")]),
                OutputAppend(attempt=NAME, pieces=[OutputPiece(offset=70_000, at=1, stream=1, data=b"abcdef")]),
            ]
            with pytest.raises(Retryable, match="WF302"):
                await store.outputs.append(group)
        pieces = [
            OutputPiece(offset=70_000, at=1, stream=1, data=b"abc"),
            OutputPiece(offset=70_003, at=1, stream=1, data=b"defg"),
        ]
        again = [OutputAppend(attempt=NAME, pieces=pieces), group[0]]
        assert await store.outputs.append(again) == [70_007, 5]
        assert text(store)[70_000:] == b"abcdefg"
    with open_store(tmp_path, {}) as store:
        assert (text(store)[70_000:], store.outputs.size(OTHER)) == (b"abcdefg", 5)


async def test_a_file_of_a_failed_append_does_not_hide_rows(tmp_path: Path) -> None:
    """An empty file is removed when the log has continued in LMDB."""
    with open_store(tmp_path, {}) as store:
        await add(store, b"x" * 100)
        await add(store, b"y" * 100_000, to=OTHER)
    other = tmp_path / "output" / NAME.run / "deploy.other.1"
    with open_store(tmp_path, {}) as store:
        stale = store.outputs._files.create(NAME, base=50)
        assert stale.path.exists()
    with open_store(tmp_path, {}) as store:
        assert store.outputs.size(NAME) == 100
        assert (stale.path.exists(), other.exists()) == (False, True)


async def test_a_group_may_turn_a_small_log_into_a_large_one(tmp_path: Path) -> None:
    """Small rows and the file after them, submitted together: the file follows durable rows."""
    with open_store(tmp_path, {}) as store:
        calls, offset = [], 0
        for size in (30_000, 30_000, 30_000, 200_000, 5):
            piece = OutputPiece(offset=offset, at=1, stream=1, data=b"%d" % (size % 7) * size)
            calls.append(store.outputs.append([OutputAppend(attempt=NAME, pieces=[piece])]))
            offset += size
            calls.append(store.outputs.append([OutputAppend(attempt=OTHER, pieces=[])]))
        assert [(await call)[0] for call in calls][-2:] == [offset, 0]
    with open_store(tmp_path, {}) as store:
        assert store.outputs.size(NAME) == offset
        assert len(text(store)) == offset
