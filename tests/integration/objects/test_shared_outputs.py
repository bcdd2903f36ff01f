"""Output logs as objects: two daemons that take over an agent from each other, and objects that are damaged or gone."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path

import pytest

from waterflow_agent.errors import Retryable, Stalled
from waterflow_agent.testing import attempt_id
from waterflowd.model import ids
from waterflowd.model.ids import AttemptId
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.objects.directory import DirectoryObjects
from waterflowd.objects.outputs import ObjectOutputLogs

NAME = attempt_id(ids.run_id(1_700_000_000_000, 7), "deploy", "build", 1)
WHOLE = b"".join(b"%04d\n" % number for number in range(1_000))


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path)


async def send(logs: ObjectOutputLogs, *ranges: tuple[int, int], to: AttemptId = NAME) -> int:
    """Appends these ranges of the whole output; returns the size that the agent is told."""
    pieces = [OutputPiece(offset=begin, at=begin, stream=1, data=WHOLE[begin:end]) for begin, end in ranges]
    return (await logs.append([OutputAppend(attempt=to, pieces=pieces)]))[0]


def stored(path: Path) -> list[Path]:
    """Returns the files of all objects, sorted."""
    return sorted(path.rglob("*-*"))


async def text(logs: ObjectOutputLogs, offset: int = 0) -> bytes:
    pieces = await logs.read(NAME, offset, 1 << 30)
    for before, after in itertools.pairwise(pieces):
        assert after.offset == before.offset + len(before.data)
    return b"".join(piece.data for piece in pieces)[max(0, offset - pieces[0].offset) if pieces else 0 :]


async def test_an_agent_that_comes_back_is_not_told_an_end_that_was_passed(objects: DirectoryObjects) -> None:
    """It has only what nobody has acknowledged: a daemon that remembers an older end would wait for the rest forever."""
    first, second = ObjectOutputLogs(objects), ObjectOutputLogs(objects)
    assert await send(first, (0, 100)) == 100
    assert await send(second, (100, 300)) == 300

    assert await send(first, (300, 320)) == 320
    assert await send(second, (320, 330)) == 330
    assert (await first.append([OutputAppend(attempt=NAME, pieces=[])])) == [330]

    assert await text(first) == await text(second) == WHOLE[:330]


async def test_a_gap_in_later_pieces_is_noticed_too(objects: DirectoryObjects) -> None:
    """An append may begin with bytes that the daemon knows already, and continue after the end that it remembers."""
    first, second = ObjectOutputLogs(objects), ObjectOutputLogs(objects)
    await send(first, (0, 100))
    await send(second, (100, 300))

    assert await send(first, (50, 100), (300, 310)) == 310
    assert await text(second) == WHOLE[:310]


async def test_a_real_gap_is_ignored(objects: DirectoryObjects) -> None:
    """The returned size says where to continue."""
    logs = ObjectOutputLogs(objects)
    await send(logs, (0, 100))
    assert await send(logs, (100, 110), (150, 160)) == 110
    assert await send(logs, (150, 160)) == 110
    assert await text(logs) == WHOLE[:110]


async def test_what_two_daemons_store_at_the_same_time_is_read_once(objects: DirectoryObjects) -> None:
    """The former daemon's last append may be stored after the new one's first; each is as good as the other."""
    first, second = ObjectOutputLogs(objects), ObjectOutputLogs(objects)
    await asyncio.gather(send(first, (0, 100)), send(second, (0, 70)))
    await asyncio.gather(send(first, (100, 200)), send(second, (70, 150)), send(second, (150, 160)))
    await asyncio.gather(*(send(ObjectOutputLogs(objects), (160, end)) for end in (170, 400, 250)))

    for logs in (first, second, ObjectOutputLogs(objects)):
        assert await logs.size(NAME) == 400
        for offset in (0, 1, 70, 99, 100, 155, 200, 399):
            assert await text(logs, offset) == WHOLE[offset:400]


async def test_a_late_append_of_the_former_daemon_adds_what_is_new(objects: DirectoryObjects) -> None:
    """It begins before the end and reaches beyond it."""
    first, second = ObjectOutputLogs(objects), ObjectOutputLogs(objects)
    await send(first, (0, 100))
    await send(second, (0, 150))
    assert await text(second) == WHOLE[:150]
    assert await send(first, (100, 220)) == 220
    assert await text(second) == WHOLE[:150] + WHOLE[150:220]


async def test_appends_of_a_call_are_one_object(objects: DirectoryObjects, tmp_path: Path) -> None:
    """Each request costs time and money; the caller collects output for that reason."""
    logs = ObjectOutputLogs(objects)
    appends = [
        OutputAppend(attempt=NAME, pieces=[OutputPiece(offset=begin, at=1, stream=1, data=WHOLE[begin : begin + 10])])
        for begin in range(0, 100, 10)
    ]
    assert await logs.append(appends) == list(range(10, 101, 10))
    assert len(stored(tmp_path)) == 1


async def test_damaged_and_removed_objects_are_reported(objects: DirectoryObjects, tmp_path: Path) -> None:
    """Never as other bytes. What is before them can still be read."""
    logs = ObjectOutputLogs(objects)
    await send(logs, (0, 100))
    await send(logs, (100, 200))
    _, second = stored(tmp_path)
    content = second.read_bytes()
    second.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Stalled, match=r"is damaged.*WF304"):
        await text(logs, 150)
    assert len(await logs.read(NAME, 0, 1)) == 1

    await logs.size(NAME)
    os.unlink(second)
    with pytest.raises(Stalled, match=r"has been removed.*WF304"):
        await logs.read(NAME, 150, 10)

    (second.parent / "README").write_bytes(b"")
    with pytest.raises(Stalled, match=r"'README'.*was not written by Waterflow.*WF304"):
        await ObjectOutputLogs(objects).size(NAME)


async def test_a_failed_append_changes_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    """The other logs of the call are stored; nothing is acknowledged."""
    objects = DirectoryObjects(tmp_path)
    logs = ObjectOutputLogs(objects)
    other = attempt_id(NAME.run, "deploy", "other", 1)
    await send(logs, (0, 10))
    (folder,) = {path.parent for path in stored(tmp_path)}
    os.rename(folder, tmp_path / "kept")
    folder.write_bytes(b"not a folder")
    pieces = [OutputPiece(offset=10, at=1, stream=1, data=WHOLE[10:20])]
    first = OutputPiece(offset=0, at=1, stream=1, data=b"x")
    with pytest.raises(Retryable, match="WF322"):
        await logs.append([OutputAppend(attempt=NAME, pieces=pieces), OutputAppend(attempt=other, pieces=[first])])
    os.unlink(folder)
    os.rename(tmp_path / "kept", folder)

    assert await logs.size(NAME) == 10
    assert await logs.size(other) == 1
    assert await send(logs, (10, 20)) == 20


def test_invalid_names_are_refused_at_once(tmp_path: Path) -> None:
    """A run's id becomes a part of a path; job and step become a hash."""
    logs = ObjectOutputLogs(DirectoryObjects(tmp_path))
    for invalid in (attempt_id("", "a", "b", 1), attempt_id("x" * 10_000, "a", "b", 1), attempt_id("r", "a", "b", -1)):
        with pytest.raises(ValueError, match="not an attempt"):
            logs.append([OutputAppend(attempt=invalid, pieces=[])])


async def test_no_name_leaves_the_storage(tmp_path: Path) -> None:
    """Whatever the ids are, everything is below `output`."""
    logs = ObjectOutputLogs(DirectoryObjects(tmp_path / "a"))
    os.mkdir(tmp_path / "a")
    for run in ("..", "../..", "/etc", "a/b", "\x00", "é"):
        await send(logs, (0, 10), to=attempt_id(run, "../x", "/y", 1))
    assert (os.listdir(tmp_path), os.listdir(tmp_path / "a")) == (["a"], ["output"])
    assert len(stored(tmp_path)) == 6
