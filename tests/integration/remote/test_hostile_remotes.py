"""Remotes that hang, are slow, vanish, lie or send too much: a clear error in time, and no leftovers."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import zlib
from collections.abc import AsyncIterator
from hashlib import sha1
from pathlib import Path

import msgspec
import pytest

from tests.integration.remote import git_servers
from tests.integration.remote.git_servers import RemoteRepository, contents
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource.remote import fetcher
from waterflowd.gitsource.remote.fetch_protocol import FetchRequest, Limits, RemoteCredentials
from waterflowd.gitsource.remote.fetcher import Fetcher
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.reconcile import codes


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[RemoteRepository]:
    remote = RemoteRepository(tmp_path)
    yield remote
    await remote.close()


def packet(content: bytes) -> bytes:
    return f"{len(content) + 4:04x}".encode() + content


def fetch_children() -> list[int]:
    """Returns the fetch processes started by this one, and their children: a child leads its own session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if b"fetch_child" in line and parent == os.getpid():
                found.append(int(entry.name))
    return found


async def test_a_silent_remote_times_out(remote: RemoteRepository) -> None:
    """It accepts the connection and sends nothing."""
    with remote.served(lambda connection: connection.recv(1 << 16, socket.MSG_WAITALL)):
        source = remote.open(fetch_timeout_ms=1_000)
        with pytest.raises(Retryable, match=r"timed out after 1 s.*\(never fetched\)") as caught:
            await source.refs()
    assert caught.value.code == codes.TOO_SLOW
    assert fetch_children() == []


async def test_a_remote_that_sends_single_bytes_times_out(remote: RemoteRepository) -> None:
    """Each byte arrives before a timeout for silence would expire."""
    has_ended = threading.Event()

    def dribble(connection: socket.socket) -> None:
        for byte in packet(b"version 2\n") * 100:
            connection.sendall(bytes([byte]))
            if has_ended.wait(0.05):
                return

    with remote.served(dribble):
        source = remote.open(fetch_timeout_ms=1_000)
        with pytest.raises(Retryable, match="timed out after"):
            await source.refs()
        has_ended.set()


@pytest.mark.parametrize("count", [0, 3, 50, 1_000, 60_000])
async def test_a_remote_that_vanishes_during_a_fetch_changes_nothing(remote: RemoteRepository, count: int) -> None:
    """The server vanishes within a number, the refs or the pack; the next fetch is complete."""
    remote.work.pushed({"workflows/a.yml": "a: 1\n", "large": os.urandom(60_000).hex()})
    with remote.served(git_servers.cut_after(git_servers.git_daemon(remote.root), count)):
        source = remote.open()
        with pytest.raises(Retryable) as caught:
            await source.refs()
    assert caught.value.code in (codes.NOT_THERE, codes.OBJECT_UNREADABLE)
    assert remote.packs() == 0
    with remote.served():
        source = remote.open()
        assert await contents(source, await source.refs()) == {"workflows/a.yml": b"a: 1\n"}
    assert not list(remote.mirror.glob("objects/tmp_*"))


@pytest.mark.parametrize(
    "message",
    [
        b"HTTP/1.0 400 Bad Request\r\n\r\n",
        b"\0" * 64,
        packet(b"version 3\n"),
        packet(b"ERR access denied: \x1b[31m<b>\n"),
        packet(b"version 2\n") + b"0000" + packet(b"0" * 40 + b" refs/heads/x") + b"0000",
        packet(b"nonsense refs/heads/main\0caps\n") + b"0000",
        packet(b"version 2\n") + packet(b"ls-refs\n") + packet(b"fetch=shallow\n") + b"0000" + packet(b"z" * 40 + b" HEAD")
        + b"0000",
        packet(b"version 2\n") + packet(b"fetch=shallow\n") + b"0000" + packet(b"a" * 64 + b" HEAD") + b"0000",
        packet(b"version 2\n") + packet(b"fetch=shallow\n") + b"0000" + packet(b"a" * 40 + b" HEAD") + b"0000"
        + packet(b"packfile\n") + packet(b"\1not a pack at all") + b"0000",
        packet(b"version 2\n") + packet(b"fetch=shallow\n") + b"0000" + packet(b"a" * 40 + b" HEAD") + b"0000"
        + packet(b"packfile\n") + packet(b"\1PACK\0\0\0\2\0\0\0\0" + sha1(b"PACK\0\0\0\2\0\0\0\0").digest()) + b"0000",
    ],
)  # fmt: skip
async def test_a_malformed_response_is_a_clear_error(remote: RemoteRepository, message: bytes) -> None:
    """The message contains no traceback and no control character."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4_096):
            pass

    with remote.served(answer):
        source = remote.open(fetch_timeout_ms=120_000)
        with pytest.raises((Retryable, Stalled)) as caught:
            await source.refs()
    assert caught.value.code in (codes.NOT_THERE, codes.NOT_A_REPOSITORY, codes.OBJECT_UNREADABLE)
    assert "\x1b" not in caught.value.text
    assert "Traceback" not in caught.value.text


def request(remote: RemoteRepository, port: int, **limits: float) -> FetchRequest:
    objects = remote.root / "objects"
    (objects / "pack").mkdir(parents=True)
    return FetchRequest(
        url=RemoteUrl(scheme="git", host="127.0.0.1", port=port, path="/ops.git"),
        credentials=RemoteCredentials(),
        limits=msgspec.convert(limits, Limits),
        objects=str(objects),
        patterns=(),
    )


async def test_a_pack_beyond_the_limit_is_refused(remote: RemoteRepository) -> None:
    """It is refused before its bytes are on disk."""
    remote.work.pushed({"workflows/a.yml": "a: 1\n", "large": os.urandom(1 << 20).hex()})
    with remote.served():
        source = remote.open(fetch_bytes_max=1 << 20)
        with pytest.raises(Stalled, match=r"more than 1,048,576 bytes.*fetch-max-bytes") as caught:
            await source.refs()
    assert caught.value.code == codes.FETCH_LIMIT
    assert remote.packs() == 0


async def test_a_pack_with_too_many_objects_is_refused(remote: RemoteRepository) -> None:
    """The number in its header is checked."""
    remote.work.pushed({f"{number}": str(number) for number in range(20)})
    with (
        git_servers.serving(git_servers.git_daemon(remote.root)) as port,
        pytest.raises(Stalled, match="22 objects; the maximum is 10") as caught,
    ):
        await Fetcher().fetch(request(remote, port, time_s=PATIENCE_S, objects=10))
    assert caught.value.code == codes.FETCH_LIMIT


async def test_an_object_that_inflates_beyond_the_memory_limit_fails_the_fetch(remote: RemoteRepository) -> None:
    """A few hundred kilobytes would inflate to half a gigabyte."""
    size = 512 << 20
    piece = bytes(1 << 20)
    digest, deflate = sha1(b"blob %d\0" % size), zlib.compressobj(1)
    content = deflate.compress(b"blob %d\0" % size)
    for _ in range(size // len(piece)):
        digest.update(piece)
        content += deflate.compress(piece)
    content += deflate.flush()
    folder = remote.work.bare / "objects" / digest.hexdigest()[:2]
    folder.mkdir()
    (folder / digest.hexdigest()[2:]).write_bytes(content)
    tree = remote.work.git("mktree", cwd=remote.work.bare, stdin=f"100644 blob {digest.hexdigest()}\tbomb\n")
    commit = remote.work.git("commit-tree", tree, "-m", "bomb", cwd=remote.work.bare)
    remote.work.git("update-ref", "refs/heads/main", commit, cwd=remote.work.bare)
    with git_servers.serving(git_servers.git_daemon(remote.root)) as port:
        bounded = request(remote, port, time_s=PATIENCE_S, memory_bytes=300 << 20, pack_bytes=20 << 20)
        with pytest.raises(Stalled, match="memory") as caught:
            await Fetcher().fetch(bounded)
    assert caught.value.code == codes.FETCH_LIMIT


async def test_remotes_that_hang_give_up_their_slots(remote: RemoteRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more of them than children may start at once, and one more that does not hang."""
    monkeypatch.setattr(fetcher, "_AT_ONCE", 2)
    monkeypatch.setattr(fetcher, "_SLOT_S", 0.2)
    remote.work.pushed({"workflows/a.yml": "a: 1\n"})

    def hang(connection: socket.socket) -> None:
        while connection.recv(4_096):
            pass

    with git_servers.serving(hang) as hanging, remote.served():
        opener = remote.opener()
        bad = [
            opener.open(
                msgspec.structs.replace(remote.settings, name=f"bad{number}", url=f"git://127.0.0.1:{hanging}/ops.git")
            )
            for number in range(4)
        ]
        asking = [asyncio.ensure_future(source.refs()) for source in bad]
        good = opener.open(remote.settings)
        async with asyncio.timeout(PATIENCE_S):
            assert (await good.refs()).head_ref == "refs/heads/main"
        assert not any(task.done() for task in asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        for source in [*bad, good]:
            await source.close()
    assert fetch_children() == []


async def test_a_cancelled_fetch_leaves_no_process(remote: RemoteRepository) -> None:
    """The daemon stops while a remote hangs."""
    is_asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(connection: socket.socket) -> None:
        loop.call_soon_threadsafe(is_asked.set)
        while connection.recv(4_096):
            pass

    with remote.served(hang):
        task = asyncio.ensure_future(remote.open().refs())
        async with asyncio.timeout(PATIENCE_S):
            await is_asked.wait()
        assert len(fetch_children()) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert fetch_children() == []


_LONE_DAEMON = """
import asyncio, sys
from pathlib import Path
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.reconcile.settings import RepositorySettings
settings = RepositorySettings(name="ops", url=sys.argv[1])
async def main():
    await RepositoryOpener(Path(sys.argv[2]), {}).open(settings).refs()
asyncio.run(main())
"""


async def test_a_fetch_ends_when_its_daemon_is_killed(remote: RemoteRepository) -> None:
    """Its input ends, so it does not write to a mirror that another daemon uses."""
    is_asked, has_ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(connection: socket.socket) -> None:
        loop.call_soon_threadsafe(is_asked.set)
        while connection.recv(4_096):
            pass
        # The child's exit closes its connection.
        loop.call_soon_threadsafe(has_ended.set)

    with remote.served(hang):
        daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _LONE_DAEMON, remote.settings.url, str(remote.root / "mirrors")
        )
        async with asyncio.timeout(PATIENCE_S):
            await is_asked.wait()
            daemon.kill()
            await daemon.wait()
            await has_ended.wait()
