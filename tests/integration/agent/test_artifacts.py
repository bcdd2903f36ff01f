"""Artifacts from a step to the daemon's store and back: the real nodes, relay and server, with a link that loses messages."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import threading
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.patience import PATIENCE_S
from tests.unit.artifacts.harness import LIMITS
from waterflow_agent.artifacts import local_protocol
from waterflow_agent.artifacts.relay import ArtifactRelay
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.artifacts import download
from waterflow_agent.nodes.artifacts.download import ArtifactDownloadNode
from waterflow_agent.nodes.artifacts.upload import ArtifactUploadNode
from waterflow_agent.nodes.node import Context, NodeFailure
from waterflow_agent.wire import messages
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.model.ids import AgentId, RunId
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import ONE_STEP, HostHarness, request


class Site:
    """A daemon with a store, an agent's relay, and a step's directories."""

    def __init__(self, host: HostHarness, store: ArtifactStore, folder: Path) -> None:
        self.host = host
        self.store = store
        self.agent = host.enroll("web-1", "web")
        self.workspace = folder / "work"
        self.files = folder / "files"
        self.workspace.mkdir()
        self.files.mkdir()
        self.key: messages.TaskId
        #: One request in about so many is lost, and the session with it; 0 for none.
        self.loses_every = 0
        self.lost = 0
        self._dice = random.Random(1)
        self._is_away = False
        self.arrived: list[messages.ArtifactRequest] = []
        self.relay = ArtifactRelay(self._send)
        host.link.watch = self._received

    async def start(self) -> None:
        self.host.hello(self.agent)
        await self.host.driver.start(msgspec.structs.replace(request(ONE_STEP), repository="ops"))
        await until(lambda: self.host.link.offers())
        self.key = self.host.link.offers()[0]
        self.relay.open(self.key, str(self.files))

    async def restart_agent(self) -> None:
        """A new process of the agent: it knows nothing but which attempts have a socket."""
        await self.relay.close()
        self.relay = ArtifactRelay(self._send)
        self.relay.reopen(self.key, str(self.files))

    def _send(self, asked: messages.ArtifactRequest) -> None:
        if not self._is_away and self.loses_every and not self._dice.randrange(self.loses_every):
            self._is_away = True
            asyncio.get_running_loop().call_soon(self._open_session)
        if self._is_away:
            self.lost += 1
            return
        self.arrived.append(asked)
        self.host.agents.artifact_requested(self.agent, asked)

    def _open_session(self) -> None:
        self._is_away = False
        self.relay.on_opened()

    def _received(self, agent: AgentId, message: messages.DaemonMessage) -> None:
        if isinstance(message, messages.ArtifactResponse):
            self.relay.on_response(message)

    @property
    def context(self) -> Context:
        return Context(
            directory=self.workspace,
            workspace=self.workspace,
            env={"HOME": "/nonexistent"},
            artifacts=self.files / local_protocol.SOCKET,
        )

    async def upload(self, **parameters: Any) -> dict[str, Any]:
        node = ArtifactUploadNode().run(self.context, schema.ArtifactUpload(**parameters))
        return await asyncio.wait_for(node, PATIENCE_S)

    async def download(self, **parameters: Any) -> dict[str, Any]:
        node = ArtifactDownloadNode().run(self.context, schema.ArtifactDownload(**parameters))
        return await asyncio.wait_for(node, PATIENCE_S)

    def write(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            path = self.workspace / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def read(self, folder: str) -> dict[str, bytes]:
        root = self.workspace / folder
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    store = ArtifactStore(tmp_path / "artifacts", LIMITS)
    async with HostHarness(artifacts=store) as host:
        made = Site(host, store, tmp_path)
        await made.start()
        yield made
        await made.relay.close()


def various(count: int = 300) -> dict[str, bytes]:
    dice = random.Random(5)
    files = {f"dist/many/{number % 7}/{number}": dice.randbytes(dice.randrange(400)) for number in range(count)}
    files["dist/large"] = dice.randbytes(3_000_000)
    files["dist/empty"] = b""
    files["dist/ünïcode and space"] = b"x"
    return files


async def test_paths_begin_below_the_root_if_there_is_one(site: Site) -> None:
    """Also for a single file; a file outside it is an error with its path."""
    site.write({"dist/web/index.html": b"x", "dist/a": b"a", "top": b"t"})

    await site.upload(name="web", path="dist/web/index.html", root=".")
    await site.upload(name="dist", path="dist/**/*.html\ndist/a", root="dist/")
    await site.download(name="web", path="one")
    await site.download(name="dist", path="two")

    assert site.read("one") == {"dist/web/index.html": b"x"}
    assert site.read("two") == {"web/index.html": b"x", "a": b"a"}
    with pytest.raises(NodeFailure, match=r"root: .*/work/top is not inside .*/work/dist"):
        await site.upload(name="all", path="dist\ntop", root="dist")


async def test_an_artifact_may_be_one_file_with_its_name(site: Site) -> None:
    """As with `archive: false` on GitHub; several files are an error."""
    site.write({"dist/shop.tar": b"x", "dist/other": b"y"})

    outputs = await site.upload(name="ignored", path="dist/*.tar", archive=False)
    await site.download(name="shop.tar", path="out", digest_mismatch="warn", skip_decompress=True)

    assert (outputs["name"], site.read("out")) == ("shop.tar", {"shop.tar": b"x"})
    with pytest.raises(NodeFailure, match="for a single file, but path selects 2 files"):
        await site.upload(path="dist", archive=False)


async def test_files_arrive_as_they_were(site: Site) -> None:
    """Content, paths, empty files and the execute permission."""
    files = various()
    site.write(files)
    (site.workspace / "dist/large").chmod(0o755)

    outputs = await site.upload(name="site", path="dist/")
    fetched = await site.download(name="site", path="out")

    assert site.read("out") == site.read("dist")
    assert stat.S_IMODE((site.workspace / "out/large").stat().st_mode) & 0o111
    assert not stat.S_IMODE((site.workspace / "out/empty").stat().st_mode) & 0o111
    assert outputs["files"] == fetched["files"] == len(files)
    assert outputs["bytes"] == fetched["bytes"] == sum(map(len, files.values()))
    assert outputs["digest"] == "sha256:" + site.store.of_run(RunId(site.key.attempt.run), 0)[0].digest.hex()


async def test_what_the_daemon_has_is_not_sent_again(site: Site) -> None:
    """A second upload of the same files sends no block; of one changed small file, a few."""
    site.write(various())
    await site.upload(name="site", path="dist/")
    site.arrived.clear()

    await site.upload(name="site", path="dist/")
    again = [asked for asked in site.arrived if isinstance(asked.action, messages.StoreBlock)]
    site.write({"dist/empty": b"changed"})
    await site.upload(name="site", path="dist/")
    changed = [asked for asked in site.arrived if isinstance(asked.action, messages.StoreBlock)]

    assert again == []
    # Its own block, the table and the listing.
    assert 1 <= len(changed) <= 4


@pytest.mark.parametrize("every", [3, 10])
async def test_lost_requests_are_repeated_in_the_next_session(site: Site, every: int) -> None:
    """The daemon was killed: what was on its way is lost, and the agent opens a new session."""
    site.write(various(20))
    site.loses_every = every

    await site.upload(name="site", path="dist/")
    await site.download(name="site", path="out")

    assert site.lost
    assert site.read("out") == site.read("dist")


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_step_survives_restarts_of_its_agent(site: Site, seed: int) -> None:
    """It repeats its requests at the agent's next process, at whatever point the old one ended."""
    dice = random.Random(seed)
    site.write(various(50))

    async def disturb() -> None:
        while True:
            seen = len(site.arrived) + dice.randrange(1, 6)
            await until(lambda seen=seen: len(site.arrived) >= seen)  # type: ignore[misc]
            await site.restart_agent()

    disturbing = asyncio.create_task(disturb())
    try:
        await site.upload(name="site", path="dist/")
        await site.download(name="site", path="out")
    finally:
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)

    assert site.read("out") == site.read("dist")


async def test_a_damaged_block_leaves_the_destination_as_it_was(site: Site) -> None:
    """All or nothing: neither a file nor a temporary folder appears."""
    site.write({"dist/a": b"a" * 100_000, "dist/b": b"b" * 100_000, "out/a": b"old"})
    await site.upload(name="site", path="dist/")
    record = site.store.of_run(RunId(site.key.attempt.run), 0)[0]
    site.store.blocks.path(record.scope, site.store.table(record).digest(1)).write_bytes(b"?")

    with pytest.raises(Rejected, match="WF304"):
        await site.download(name="site", path="out")

    assert site.read("out") == {"a": b"old"}
    assert os.listdir(site.workspace / "out") == ["a"]


async def test_a_step_that_is_stopped_while_it_writes_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes ends first: then the files are removed, and the stop is a stop."""
    site.write(various())
    await site.upload(name="site", path="dist/")
    original, writes, may_write = download._write, threading.Event(), threading.Event()

    def slow(*args: Any) -> Generator[None, bytes, None]:
        writer = original(*args)
        next(writer)
        while True:
            block = yield
            writes.set()
            assert may_write.wait(PATIENCE_S)
            writer.send(block)

    monkeypatch.setattr(download, "_write", slow)
    parameters = schema.ArtifactDownload(name="site", path="out")
    step = asyncio.create_task(ArtifactDownloadNode().run(site.context, parameters))
    await until(writes.is_set)
    step.cancel()
    for _ in range(20):
        # The step notices that it is stopped.
        await asyncio.sleep(0)
    may_write.set()

    with pytest.raises(asyncio.CancelledError):
        await step

    assert os.listdir(site.workspace / "out") == []


async def test_artifacts_that_cannot_be_merged_leave_the_destination_as_it_was(site: Site) -> None:
    """One has a file where another one has a folder."""
    site.write({"one/same": b"1", "two/same/inner": b"2", "out/a": b"old"})
    await site.upload(name="one", path="one/")
    await site.upload(name="two", path="two/")

    with pytest.raises(NodeFailure, match="same: a file is in the place of a folder"):
        await site.download(path="out", merge_multiple=True)

    assert site.read("out") == {"a": b"old"}


async def test_downloads_merge_into_a_folder_and_replace_files(site: Site) -> None:
    """As unpacking an archive would do."""
    site.write({"dist/a": b"new", "dist/sub/b": b"b", "out/a": b"old", "out/sub/c": b"c"})
    await site.upload(name="site", path="dist/")

    await site.download(name="site", path="out")

    assert site.read("out") == {"a": b"new", "sub/b": b"b", "sub/c": b"c"}


async def test_several_artifacts_get_folders_or_are_merged(site: Site) -> None:
    """`pattern` selects by name, `merge-multiple` puts them into one folder."""
    site.write({"one": b"1", "two": b"2", "log": b"3"})
    for name in ("one", "two", "log"):
        await site.upload(name=f"file-{name}" if name != "log" else name, path=name)

    await site.download(path="all")
    await site.download(path="some", pattern="file-*")
    await site.download(path="merged", pattern="file-*", merge_multiple=True)

    assert site.read("all") == {"file-one/one": b"1", "file-two/two": b"2", "log/log": b"3"}
    assert site.read("some") == {"file-one/one": b"1", "file-two/two": b"2"}
    assert site.read("merged") == {"one": b"1", "two": b"2"}


async def test_a_missing_artifact_is_an_error_that_lists_the_others(site: Site) -> None:
    """Most likely a `needs` is missing, or a name is misspelt."""
    site.write({"a": b"1"})
    await site.upload(name="site", path="a")

    with pytest.raises(Exception, match=r'no artifact "sites".*site.*needs'):
        await site.download(name="sites")


@pytest.mark.parametrize("choice", ["warn", "ignore", "error"])
async def test_patterns_without_a_file(site: Site, choice: str, capfd: pytest.CaptureFixture[str]) -> None:
    """`if-no-files-found` decides; nothing is stored."""
    if choice == "error":
        with pytest.raises(NodeFailure, match="no files match path: nothing"):
            await site.upload(path="nothing", if_no_files_found=choice)
    else:
        assert (await site.upload(path="nothing", if_no_files_found=choice))["files"] == 0
        assert ("no files match" in capfd.readouterr().err) == (choice == "warn")
    assert site.arrived == []


async def test_a_quota_is_an_error_before_anything_is_sent(site: Site) -> None:
    """The sentence names the limit; a retry may help once somebody has made room."""
    site.store.limits = msgspec.structs.replace(LIMITS, artifact_bytes=10)
    site.write({"dist/a": b"x" * 11})

    with pytest.raises(NodeFailure, match=r"artifacts\.artifact-max-bytes") as caught:
        await site.upload(path="dist/")

    assert caught.value.may_retry
    assert [type(asked.action) for asked in site.arrived] == [messages.BeginArtifact]


async def test_nonsense_on_the_socket_ends_only_its_connection(site: Site) -> None:
    """The script of a step may write anything to it."""
    for nonsense in (b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\2[]", b""):
        made = local_protocol.new_socket()
        with local_protocol.socket_address(site.files / local_protocol.SOCKET) as address:
            await asyncio.get_running_loop().sock_connect(made, address)
        reader, writer = await asyncio.open_unix_connection(sock=made)
        writer.write(nonsense)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()

    site.write({"a": b"1"})
    await site.upload(path="a")


async def test_the_socket_goes_with_the_step(site: Site) -> None:
    """The directory can be used for another step."""
    site.relay.close_socket(site.key)

    assert os.listdir(site.files) == []
