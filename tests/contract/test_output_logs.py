"""The contract of all output logs: on disk, in memory, as objects (`ports.OutputLogs`)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.transfer.test_s3 import Bucket, bucket, moto
from waterflow_agent.display import missing_line
from waterflow_agent.testing import attempt_id
from waterflowd.host.history import LogOutputs
from waterflowd.model import ids
from waterflowd.model.ids import AttemptId
from waterflowd.model.output_pieces import LineMark
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.objects.opening import open_objects
from waterflowd.objects.outputs import ObjectOutputLogs
from waterflowd.ports import Objects, OutputLogs
from waterflowd.store.opening import open_store
from waterflowd.testing.memory_outputs import MemoryOutputLogs

__all__ = ["bucket", "moto"]

RUN = ids.run_id(1_700_000_000_000, 7)
#: More than a log may have before it is moved to a file.
LARGE = 100_000


class OutputLogsHarness:
    """Output logs, and a way to open them again; the in-memory twin keeps its state."""

    def __init__(self, outputs: OutputLogs, reopen: Callable[[], OutputLogs]) -> None:
        self.outputs = outputs
        self._reopen = reopen

    def reopen(self) -> None:
        """Opens the logs again, as another process would."""
        self.outputs = self._reopen()

    async def size(self, of: AttemptId | None = None) -> int:
        return await self.outputs.size(of or name())

    async def read(self, offset: int, bytes_max: int, of: AttemptId | None = None) -> list[OutputPiece]:
        return await self.outputs.read(of or name(), offset, bytes_max)

    async def text(self, of: AttemptId | None = None, offset: int = 0) -> bytes:
        """Returns all bytes from `offset` on, read in small pages."""
        found = b""
        while pieces := await self.read(offset + len(found), 10_000, of):
            begun = offset + len(found) - pieces[0].offset
            found += b"".join(printed.data for printed in pieces)[begun:]
        return found


@pytest.fixture
def s3_objects(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Objects:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-secret")
    return open_objects("s3://bucket/some/prefix", {"AWS_ENDPOINT_URL": bucket.endpoint})


@pytest.fixture(params=["lmdb", "memory", "directory", "s3"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OutputLogsHarness]:
    if request.param == "memory":
        outputs = LogOutputs(MemoryOutputLogs())
        yield OutputLogsHarness(outputs, lambda: outputs)
        return
    if request.param in ("directory", "s3"):
        objects = (
            open_objects(f"dir:{tmp_path}", {})
            if request.param == "directory"
            else request.getfixturevalue("s3_objects")
        )
        yield OutputLogsHarness(ObjectOutputLogs(objects), lambda: ObjectOutputLogs(objects))
        return
    stores = [open_store(tmp_path / "data", {})]

    def open_again() -> OutputLogs:
        stores[-1].close()
        stores.append(open_store(tmp_path / "data", {}))
        return LogOutputs(stores[-1].outputs)

    yield OutputLogsHarness(LogOutputs(stores[0].outputs), open_again)
    stores[-1].close()


def name(step: str = "build", attempt: int = 1, job: str = "deploy") -> AttemptId:
    return attempt_id(RUN, job, step, attempt)


def piece(offset: int, printed: bytes, at: int = 5, stream: int = 1) -> OutputPiece:
    return OutputPiece(offset=offset, at=at, stream=stream, data=printed)


async def add(harness: OutputLogsHarness, *pieces: OutputPiece, to: AttemptId | None = None) -> int:
    return (await harness.outputs.append([OutputAppend(attempt=to or name(), pieces=list(pieces))]))[0]


async def test_a_new_log_is_empty(harness: OutputLogsHarness) -> None:
    """The size is 0 and there are no pieces; appending nothing does not change this."""
    assert (await harness.size(), await harness.read(0, 100)) == (0, [])
    assert await add(harness) == 0
    assert await harness.outputs.append([]) == []


async def test_pieces_are_read_as_they_were_written(harness: OutputLogsHarness) -> None:
    """Each piece has its offset, time, stream and bytes, and the order is kept."""
    pieces = [piece(0, b"one\n", 10, 1), piece(4, b"\x00\xff", 11, 2), piece(6, b"three", 12, 1)]
    assert await add(harness, *pieces) == 11
    assert await harness.read(0, 1_000) == pieces
    assert await harness.size() == 11


async def test_known_bytes_are_skipped(harness: OutputLogsHarness) -> None:
    """A repetition changes nothing; a piece that extends beyond the end adds its new part."""
    await add(harness, piece(0, b"abc"), piece(3, b"def"))
    assert await add(harness, piece(0, b"abc"), piece(3, b"def"), piece(6, b"ghi")) == 9
    assert await add(harness, piece(6, b"ghiJK")) == 11
    assert await add(harness, piece(3, b"def")) == 11
    assert await harness.text() == b"abcdefghiJK"


async def test_pieces_after_a_gap_are_ignored(harness: OutputLogsHarness) -> None:
    """The returned size says where to continue."""
    assert await add(harness, piece(5, b"late")) == 0
    assert await add(harness, piece(0, b"abc"), piece(4, b"e")) == 3
    assert await add(harness, piece(4, b"e"), piece(3, b"d")) == 3
    assert await harness.text() == b"abc"


async def test_invalid_times_and_streams_are_clamped(harness: OutputLogsHarness) -> None:
    """They come from an agent, so the bytes are accepted whatever they are."""
    assert await add(harness, piece(0, b"a", at=-7, stream=-1), piece(1, b"b", at=1 << 70, stream=999)) == 2
    assert await harness.read(0, 10) == [piece(0, b"a", 0, 0), piece(1, b"b", (1 << 63) - 1, 255)]
    assert await add(harness, piece(-5, b"12345ab-c")) == 4
    assert await harness.text() == b"ab-c"


async def test_logs_are_separate(harness: OutputLogsHarness) -> None:
    """Attempts, steps, jobs and runs do not share a log, whatever their ids look like."""
    other_run = attempt_id(ids.run_id(1_700_000_000_000, 8), "deploy", "build", 1)
    names = [
        name(),
        name(attempt=2),
        name(step="a.b"),
        name(step="b", job="deploy.a"),
        name(step="../x"),
        other_run,
        name(step="s" * 300),
    ]
    for large in (b"", b"x" * LARGE):
        appends = [
            OutputAppend(attempt=each, pieces=[piece(await harness.size(each), b"%d" % number + large)])
            for number, each in enumerate(names)
        ]
        sizes = await harness.outputs.append(appends)
        assert sizes == [await harness.size(each) for each in names]
    assert [(await harness.text(each))[:2] for each in names] == [
        b"%d%d" % (number, number) for number in range(len(names))
    ]


async def test_reading_starts_with_the_piece_that_contains_the_offset(harness: OutputLogsHarness) -> None:
    """The offset may be inside a piece; after the end there is nothing; otherwise at least one piece is returned."""
    await add(harness, piece(0, b"abc"), piece(3, b"def"), piece(6, b"ghi"))
    assert [found.offset for found in await harness.read(4, 100)] == [3, 6]
    assert [found.offset for found in await harness.read(3, 1)] == [3]
    assert [found.offset for found in await harness.read(0, 4)] == [0, 3]
    assert await harness.read(9, 100) == []


async def test_less_than_was_asked_for_is_the_rest_of_the_log(harness: OutputLogsHarness) -> None:
    """So a reader knows that there is no more, wherever the log is stored."""
    size = 0
    while size < LARGE:
        size = await add(harness, piece(size, b"x" * 999))
    for bytes_max in (1, 999, 1_000, 64 << 10, 66_000, LARGE, 2 * LARGE):
        offset = 0
        while pieces := await harness.read(offset, bytes_max):
            offset = pieces[-1].offset + len(pieces[-1].data)
            if sum(len(found.data) for found in pieces) < bytes_max:
                break
        assert offset == size


async def test_a_log_grows_from_small_to_large(harness: OutputLogsHarness) -> None:
    """Every byte has its offset, however the log was split into pieces and wherever reading starts."""
    whole = b"".join(b"%07d\n" % number for number in range(LARGE // 4))
    size = 0
    for step in (10, 1_000, 30_000, 40_000, 7, 60_000, LARGE):
        pieces = [
            piece(start, whole[start : start + 8_000]) for start in range(size, min(size + step, len(whole)), 8_000)
        ]
        size = await add(harness, *pieces)
    assert size == len(whole)
    assert await harness.text() == whole
    for offset in (0, 9, 8_000, 65_535, 65_536, 70_001, len(whole) - 1):
        assert await harness.text(offset=offset) == whole[offset:]


async def test_appends_in_flight_keep_their_order(harness: OutputLogsHarness) -> None:
    """Many concurrent calls of any size, for one log and for others, have the same result as consecutive ones."""
    calls, offset = [], 0
    for number in range(40):
        printed = b"%d" % (number % 10) * (100 if number % 3 else 20_000)
        calls.append(harness.outputs.append([OutputAppend(attempt=name(), pieces=[piece(offset, printed)])]))
        calls.append(harness.outputs.append([OutputAppend(attempt=name(f"s{number}"), pieces=[piece(0, printed)])]))
        offset += len(printed)
    sizes = await asyncio.gather(*(_sizes(call) for call in calls))
    assert sizes[-2] == [offset] == [await harness.size()]
    assert len(await harness.text()) == offset
    assert await harness.size(name("s1")) == 100


async def _sizes(call: object) -> list[int]:
    return list(await call)  # type: ignore[misc]


async def line_marks(harness: OutputLogsHarness) -> list[LineMark]:
    """The marks of the log, checked against its bytes."""
    marks = await harness.outputs.line_marks(name())
    whole = await harness.text()
    assert [mark.lines for mark in marks] == [whole[: mark.offset].count(b"\n") for mark in marks]
    offsets = [mark.offset for mark in marks]
    assert (offsets[0], offsets[-1]) == (0, len(whole))
    assert offsets == sorted(offsets)
    assert all(after - before <= 1 << 20 for before, after in itertools.pairwise(offsets))
    return marks


async def test_marks_say_where_lines_are(harness: OutputLogsHarness) -> None:
    """Whatever the size of the log, of its lines and of its pieces, also after a restart and after repetitions."""
    assert await harness.outputs.line_marks(name()) == [LineMark(0, 0)]
    size = 0
    for printed in (
        b"a\n",
        b"b",
        b"\n\n",
        b"no end",
        b"\n" * 10,
        *[b"%0999d\n" % 7 * 100] * 7,
        b"x" * 300_000,
        b"\nend",
    ):
        assert await add(harness, piece(size, printed), piece(size, printed)) == size + len(printed)
        size += len(printed)
        if size < 2_000:
            await line_marks(harness)
    before = await line_marks(harness)
    harness.reopen()
    assert await line_marks(harness) == before
    await add(harness, piece(size - 3, b"end\nmore\n"))
    assert (await line_marks(harness))[-1] == LineMark(size + 6, before[-1].lines + 2)


async def test_marks_say_what_was_left_out(harness: OutputLogsHarness) -> None:
    """Only the piece that the agent or the daemon has put there counts, not what a step prints itself."""
    left_out = missing_line(123)
    await add(harness, piece(0, b"one\ntwo"), piece(7, left_out, stream=2), piece(7 + len(left_out), b"three\n"))
    await add(harness, piece(13 + len(left_out), left_out, stream=1))
    size = await add(harness, piece(13 + 2 * len(left_out), b"z" * LARGE))
    await add(harness, piece(size, missing_line(9, "the output quota of the repository is used up"), stream=3))
    for _ in range(2):
        marks = [mark for mark in await line_marks(harness) if mark.left_out_bytes]
        assert [(mark.left_out_line, mark.left_out_bytes) for mark in marks] == [(3, 123), (8, 9)]
        lines = (await harness.text()).split(b"\n")
        assert [b"bytes of output were dropped" in lines[mark.left_out_line - 1] for mark in marks] == [True, True]
        harness.reopen()


async def test_everything_is_readable_after_reopening(harness: OutputLogsHarness) -> None:
    """Small and large logs can be read and continued."""
    await add(harness, piece(0, b"small"))
    await add(harness, piece(0, b"y" * LARGE), to=name("large"))
    await add(harness, piece(LARGE, b"!"), to=name("large"))
    harness.reopen()
    assert (await harness.size(), await harness.size(name("large"))) == (5, LARGE + 1)
    assert await add(harness, piece(5, b" log")) == 9
    assert await add(harness, piece(LARGE + 1, b"?"), to=name("large")) == LARGE + 2
    assert await harness.text() == b"small log"
    assert await harness.text(name("large"), LARGE - 1) == b"y!?"
