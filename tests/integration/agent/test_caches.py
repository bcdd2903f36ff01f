"""Caches from a step to the daemon's store, or to the server's own, and back: the real nodes, relay and server."""

from __future__ import annotations

import asyncio
import os
import random
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.agent.test_artifacts import Site, various
from tests.patience import PATIENCE_S
from tests.unit.artifacts.harness import LIMITS
from waterflow_agent.artifacts import content
from waterflow_agent.artifacts.channel import ArtifactChannel
from waterflow_agent.artifacts.local_protocol import CACHE_SOCKET
from waterflow_agent.artifacts.relay import ArtifactRelay
from waterflow_agent.caches import entries
from waterflow_agent.caches.server_entries import ServerEntries
from waterflow_agent.caches.service import ServerCaches
from waterflow_agent.clock import Clock
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.caches.restore import CacheRestoreNode
from waterflow_agent.nodes.caches.save import CacheSaveNode
from waterflow_agent.nodes.node import Context, NodeFailure
from waterflow_agent.wire import messages
from waterflowd.artifacts.caches.store import CacheLimits
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import ONE_STEP, HostHarness, request

MAIN, FEATURE = "refs/heads/main", "refs/heads/feature"
MISS = {"cache-primary-key": "npm", "cache-hit": "", "cache-matched-key": ""}


class CacheSite(Site):
    """A daemon with a store, an agent with caches of its own, and the steps of runs of several branches."""

    def __init__(self, host: HostHarness, store: ArtifactStore, folder: Path) -> None:
        super().__init__(host, store, folder)
        host.default_refs["ops"] = MAIN
        self.home = folder / "home"
        self.home.mkdir()
        self.entries = ServerEntries(folder / "caches", 100 << 20, 7 * 86_400_000, lambda _: 1 << 40)
        self.relay = self._new_relay()

    def _new_relay(self) -> ArtifactRelay:
        return ArtifactRelay(self._send, ServerCaches(self.entries, Clock()))

    async def begin(self, ref: str | None = MAIN, repository: str | None = "ops") -> None:
        """A step of a new run of a branch; the one before has ended."""
        if hasattr(self, "key"):
            self.relay.close_socket(self.key)
            self.host.finished(self.agent, self.key)
        known = set(self.host.link.offers())
        trigger = Trigger(kind=TriggerKind.PUSH, by="Ada", ref=ref)
        await self.host.driver.start(msgspec.structs.replace(request(ONE_STEP), repository=repository, trigger=trigger))
        await until(lambda: set(self.host.link.offers()) - known)
        (self.key,) = set(self.host.link.offers()) - known
        self.relay.open(self.key, str(self.files))
        self.relay.open(self.key, str(self.files), CACHE_SOCKET)

    async def restart_agent(self) -> None:
        await self.relay.close()
        self.entries = ServerEntries(self.workspace.parent / "caches", 100 << 20, 7 * 86_400_000, lambda _: 1 << 40)
        self.relay = self._new_relay()
        self.relay.reopen(self.key, str(self.files))

    @property
    def context(self) -> Context:
        return msgspec.structs.replace(
            super().context, env={"HOME": str(self.home)}, server_caches=self.files / CACHE_SOCKET
        )

    async def save(self, **parameters: Any) -> None:
        node = CacheSaveNode().run(self.context, schema.CacheSave(**parameters))
        await asyncio.wait_for(node, PATIENCE_S)

    async def restore(self, **parameters: Any) -> dict[str, Any]:
        node = CacheRestoreNode().run(self.context, schema.CacheRestore(**parameters))
        return await asyncio.wait_for(node, PATIENCE_S)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[CacheSite]:
    store = ArtifactStore(tmp_path / "artifacts", LIMITS)
    async with HostHarness(artifacts=store) as host:
        made = CacheSite(host, store, tmp_path)
        host.hello(made.agent)
        await made.begin()
        yield made
        await made.relay.close()


@pytest.fixture(params=["shared", "server"])
def scope(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_later_run_gets_the_files_as_they_were(site: CacheSite, scope: str) -> None:
    """Content, folders, links, permissions and times, in the working directory and in the home directory."""
    site.write(various(50))
    tree = site.workspace / "dist"
    (tree / "bin").mkdir()
    (tree / "bin/tool").symlink_to("../large")
    (tree / "bin/lost").symlink_to("nowhere")
    (tree / "none/here").mkdir(parents=True)
    (tree / ".hidden").write_bytes(b"hidden")
    (tree / "large").chmod(0o750)
    os.utime(tree / "large", ns=(1, 1_700_000_000_000_000_001))
    (tree / "closed").mkdir()
    (tree / "closed/file").write_bytes(b"x")
    (tree / "closed").chmod(0o555)
    (site.home / ".npm").mkdir()
    (site.home / ".npm/index").write_bytes(b"home")
    before = site.read("dist")
    path = "dist\n~/.npm\n"

    await site.save(key="npm", path=path, scope=scope)
    await site.begin(FEATURE)
    (tree / "closed").chmod(0o755)
    tree.rename(site.workspace / "before")
    (site.home / ".npm/index").unlink()
    found = await site.restore(key="npm", path=path, scope=scope)

    assert found == {"cache-primary-key": "npm", "cache-hit": "true", "cache-matched-key": "npm"}
    assert site.read("dist") == before
    assert os.readlink(tree / "bin/tool") == "../large"
    assert os.readlink(tree / "bin/lost") == "nowhere"
    assert (tree / "none/here").is_dir()
    status = (tree / "large").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o750, 1_700_000_000_000_000_001)
    assert stat.S_IMODE((tree / "closed").stat().st_mode) == 0o555
    assert (site.home / ".npm/index").read_bytes() == b"home"
    assert not [name for name in (*os.listdir(tree), *os.listdir(site.home)) if name.startswith(".artifacts-")]
    (tree / "closed").chmod(0o755)


async def test_a_branch_cannot_write_what_another_branch_reads(site: CacheSite, scope: str) -> None:
    """Not even with the key of the default branch."""
    site.write({"a": b"poison"})
    await site.begin(FEATURE)
    await site.save(key="npm", path="a", scope=scope)

    for ref in (MAIN, "refs/heads/other"):
        await site.begin(ref)
        assert await site.restore(key="npm", path="a", restore_keys="n", scope=scope) == MISS
    await site.begin(MAIN)
    site.write({"a": b"good"})
    await site.save(key="npm", path="a", scope=scope)
    await site.begin("refs/heads/other")
    await site.restore(key="npm", path="a", scope=scope)
    assert site.read(".")["a"] == b"good"
    await site.begin(FEATURE)
    await site.restore(key="npm", path="a", scope=scope)
    assert site.read(".")["a"] == b"poison"


async def test_a_repository_has_no_entries_of_another_that_had_its_name(site: CacheSite, scope: str) -> None:
    """The name was given to another address; what anyone saved before must not be restored."""
    site.write({"a": b"1"})
    await site.save(key="npm", path="a", scope=scope)
    site.host.urls["ops"] = "https://git.example.org/other.git"
    await site.begin()
    assert await site.restore(key="npm", path="a", restore_keys="n", scope=scope) == MISS


async def test_a_restore_key_is_a_hit_of_another_key(site: CacheSite, scope: str) -> None:
    """`cache-hit` is false then, as on GitHub, so that the step after it completes the files."""
    site.write({"a": b"1"})
    for key in ("npm-1", "npm-2"):
        await site.save(key=key, path="a", scope=scope)

    found = await site.restore(key="npm-3", path="a", restore_keys="pip-\nnpm-\n", scope=scope)

    assert (found["cache-hit"], found["cache-matched-key"]) == ("false", "npm-2")


async def test_a_key_is_saved_once(site: CacheSite, scope: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The second save says so, and changes nothing."""
    site.write({"a": b"first"})
    await site.save(key="npm", path="a", scope=scope)
    site.write({"a": b"second"})
    await site.save(key="npm", path="a", scope=scope)
    assert "cache npm exists already; nothing was saved" in capsys.readouterr().out

    await site.restore(key="npm", path="a", scope=scope)
    assert site.read(".")["a"] == b"first"


async def test_without_an_entry_the_step_succeeds_or_fails_as_it_says(site: CacheSite, scope: str) -> None:
    """`lookup-only` restores nothing; `fail-on-cache-miss` fails."""
    assert await site.restore(key="npm", path="a", scope=scope) == MISS
    with pytest.raises(NodeFailure, match="no cache found for: npm, n") as caught:
        await site.restore(key="npm", path="a", restore_keys=["n"], fail_on_cache_miss="true", scope=scope)
    assert caught.value.outputs == MISS
    site.write({"a": b"1"})
    await site.save(key="npm", path="a", scope=scope)
    (site.workspace / "a").unlink()
    found = await site.restore(key="npm", path="a", lookup_only=True, scope=scope)
    assert found["cache-hit"] == "true"
    assert site.read(".") == {}


async def test_patterns_select_and_exclude(site: CacheSite, scope: str) -> None:
    """A wildcard finds folders anywhere; `!` leaves out."""
    site.write(
        {"x/node_modules/a": b"1", "y/z/node_modules/b": b"2", "y/z/node_modules/.cache/c": b"3", "y/other": b"4"}
    )
    path = "**/node_modules\n!**/.cache\n"
    await site.save(key="npm", path=path, scope=scope)
    for name in ("x", "y"):
        (site.workspace / name).rename(site.workspace.parent / name)
    await site.restore(key="npm", path=path, scope=scope)
    assert site.read(".") == {"x/node_modules/a": b"1", "y/z/node_modules/b": b"2"}


async def test_a_restore_completes_folders_and_replaces_files(site: CacheSite, scope: str) -> None:
    """What is in the folder beside the entry's files stays."""
    site.write({"d/a": b"cached", "d/sub/b": b"cached"})
    await site.save(key="npm", path="d", scope=scope)
    site.write({"d/a": b"new", "d/own": b"own"})
    await site.restore(key="npm", path="d", scope=scope)
    assert site.read("d") == {"a": b"cached", "sub/b": b"cached", "own": b"own"}


async def test_what_cannot_be_moved_leaves_the_destination_as_it_was(
    site: CacheSite, scope: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder is in the place of a file: a warning and a miss, and nothing has changed."""
    site.write({"d/a": b"cached", "d/z": b"cached"})
    await site.save(key="npm", path="d", scope=scope)
    (site.workspace / "d/z").unlink()
    site.write({"d/a": b"new", "d/z/inner": b"own"})

    assert await site.restore(key="npm", path="d", scope=scope) == MISS

    assert "warning: the cache was not restored" in capsys.readouterr().err
    assert site.read("d") == {"a": b"new", "z/inner": b"own"}
    assert sorted(os.listdir(site.workspace / "d")) == ["a", "z"]


async def test_a_damaged_entry_is_a_miss_and_can_be_saved_again(
    site: CacheSite, scope: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never wrong files: the block is found to be damaged, wherever it is kept."""
    files = {"d/a": b"a" * 100_000, "d/b": b"b" * 100_000}
    site.write(files)
    await site.save(key="npm", path="d", scope=scope)
    root = site.workspace.parent / ("artifacts/blocks" if scope == "shared" else "caches")
    damaged = next(path for path in root.rglob("*") if path.is_file() and path.read_bytes() == b"a" * 100_000)
    damaged.write_bytes(b"?" * 100_000)
    site.write({"d/a": b"own"})

    assert await site.restore(key="npm", path="d", scope=scope) == MISS
    assert "warning: the cache was not restored" in capsys.readouterr().err
    assert site.read("d")["a"] == b"own"
    assert await site.restore(key="npm", path="d", scope=scope) == MISS

    site.write(files)
    await site.save(key="npm", path="d", scope=scope)
    await site.restore(key="npm", path="d", scope=scope)
    assert site.read(".") == files


async def test_what_does_not_fit_is_a_warning(
    site: CacheSite, scope: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step succeeds, names the setting, and leaves nothing behind."""
    site.write({"a": b"x" * 1_000})
    if scope == "shared":
        assert site.host.caches is not None
        site.host.caches.limits = CacheLimits(entry_bytes=999)
        setting = "caches.entry-max-bytes"
    else:
        monkeypatch.setattr(site.entries, "_bytes_max", 999)
        setting = "server-caches-mb"

    await site.save(key="npm", path="a", scope=scope)

    assert "warning: cache npm was not saved: the caches of" in (text := capsys.readouterr().err) or setting in text
    assert setting in text
    assert await site.restore(key="npm", path="a", scope=scope) == MISS
    await site.save(key="none", path="nothing", scope=scope)
    assert "no files match path" in capsys.readouterr().err


async def test_a_run_without_a_repository_has_no_caches(
    site: CacheSite, scope: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It belongs to no branch, so everything that it found or saved could be anybody's."""
    site.write({"a": b"1"})
    await site.begin(None, None)
    await site.save(key="npm", path="a", scope=scope)
    assert await site.restore(key="npm", path="a", scope=scope) == MISS
    assert capsys.readouterr().err.count("caches belong to a branch of a repository") == 2


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_step_survives_restarts_of_its_agent_and_lost_requests(site: CacheSite, seed: int) -> None:
    """It repeats its requests at the agent's next process."""
    dice = random.Random(seed)
    site.write(various(30))
    site.loses_every = 7

    async def disturb() -> None:
        while True:
            seen = len(site.arrived) + dice.randrange(1, 6)
            await until(lambda seen=seen: len(site.arrived) >= seen)  # type: ignore[misc]
            await site.restart_agent()

    disturbing = asyncio.create_task(disturb())
    try:
        await site.save(key="npm", path="dist")
        found = await site.restore(key="npm", path="dist")
    finally:
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
    assert found["cache-hit"] == "true"


async def test_what_an_earlier_try_has_sent_is_not_part_of_the_entry(site: CacheSite) -> None:
    """It would take space that nothing counts."""
    stray = b"of a file that has changed"
    async with ArtifactChannel(site.files / CACHE_SOCKET) as channel:
        await channel.ask(messages.StoreBlock(content.digest_of(stray), stray, True), messages.ArtifactAccepted)
    site.write({"a": b"new"})

    await site.save(path="a", key="npm", scope="server")

    folder = site.workspace.parent / "caches"
    assert not list(folder.rglob(content.digest_of(stray).hex()))
    assert list(folder.rglob("record"))


async def test_a_server_keeps_its_entries_when_its_agent_restarts(site: CacheSite) -> None:
    """What a step has stored of an entry before the restart is sent again, and nothing of it is left."""
    site.write(various(30))
    before = site.read("dist")
    await site.save(key="npm", path="dist", scope="server")
    new = site.workspace.parent / "caches/new/left"
    new.mkdir(parents=True)
    await site.restart_agent()

    found = await site.restore(key="npm", path="dist", scope="server")

    assert found["cache-hit"] == "true"
    assert site.read("dist") == before
    assert not new.exists()


async def test_nothing_of_a_server_cache_is_sent(site: CacheSite) -> None:
    """Only the question which branch the run is for."""
    site.write({"a": b"x" * 1_000_000})
    await site.save(key="npm", path="a", scope="server")
    await site.restore(key="npm", path="a", scope="server")
    assert [type(asked.action) for asked in site.arrived] == [messages.FindCacheOrigin]


async def test_what_an_ended_step_has_not_committed_is_removed(site: CacheSite) -> None:
    """A step that was stopped in the middle."""
    site.write({"a": b"1"})
    await site.save(key="first", path="a", scope="server")
    folder = site.workspace.parent / "caches/new"
    data = b"block"
    channel = ArtifactChannel(site.files / CACHE_SOCKET)
    async with channel:
        store = messages.StoreBlock(content.digest_of(data), data)
        await channel.ask(store, messages.ArtifactAccepted)
    assert os.listdir(folder)
    site.relay.close_socket(site.key)
    await until(lambda: not os.listdir(folder))


async def test_a_step_that_ends_while_the_agent_stops_harms_nothing(site: CacheSite) -> None:
    """Its sockets may be closed after everything else."""
    site.write({"a": b"1"})
    await site.save(key="npm", path="a", scope="server")
    await site.relay.close()
    site.relay.close_socket(site.key)


async def test_a_request_for_a_block_that_does_not_exist_removes_nothing(site: CacheSite, scope: str) -> None:
    """A step may ask for anything, and must not remove what other branches read."""
    site.write({"a": b"1"})
    await site.save(key="npm", path="a", scope=scope)
    async with ArtifactChannel(site.files / (CACHE_SOCKET if scope == "server" else "artifacts")) as channel:
        version = entries.version_of("a")
        found = (await channel.ask(messages.FindCache(["npm"], version), messages.CacheFound)).entry
        assert found is not None
        for part in messages.ArtifactPart:
            read = messages.ReadCacheBlock("npm", version, found.digest, part, 7)
            with pytest.raises(Rejected, match="WF334"):
                await channel.ask(read, messages.BlockRead)
    assert (await site.restore(key="npm", path="a", scope=scope))["cache-hit"] == "true"


def test_the_least_recently_used_entry_of_a_server_makes_room(tmp_path: Path) -> None:
    """With the blocks of entries that are being made; and old ones go."""
    kept = ServerEntries(tmp_path / "caches", 3_000, 10_000, lambda _: 1 << 40)
    where = messages.CacheOrigin("scope", (MAIN,))

    def save(key: str, now: int) -> None:
        data = key.encode() * 900
        table = content.encode_table([(content.digest_of(data), len(data))])
        blocks = [data, table, b"listing"]
        for block in blocks:
            kept.store(key, content.digest_of(block), block)
        digests = [content.digest_of(block) for block in blocks]
        commit = messages.CommitCache(key, bytes(32), 1, 900, digests[1:2], digests[2:])
        assert kept.commit(where, key, commit, now)

    def keys(now: int) -> list[str]:
        found = [kept.find(where, messages.FindCache([key], bytes(32)), now) for key in "abcd"]
        return [row.key for row in found if row is not None]

    for number, key in enumerate("abc"):
        save(key, number)
    kept.find(where, messages.FindCache(["a"], bytes(32)), 5)
    save("d", 6)
    assert keys(7) == ["a", "c", "d"]
    kept.expire(20_000)
    assert keys(20_000) == []
    assert [path for path in (tmp_path / "caches").rglob("*") if path.is_file()] == []


def test_a_server_with_a_full_disk_saves_nothing(tmp_path: Path) -> None:
    """Caches leave space for everything else."""
    kept = ServerEntries(tmp_path / "caches", 1 << 20, 10_000, lambda _: 1)
    with pytest.raises(Rejected, match="WF302"):
        kept.begin(messages.CacheOrigin("scope", (MAIN,)), messages.BeginCache("npm", bytes(32), 1, 1))
