"""Files of a checkout that are larger than a response: on disk while they arrive, continued, verified, bounded."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest

from tests.unit.agent.test_checkout import KEY, TREE, Daemon, entry
from waterflow_agent.checkout import incoming_files
from waterflow_agent.checkout.blob_cache import blob_digest, blob_id
from waterflow_agent.checkout.file_list import FileKind
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.checkout.tree_store import TreeStore
from waterflow_agent.errors import Rejected
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.testing import FakeClock, task_id
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import FILE_RESPONSE_BYTES_MAX, FileChunk, FileResponse

LARGE = os.urandom(5 * FILE_RESPONSE_BYTES_MAX + 5)
BLOB = blob_id(LARGE)
OTHER = task_id("run", "other", "s1", 1, 1)


class Agent:
    """The checkouts of an agent whose cache has `cache` bytes."""

    def __init__(self, folder: Path, daemon: Daemon, cache: int = 64 << 20) -> None:
        self.workspaces = WorkingDirectories(folder / "work", FakeClock())
        self.trees = folder / "trees"
        self.checkouts = CheckoutService(
            TreeStore(self.trees, cache, self.workspaces.discard), daemon.requests, self.workspaces
        )
        self.job = folder / "work/run/job"

    def incoming(self) -> list[str]:
        """What has arrived of large files."""
        return sorted(os.listdir(self.trees / "incoming"))


def leave(agent: Agent, content: bytes, blob: bytes = BLOB) -> Path:
    """What an agent that was killed has left."""
    path = agent.trees / "incoming" / blob.hex()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("cache", [64 << 20, 1 << 10])
async def test_a_large_file_is_written_to_each_of_its_paths(tmp_path: Path, cache: int) -> None:
    """One that is larger than the cache is not copied to its last path, and is fetched again for the next job."""
    daemon = Daemon(("a", LARGE), ("b/tool", LARGE))
    agent = Agent(tmp_path, daemon, cache)
    await agent.checkouts.make(KEY, TREE)
    assert [(agent.job / path).read_bytes() == LARGE for path in ("a", "b/tool")] == [True, True]
    assert [(agent.job / path).stat().st_mode & 0o777 for path in ("a", "b/tool")] == [0o644, 0o644]
    assert (agent.job / "a").stat().st_ino != (agent.job / "b/tool").stat().st_ino
    requested = len(daemon.received)
    await agent.checkouts.make(OTHER, TREE)
    assert (len(daemon.received) == requested + 1) is (cache > len(LARGE))
    assert (tmp_path / "work/run/other/a").read_bytes() == LARGE
    assert agent.incoming() == []
    await agent.checkouts.close()


async def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    """Neither when it is fetched, nor when it is copied from the cache."""
    size = 48 << 20
    part = bytes(FILE_RESPONSE_BYTES_MAX)
    digest = blob_digest(size)
    for _ in range(size // len(part)):
        digest.update(part)

    class Zeros(Daemon):
        def answer(self, request: messages.FileRequest) -> FileResponse:
            if not request.blobs:
                return super().answer(request)
            return FileResponse(request.key, request.number, [FileChunk(size, part)])

    daemon = Zeros(("a", b""))
    daemon.list = daemon.list.replace(blob_id(b""), digest.digest())
    agent = Agent(tmp_path, daemon, 2 * size)
    tracemalloc.start()
    try:
        await agent.checkouts.make(KEY, TREE)
        requested = len(daemon.received)
        await agent.checkouts.make(OTHER, TREE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (agent.job / "a").stat().st_size == (tmp_path / "work/run/other/a").stat().st_size == size
    assert (requested, len(daemon.received)) == (size // len(part) + 2, requested + 1)
    assert peak < 8 << 20
    await agent.checkouts.close()


async def test_what_a_killed_agent_has_received_is_not_requested_again(tmp_path: Path) -> None:
    """Only the size of the file is asked for once more."""
    daemon = Daemon(("a", LARGE))
    agent = Agent(tmp_path, daemon)
    leave(agent, LARGE[: 3 * FILE_RESPONSE_BYTES_MAX + 7])
    await agent.checkouts.make(KEY, TREE)
    assert (agent.job / "a").read_bytes() == LARGE
    offsets = [request.offset for request in daemon.received if request.blobs]
    assert offsets == [0, 3 * FILE_RESPONSE_BYTES_MAX + 7, 4 * FILE_RESPONSE_BYTES_MAX + 7]
    assert agent.incoming() == []
    await agent.checkouts.close()


@pytest.mark.parametrize("left", [b"\0" * 1_000, LARGE + b"more", LARGE[:-1] + b"\0" + b"x"])
async def test_what_a_power_cut_has_damaged_is_fetched_again(tmp_path: Path, left: bytes) -> None:
    """It may even be longer than the file."""
    daemon = Daemon(("a", LARGE))
    agent = Agent(tmp_path, daemon)
    leave(agent, left)
    await agent.checkouts.make(KEY, TREE)
    assert (agent.job / "a").read_bytes() == LARGE
    await agent.checkouts.close()


async def test_a_large_file_with_the_wrong_content_is_refused(tmp_path: Path) -> None:
    """Nothing of it remains, neither for the job nor in the cache."""
    daemon = Daemon(("a", LARGE))
    daemon.contents[BLOB] = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    agent = Agent(tmp_path, daemon)
    with pytest.raises(Rejected, match="the wrong content") as error:
        await agent.checkouts.make(KEY, TREE)
    assert error.value.code == "WF752"
    assert (agent.incoming(), agent.checkouts.has(KEY), list(agent.trees.glob("blobs/*/*"))) == ([], False, [])
    await agent.checkouts.close()


async def test_jobs_that_need_the_same_large_file_fetch_it_once(tmp_path: Path) -> None:
    """The second one waits for the first."""
    daemon = Daemon(("a", LARGE))
    agent = Agent(tmp_path, daemon)
    await asyncio.gather(agent.checkouts.make(KEY, TREE), agent.checkouts.make(OTHER, TREE))
    assert (tmp_path / "work/run/other/a").read_bytes() == (agent.job / "a").read_bytes() == LARGE
    offsets = [request.offset for request in daemon.received if request.blobs and request.offset]
    assert sorted(offsets) == sorted(set(offsets))
    await agent.checkouts.close()


async def test_parts_may_be_shorter_than_usual(tmp_path: Path) -> None:
    """Those that were requested ahead do not follow then."""
    daemon = Daemon(("a", LARGE))

    def answer(request: messages.FileRequest) -> FileResponse:
        response = Daemon.answer(daemon, request)
        if request.blobs and request.offset:
            response.chunks[0] = FileChunk(len(LARGE), response.chunks[0].data[:100_000])
        return response

    daemon.answer = answer  # type: ignore[method-assign]
    agent = Agent(tmp_path, daemon)
    await agent.checkouts.make(KEY, TREE)
    assert (agent.job / "a").read_bytes() == LARGE
    await agent.checkouts.close()


async def test_a_cancelled_fetch_of_a_large_file_leaves_nothing(tmp_path: Path) -> None:
    """Neither a part of the file nor a directory."""

    class Hanging(Daemon):
        def take(self, request: messages.FileRequest) -> None:
            self.is_away = request.offset > 0
            super().take(request)

    daemon = Hanging(("a", LARGE))
    agent = Agent(tmp_path, daemon)
    work = asyncio.create_task(agent.checkouts.make(KEY, TREE))
    while not daemon.is_away:  # noqa: ASYNC110 - threads look at the disk before
        await asyncio.sleep(0)
    assert agent.incoming() == [BLOB.hex()]
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert (agent.incoming(), list((agent.trees / "made").iterdir()), agent.checkouts.has(KEY)) == ([], [], False)
    await agent.checkouts.close()


async def test_a_file_that_does_not_fit_on_the_disk_is_refused_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, its copy in the cache, and as much for the steps."""
    daemon = Daemon(("a/b", LARGE))
    agent = Agent(tmp_path, daemon)
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=3 * len(LARGE) - 1))
    with pytest.raises(Rejected, match=r"a/b has 1.3 MiB, .* only 3.8 MiB left; 3.8 MiB are needed") as error:
        await agent.checkouts.make(KEY, TREE)
    assert (error.value.code, len(daemon.received), agent.incoming()) == ("WF755", 2, [])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=3 * len(LARGE)))
    await agent.checkouts.make(KEY, TREE)
    await agent.checkouts.close()


async def test_a_part_that_nobody_continues_is_removed_later(tmp_path: Path) -> None:
    """With the next large file; a recent one stays."""
    daemon = Daemon(("a", LARGE))
    agent = Agent(tmp_path, daemon)
    old, recent = (leave(agent, b"x", blob_id(name)) for name in (b"old", b"recent"))
    before = time.time() - incoming_files.KEPT_S - 60
    os.utime(old, (before, before))
    await agent.checkouts.make(KEY, TREE)
    assert agent.incoming() == [recent.name]
    await agent.checkouts.close()


async def test_a_link_to_a_large_target_is_refused(tmp_path: Path) -> None:
    """A link cannot have one."""
    store = Agent(tmp_path, Daemon()).trees
    disk = TreeStore(store, 64 << 20, shutil.rmtree)
    partial = disk.begin(TREE, [entry("link", LARGE, FileKind.LINK)])
    file = disk.begin_file(partial, BLOB, len(LARGE))
    file.append(LARGE)
    with pytest.raises(OSError, match="File name too long"):
        disk.add_file(partial, file)
    disk.end_file(file, keep=False)
