"""Remotes served by real Git, read through a mirror over each transport, with all kinds of updates."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.integration.reconcile.reconciler_harness import ON_PUSH, Daemon
from tests.integration.remote import git_servers
from tests.integration.remote.git_servers import RemoteRepository, contents
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource.remote import source as remote_source
from waterflowd.reconcile import codes, events
from waterflowd.reconcile.conditions import ConditionType
from waterflowd.reconcile.settings import DEFAULT_FOLDERS


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[RemoteRepository]:
    remote = RemoteRepository(tmp_path)
    yield remote
    await remote.close()


@pytest.mark.parametrize("transport", ["git", "old git", "https", "ssh"])
async def test_a_remote_is_read_like_a_local_repository(remote: RemoteRepository, transport: str) -> None:
    """Default branch, branches, both kinds of tags, and files are read; then the next push, and a push backwards."""
    work = remote.work
    work.commit({"workflows/a.yml": "a: 0\n"})
    work.commit({"workflows/a.yml": "a: 1\n" * 300, "workflows/b.yml": "b: 1\n", "src/x": "y"})
    work.git("tag", "--annotate", "v1", "--message", "first")
    work.git("tag", "light")
    work.push("refs/tags/*:refs/tags/*")
    work.push("HEAD:refs/heads/trunk")
    work.push("HEAD:refs/heads/main")
    work.git("symbolic-ref", "HEAD", "refs/heads/trunk", cwd=work.bare)
    # With bitmaps a server knows exactly what a commit adds, and omits everything that we claim to have.
    work.git("repack", "-a", "-d", "-b", "--quiet", cwd=work.bare)
    with remote.served_by(transport):
        source = remote.open(refs=("trunk", "main", "tags/*"))
        refs = await source.refs()
        assert refs.head_ref == "refs/heads/trunk"
        assert set(refs.object_ids) == {"refs/heads/trunk", "refs/heads/main", "refs/tags/v1", "refs/tags/light"}
        expected: dict[str, bytes | None] = {"workflows/a.yml": b"a: 1\n" * 300, "workflows/b.yml": b"b: 1\n"}
        for ref in refs.object_ids:
            assert await contents(source, refs, ref) == expected
        before = await source.revision(refs.object_ids["refs/tags/v1"], None, DEFAULT_FOLDERS)

        commit = work.pushed({"workflows/a.yml": "a: 2\n", "workflows/b.yml": None})
        moved = await source.refs()
        assert moved.object_ids["refs/heads/main"] == commit
        assert await contents(source, moved) == {"workflows/a.yml": b"a: 2\n"}
        after = await source.revision(commit, before.commit.tree, DEFAULT_FOLDERS)
        assert (after.changes.paths, after.changes.is_complete) == (("workflows/a.yml", "workflows/b.yml"), True)

        work.pushed({"workflows/a.yml": "a: 0\n"})
        work.git("repack", "-a", "-d", "-b", "--quiet", cwd=work.bare)
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 0\n"}


async def test_no_history_is_fetched_and_each_commit_only_once(remote: RemoteRepository) -> None:
    """The first commit's blob is never fetched, and without an update no pack arrives."""
    first = remote.work.pushed({"workflows/a.yml": "a: 0\n"})
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    with remote.served():
        source = remote.open()
        refs = await source.refs()
        await source.refs()
        assert remote.packs() == 1
        assert remote.mirror_state().complete == (refs.object_ids["refs/heads/main"],)
        with pytest.raises(Retryable, match="is missing"):
            await source.revision(first, None, DEFAULT_FOLDERS)


async def test_unwatched_refs_are_listed_and_not_fetched(remote: RemoteRepository) -> None:
    """Only refs that match the patterns are transferred."""
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    remote.work.commit({"workflows/a.yml": "other: 1\n"})
    remote.work.push("HEAD:refs/heads/other")
    with remote.served():
        source = remote.open(refs=("main",))
        refs = await source.refs()
        assert set(refs.object_ids) == {"refs/heads/main", "refs/heads/other"}
        assert remote.mirror_state().complete == (refs.object_ids["refs/heads/main"],)


async def test_a_tag_of_a_tree_affects_nothing_else(remote: RemoteRepository) -> None:
    """It has its own error and is not fetched repeatedly."""
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    tree = remote.work.git("rev-parse", "HEAD^{tree}")
    remote.work.git("tag", "--annotate", "--message", "tree", "of-tree", tree)
    remote.work.push("refs/tags/*:refs/tags/*")
    with remote.served():
        source = remote.open(refs=("main", "tags/*"))
        refs = await source.refs()
        assert await contents(source, refs) == {"workflows/a.yml": b"a: 1\n"}
        assert set(remote.mirror_state().complete) == set(refs.object_ids.values())
        with pytest.raises(Retryable, match="is not a commit"):
            await source.revision(refs.object_ids["refs/tags/of-tree"], None, DEFAULT_FOLDERS)


async def test_an_empty_remote_gets_its_first_push(remote: RemoteRepository) -> None:
    """The remote has no refs at first, and then one."""
    with remote.served():
        source = remote.open()
        refs = await source.refs()
        assert (refs.head_ref, refs.object_ids) == ("refs/heads/main", {})
        remote.work.pushed({"workflows/a.yml": "a: 1\n"})
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}


async def test_a_server_without_shallow_fetches_works(remote: RemoteRepository) -> None:
    """Without the capability the whole history is fetched, once."""
    remote.work.pushed({"workflows/a.yml": "a: 0\n"})
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    with git_servers.https(remote.root) as server:
        # In protocol version 1 the capabilities are a list of words.
        server.edit = lambda path, body: body.replace(b" shallow", b" shollaw")
        server.forget_protocol = True
        source = remote.open(url=server.url(), ca_file=str(server.authority))
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}
        assert remote.mirror_state().shallow == ()
        remote.work.pushed({"workflows/a.yml": "a: 0\n"})
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 0\n"}
        # The server gains the capability: complete history stays complete.
        server.edit = lambda path, body: body
        remote.work.pushed({"workflows/a.yml": "a: 2\n"})
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 2\n"}
        assert len(remote.mirror_state().shallow) == 1
        # The server loses it again: commits fetched without history are not built upon.
        server.edit = lambda path, body: body.replace(b" shallow", b" shollaw")
        remote.work.pushed({"workflows/a.yml": "a: 3\n"})
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 3\n"}


async def test_a_mirror_is_used_again_after_a_restart(remote: RemoteRepository) -> None:
    """A new source continues with the mirror, and can read it while the remote is unreachable."""
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    with remote.served():
        first = remote.open()
        refs = await first.refs()
    source = remote.open()
    with pytest.raises(Retryable, match=r"cannot reach .*\(last fetched \d+ s ago\)") as caught:
        await source.refs()
    assert caught.value.code == codes.NOT_THERE
    assert await contents(source, refs) == {"workflows/a.yml": b"a: 1\n"}


async def test_another_url_starts_another_mirror(remote: RemoteRepository) -> None:
    """The state of one remote is not used for another one."""
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    with remote.served():
        await remote.open().refs()
    held = remote.mirror_state().complete
    remote.work.pushed({"workflows/a.yml": "a: 2\n"})
    with remote.served():
        refs = await remote.open().refs()
    assert remote.mirror_state().complete == (refs.object_ids["refs/heads/main"],)
    assert remote.mirror_state().complete != held


async def test_a_mirror_with_many_packs_is_replaced(remote: RemoteRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh mirror replaces it when no ref has changed, and contains the last applied tree."""
    monkeypatch.setattr(remote_source, "_PACKS_MAX", 3)
    with remote.served():
        source = remote.open()
        for number in range(5):
            remote.work.pushed({"workflows/a.yml": f"a: {number}\n"})
            before = await source.refs()
        assert remote.packs() == 5
        refs = await source.refs()
        assert remote.packs() == 1
        assert refs == before
        assert await contents(source, refs) == {"workflows/a.yml": b"a: 4\n"}
        remote.work.pushed({"workflows/a.yml": "a: 5\n"})
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 5\n"}
        assert sorted(path.name for path in remote.mirror.parent.iterdir()) == ["ops.git"]


@pytest.mark.parametrize("damage", ["bytes", "gone"])
async def test_a_damaged_mirror_is_fetched_again(remote: RemoteRepository, damage: str) -> None:
    """The next fetch restores a damaged object; the mirror is replaced only once for the same refs."""
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    with remote.served():
        source = remote.open()
        refs = await source.refs()
        [pack] = remote.mirror.glob("objects/pack/*.pack")
        if damage == "gone":
            pack.unlink()
        else:
            pack.chmod(0o600)
            data = pack.read_bytes()
            pack.write_bytes(data[:12] + bytes(len(data) - 32) + data[-20:])
        with pytest.raises(Retryable) as caught:
            await contents(source, refs)
        assert caught.value.code == codes.OBJECT_UNREADABLE
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}


async def test_a_removed_mirror_is_created_again(remote: RemoteRepository) -> None:
    """A restart with an empty directory fetches everything."""
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})
    with remote.served():
        await remote.open().refs()
        shutil.rmtree(remote.mirror.parent)
        source = remote.open()
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}


async def test_ten_thousand_files_are_fetched_and_listed(remote: RemoteRepository) -> None:
    """This is the maximum for a repository."""
    files = "".join(f"M 644 inline workflows/{n:05}.yml\ndata <<E\nn: {n}\nE\n" for n in range(10_000))
    stream = f"commit refs/heads/main\ncommitter Ada <ada@example.org> 1 +0000\ndata 1\nx\n{files}"
    remote.work.git("fast-import", "--quiet", cwd=remote.work.bare, stdin=stream)
    with remote.served():
        source = remote.open()
        refs = await source.refs()
        revision = await source.revision(refs.object_ids["refs/heads/main"], None, DEFAULT_FOLDERS)
    assert len(revision.files) == 10_000
    assert revision.files[-1].path == "workflows/09999.yml"


async def test_hostile_trees_are_problems_of_single_files(remote: RemoteRepository) -> None:
    """Links, submodules and names with newlines are fetched, and nothing is followed or written."""
    work = remote.work
    (work.path / "workflows").mkdir()
    (work.path / "workflows" / "link.yml").symlink_to("/etc/passwd")
    (work.path / "workflows" / "new\nline.yml").write_text("x")
    work.commit({"workflows/good.yml": "a: 1\n"})
    head = work.git("rev-parse", "HEAD")
    work.git("update-index", "--add", "--cacheinfo", f"160000,{head},workflows/module.yml")
    work.git("commit", "--quiet", "--message", "module")
    work.push()
    with remote.served():
        source = remote.open()
        refs = await source.refs()
        revision = await source.revision(refs.object_ids["refs/heads/main"], None, DEFAULT_FOLDERS)
    assert {file.path: file.problem.code if file.problem else None for file in revision.files} == {
        "workflows/good.yml": None,
        "workflows/link.yml": codes.SYMLINK,
        "workflows/module.yml": codes.SUBMODULE,
        "workflows/new\\nline.yml": codes.UNSAFE_NAME,
    }
    assert not list(remote.mirror.rglob("*.yml"))


# With the reconcile loop ----------------------------------------------------------------------------------------------


async def test_pushes_to_a_remote_start_runs_once(remote: RemoteRepository) -> None:
    """A push, a forced push, a deleted branch, a restart: each update is handled once, over the network too."""
    work = remote.work
    work.pushed({"workflows/a.yml": ON_PUSH.format("one")})
    with remote.served():
        daemon = Daemon(
            msgspec.structs.replace(remote.settings, refs=("*",)), open_source=lambda s: remote.opener().open(s)
        )
        await daemon.start()
        await daemon.sync()
        assert daemon.started() == []
        second = work.pushed({"workflows/a.yml": ON_PUSH.format("two")})
        await daemon.sync()
        assert daemon.started() == [("workflows/a.yml", second)]
        work.git("reset", "--quiet", "--hard", "HEAD~1")
        forced = work.pushed({"workflows/a.yml": ON_PUSH.format("three")})
        await daemon.sync()
        assert daemon.started() == [("workflows/a.yml", forced)]
        work.push("HEAD:refs/heads/side")
        await daemon.sync()
        work.git("push", "--quiet", "origin", ":refs/heads/side")
        await daemon.sync()
        assert [fact.ref for fact in daemon.facts() if isinstance(fact, events.RefRemoved)] == ["refs/heads/side"]
        daemon.started()
        await daemon.restart()
        await daemon.sync()
        assert daemon.started() == []
        await daemon.stop()


async def test_the_interval_notices_a_push(remote: RemoteRepository) -> None:
    """No call of `sync` is needed."""
    remote.work.pushed({"workflows/a.yml": ON_PUSH.format("one")})
    with remote.served():
        settings = msgspec.structs.replace(remote.settings, interval_ms=100)
        daemon = Daemon(settings, open_source=lambda s: remote.opener().open(s))
        await daemon.start()
        await daemon.sync()
        second = remote.work.pushed({"workflows/a.yml": ON_PUSH.format("two")})
        await daemon.until(lambda: len(daemon.runs.started) == 1)
        assert daemon.started() == [("workflows/a.yml", second)]
        assert daemon.condition(ConditionType.WATCHING) == (False, "polled")
        assert daemon.condition(ConditionType.READY)[0] is True
        await daemon.stop()


async def test_a_remote_that_hangs_affects_only_its_own_repository(remote: RemoteRepository) -> None:
    """The other one is applied meanwhile; the first one reports a timeout, and recovers without help."""
    remote.work.pushed({"workflows/a.yml": ON_PUSH.format("one")})
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    daemon_answer = git_servers.git_daemon(remote.root)
    is_answering = False

    def answer(connection: socket.socket) -> None:
        if is_answering:
            daemon_answer(connection)
            return
        loop.call_soon_threadsafe(gate.set)
        while connection.recv(4_096):
            pass

    with git_servers.serving(answer) as hanging, remote.served():
        bad = msgspec.structs.replace(
            remote.settings, name="bad", url=f"git://127.0.0.1:{hanging}/ops.git", fetch_timeout_ms=8_000
        )
        daemon = Daemon(remote.settings, bad, open_source=lambda s: remote.opener().open(s))
        await daemon.start()
        async with asyncio.timeout(PATIENCE_S):
            await gate.wait()
        await daemon.sync("ops")
        assert daemon.condition(ConditionType.READY)[0] is True
        await daemon.until(lambda: daemon.condition(ConditionType.FETCHED, "bad")[0] is False)
        condition = daemon.reconciler.loop("bad").repository.conditions.get(ConditionType.READY)
        assert condition.code == codes.TOO_SLOW
        assert "timed out after 8 s" in condition.text
        assert "(never fetched)" in condition.text
        is_answering = True
        await daemon.until(lambda: daemon.condition(ConditionType.READY, "bad")[0] is True)
        await daemon.stop()


async def test_a_suspended_remote_is_not_fetched(remote: RemoteRepository) -> None:
    """It is fetched again once it is resumed."""
    remote.work.pushed({"workflows/a.yml": ON_PUSH.format("one")})
    requested = []
    real = git_servers.git_daemon(remote.root)

    def counting(connection: socket.socket) -> None:
        requested.append(1)
        real(connection)

    with remote.served(counting):
        settings = msgspec.structs.replace(remote.settings, interval_ms=100)
        daemon = Daemon(settings, open_source=lambda s: remote.opener().open(s))
        await daemon.start()
        await daemon.sync()
        await daemon.admin.suspend("ops", "ada")
        # A fetch in progress finishes; later ones do nothing.
        daemon.reconciler.loop("ops").request_reconciliation()
        await daemon.until(lambda: daemon.condition(ConditionType.READY)[1] == codes.SUSPENDED)
        await daemon.restart()
        await daemon.until(lambda: daemon.condition(ConditionType.READY)[1] == codes.SUSPENDED)
        before = len(requested)
        second = remote.work.pushed({"workflows/a.yml": ON_PUSH.format("two")})
        daemon.reconciler.loop("ops").request_reconciliation()
        with pytest.raises(Exception, match="suspended"):
            await daemon.sync()
        assert (len(requested), daemon.started()) == (before, [])
        await daemon.admin.resume("ops", "ada")
        await daemon.until(lambda: len(daemon.runs.started) == 1)
        assert daemon.started() == [("workflows/a.yml", second)]
        await daemon.stop()


async def test_a_missing_repository_needs_a_person(remote: RemoteRepository) -> None:
    """The message says what is wrong, over each transport."""
    with remote.served_by("https"):
        source = remote.open(url=remote.settings.url.replace("ops.git", "none.git"))
        with pytest.raises(Stalled, match="no such repository") as caught:
            await source.refs()
        assert caught.value.code == codes.NOT_A_REPOSITORY
