"""`file/transfer` from and to SFTP: OpenSSH's server, and an asyncssh server that lies, hangs or vanishes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.integration.remote import git_servers
from tests.integration.remote.git_servers import Sshd
from tests.integration.transfer.transfer_harness import leftovers, served, signalled, transfer
from tests.patience import PATIENCE_S
from waterflow_agent.attempts import Outcome
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.node import Context, NodeFailure
from waterflow_agent.nodes.transfer import names
from waterflow_agent.nodes.transfer.node import FileTransferNode
from waterflow_agent.testing import NodeRun

CONTENT = os.urandom(5 << 20)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    with git_servers.sshd(tmp_path / "ssh") as server:
        with server.configuration.open("a") as file:
            file.write("Subsystem sftp internal-sftp\n")
        yield server


@pytest.fixture
def far(tmp_path: Path) -> Path:
    folder = tmp_path / "far"
    folder.mkdir()
    return folder


@pytest.fixture
def near(tmp_path: Path) -> Path:
    folder = tmp_path / "near"
    folder.mkdir()
    return folder


def send(directory: Path, server: Sshd, source: object, destination: object, **more: Any) -> NodeRun:
    access: dict[str, Any] = {"private-key": str(server.key), "known-hosts": str(server.known_hosts)}
    return transfer(directory, source, destination, **{**access, **more})


def address(server: Sshd, path: object) -> str:
    return f"sftp://{server.user}@127.0.0.1:{server.port}{path}"


@pytest.mark.parametrize("content", [b"", b"small", CONTENT], ids=["empty", "small", "large"])
def test_a_file_is_uploaded_and_downloaded_unchanged(sshd: Sshd, near: Path, far: Path, content: bytes) -> None:
    """Missing folders are created, mode and checksum are kept, and an existing file is replaced."""
    (near / "a").write_bytes(content)
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    for _ in range(2):
        remote_path = send(near, sshd, "a", address(sshd, far / "new/ü b"), mode="0640", checksum=checksum)
        assert remote_path.outcome is Outcome.SUCCESS, remote_path
        assert remote_path.outputs == {"bytes": len(content), "files": 1, "checksum": checksum}
    assert (far / "new/ü b").read_bytes() == content
    assert (far / "new/ü b").stat().st_mode & 0o7777 == 0o640
    back = send(near, sshd, address(sshd, far / "new/ü b"), "b", checksum=checksum)
    assert back.outcome is Outcome.SUCCESS, back
    assert (near / "b").read_bytes() == content
    assert not leftovers(far)


def test_folders_and_patterns_work_in_both_directions(sshd: Sshd, near: Path, far: Path) -> None:
    """Links on the server are skipped; a single file goes into an existing folder."""
    for name in ("in/a.gz", "in/sub/b.gz", "in/sub/.c"):
        (near / name).parent.mkdir(parents=True, exist_ok=True)
        (near / name).write_text(name)
    ended = send(near, sshd, "in", address(sshd, far / "x"))
    assert ended.outcome is Outcome.SUCCESS, ended
    (far / "x/link").symlink_to("/etc/passwd")
    (far / "x/links").symlink_to("/etc")
    ended = send(near, sshd, address(sshd, far / "x"), "out")
    assert ended.outcome is Outcome.SUCCESS, ended
    assert ended.printed.count("it is not a regular file") == 2
    names = sorted(str(path.relative_to(near / "out")) for path in (near / "out").rglob("*") if path.is_file())
    assert names == ["a.gz", "sub/.c", "sub/b.gz"]
    ended = send(near, sshd, address(sshd, far / "x/**/*.gz"), address(sshd, far / "y"))
    assert ended.outputs["files"] == 2, ended
    assert (far / "y/sub/b.gz").read_text() == "in/sub/b.gz"
    ended = send(near, sshd, "in/a.gz", address(sshd, far / "y/sub"))
    assert (far / "y/sub/a.gz").read_text() == "in/a.gz", ended


def test_without_a_mode_files_are_0644(sshd: Sshd, near: Path, far: Path) -> None:
    """Without a mode it is 0644, whatever the umask of the server is."""
    (near / "a").write_text("x")
    (far / "there").write_text("old")
    (far / "there").chmod(0o600)
    send(near, sshd, "a", address(sshd, far / "there"))
    send(near, sshd, "a", address(sshd, far / "new"))
    assert (far / "there").read_text() == "x"
    assert [(far / name).stat().st_mode & 0o7777 for name in ("there", "new")] == [0o600, 0o644]


@pytest.mark.root
def test_an_owner_is_set_by_number(sshd: Sshd, near: Path, far: Path) -> None:
    """The protocol has no user names."""
    (near / "a").write_text("x")
    ended = send(near, sshd, "a", address(sshd, far / "a"), owner="12345:23456")
    assert ended.outcome is Outcome.SUCCESS, ended
    assert ((far / "a").stat().st_uid, (far / "a").stat().st_gid) == (12345, 23456)


def test_an_unknown_host_key_is_reported_with_the_next_step(sshd: Sshd, near: Path, far: Path) -> None:
    """The same holds for a changed host key; the password is not sent to such a server."""
    (near / "a").write_text("x")
    displayed = git_servers.fingerprint(sshd.host_key)
    sshd.known_hosts.write_text("")
    unknown = send(near, sshd, "a", address(sshd, far / "a"))
    sshd.trust(git_servers.make_key(sshd.directory / "other"))
    other = send(near, sshd, "a", address(sshd, far / "a"))
    pinned = send(near, sshd, "a", address(sshd, far / "a"), **{"known-hosts": None, "host-key": "SHA256:" + "A" * 43})
    for ended in (unknown, other, pinned):
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
        assert f"the server offered ssh-ed25519 {displayed}; next: if the operator of the server confirms" in ended.text
        assert f"ssh-keyscan -p {sshd.port} 127.0.0.1" in ended.text
    assert sshd.known_hosts.read_text().count("\n") == 1
    assert list(far.iterdir()) == []


def test_a_host_key_can_be_pinned_in_three_ways(sshd: Sshd, near: Path, far: Path) -> None:
    """A host key can be pinned by fingerprint, as a key, or by a file with hashed names."""
    (near / "a").write_text("x")
    public = Path(f"{sshd.host_key}.pub").read_text()
    for host_key in (git_servers.fingerprint(sshd.host_key), public):
        ended = send(near, sshd, "a", address(sshd, far / "a"), **{"known-hosts": None, "host-key": host_key})
        assert ended.outcome is Outcome.SUCCESS, ended
    sshd.hash_names()
    assert send(near, sshd, "a", address(sshd, far / "a")).outcome is Outcome.SUCCESS


def test_a_key_may_be_a_secret_s_text(sshd: Sshd, near: Path, far: Path) -> None:
    """The key may have a passphrase, and may lack its final newline, as secrets do."""
    (near / "a").write_text("x")
    text = sshd.key.read_text().rstrip("\n")
    assert send(near, sshd, "a", address(sshd, far / "a"), private_key=text).outcome is Outcome.SUCCESS
    locked = asyncssh.read_private_key(sshd.key).export_private_key("openssh", passphrase="hunter2").decode()
    more = {"private-key": locked, "passphrase": "hunter2"}
    assert send(near, sshd, "a", address(sshd, far / "a"), **more).outcome is Outcome.SUCCESS
    for more in ({"private-key": locked}, {"private-key": locked, "passphrase": "wrong"}):
        ended = send(near, sshd, "a", address(sshd, far / "a"), **more)
        assert (ended.exit_code, ended.text) == (
            1, "private-key: invalid key; passphrase is missing or wrong",
        )  # fmt: skip
        assert "hunter2" not in ended.printed


def test_a_permanent_error_is_exit_code_1(sshd: Sshd, near: Path, far: Path) -> None:
    """Each error has a clear message that contains no secret."""
    (near / "a").write_text("x")
    (far / "file").write_text("x")
    remote_path = address(sshd, far / "x")
    stranger = git_servers.make_key(sshd.directory / "stranger")
    (near / "known").write_bytes(b"\xff hunter2")
    for source, destination, more, text in (
        ("a", remote_path, {"private-key": None}, "sftp needs private-key or password"),
        ("a", remote_path, {"private-key": str(stranger)}, "authentication failed"),
        ("a", remote_path, {"private-key": None, "password": "hunter2"}, "authentication failed"),
        ("a", remote_path, {"private-key": "-----BEGIN hunter2"}, "private-key: invalid key"),
        ("a", remote_path, {"private-key": "/none"}, "neither a key nor a readable file: No such file"),
        ("a", remote_path, {"host-key": "x"}, "mutually exclusive"),
        ("a", remote_path, {"host-key": "x", "known-hosts": None}, "host-key: expected SHA256:"),
        ("a", remote_path, {"known-hosts": "/none"}, "known-hosts: /none: No such file"),
        ("a", remote_path, {"known-hosts": "known"}, "known-hosts: "),
        (address(sshd, far / "none"), "b", {}, f"cannot stat {far}/none at sftp://{sshd.user}@127.0.0.1"),
        (address(sshd, far / "*.none"), "b", {}, "no such file"),
        ("a", remote_path, {"checksum": "sha256:" + "0" * 64}, "checksum mismatch"),
    ):
        ended = send(near, sshd, source, destination, **more)
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), (source, destination, more, ended)
        assert text in ended.text, (source, destination, ended.text)
        assert "hunter2" not in ended.text + ended.printed
    assert [path.name for path in far.iterdir()] == ["file"]
    assert not (near / "b").exists()


def test_an_unreachable_server_is_a_temporary_failure(near: Path) -> None:
    """No server listens on the port."""
    (near / "a").write_text("x")
    ended = transfer(near, "a", "sftp://127.0.0.1:9/x", password="x")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert ended.text == "cannot connect to sftp://127.0.0.1:9/x: Connection refused"


def test_a_cancel_removes_partial_files(sshd: Sshd, near: Path, far: Path) -> None:
    """The source pauses in the middle; the old file is unchanged."""
    (far / "x").write_text("old")
    go_on = threading.Event()

    def stall(request: Any) -> None:
        request.reply(200, CONTENT[: 9 << 19], length=len(CONTENT))
        go_on.wait(PATIENCE_S)

    with served(stall) as server:
        params = {"source": f"{server.url}/a", "destination": address(sshd, far / "x")}
        params |= {"private-key": str(sshd.key), "known-hosts": str(sshd.known_hosts)}
        ended = signalled(near, params, lambda: any(path.stat().st_size for path in leftovers(far)))
        go_on.set()
    assert ended.returncode == 143, ended.stdout
    assert [path.name for path in far.iterdir()] == ["x"]
    assert (far / "x").read_text() == "old"


class Odd(asyncssh.SFTPServer):
    """A server with scripted behaviour, below a folder of the test."""

    root: Path
    #: Called before each write with the number of bytes written so far.
    before_write: Callable[[int, Any], None] = staticmethod(lambda count, connection: None)
    before_read: Callable[[int, Any], None] = staticmethod(lambda count, connection: None)
    #: Additional names in its listings.
    lies: tuple[str, ...] = ()

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        super().__init__(chan)
        self._connection = chan.get_connection()

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        for name in self.lies:
            yield asyncssh.SFTPName(
                name.encode(), attrs=asyncssh.SFTPAttrs(type=1, size=4, permissions=0o100644, mtime=0)
            )
        async for found in super().scandir(path):
            yield found

    def write(self, file_obj: object, offset: int, data: bytes) -> Any:
        self.before_write(offset, self._connection)
        return super().write(file_obj, offset, data)

    def read(self, file_obj: object, offset: int, size: int) -> Any:
        self.before_read(offset, self._connection)
        return super().read(file_obj, offset, size)


@contextlib.contextmanager
def odd(**attributes: Any) -> Iterator[tuple[int, str]]:
    """Runs such a server in a thread; yields its port and key. It accepts anyone with the password `secret`."""
    kind = type("OddOne", (Odd,), {k: staticmethod(v) if callable(v) else v for k, v in attributes.items()})
    key = asyncssh.generate_private_key("ssh-ed25519")

    class Door(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return password == "secret"

    loop = asyncio.new_event_loop()
    ready = threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        server = await asyncssh.listen("127.0.0.1", 0, server_host_keys=[key], server_factory=Door, sftp_factory=kind)
        ports.append(server.get_port())
        ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    task = loop.create_task(serve())
    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield ports[0], key.get_fingerprint()
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def with_odd(directory: Path, server: tuple[int, str], source: object, destination: object, **more: Any) -> NodeRun:
    ends = [str(end).replace("ODD", f"sftp://ann@127.0.0.1:{server[0]}") for end in (source, destination)]
    return transfer(directory, *ends, **{"password": "secret", "host-key": server[1], **more})


def test_a_password_works_and_is_never_logged(near: Path, far: Path) -> None:
    """Both directions work with a server that is not OpenSSH's."""
    (near / "a").write_bytes(CONTENT)
    with odd() as server:
        remote_path = with_odd(near, server, "a", f"ODD{far}/a")
        back = with_odd(near, server, f"ODD{far}/a", "b", checksum=SHA256)
        wrong = with_odd(near, server, f"ODD{far}/a", "c", password="hunter2")
    assert (remote_path.exit_code, back.exit_code, wrong.exit_code) == (0, 0, 1), (remote_path, back, wrong)
    assert (near / "b").read_bytes() == CONTENT
    assert "hunter2" not in wrong.text + wrong.printed


@pytest.mark.parametrize("lie", ["../../etc/cron.d/evil", "/etc/passwd", "sub/evil", "new\nline", "\x1b[31m", ""])
def test_names_in_a_listing_cannot_leave_the_folder(near: Path, far: Path, lie: str) -> None:
    """No file is written, and the names are escaped in the message."""
    (far / "a").write_text("x")
    with odd(lies=(lie,)) as server:
        ended = with_odd(near, server, f"ODD{far}", "out")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert "nothing was written" in ended.text
    assert list(near.iterdir()) == []


def test_a_server_that_vanishes_halfway_leaves_no_partial_file(near: Path, far: Path) -> None:
    """This holds in both directions; partial files on the server are removed over a new connection."""
    (near / "a").write_bytes(CONTENT)
    (far / "x").write_bytes(CONTENT)
    (far / "b").write_text("old")
    closed: list[int] = []

    def vanish(count: int, connection: asyncssh.SSHServerConnection) -> None:
        if count > 1 << 20 and len(closed) < 2:
            closed.append(count)
            connection.abort()

    with odd(before_write=vanish) as server:
        remote_path = with_odd(near, server, "a", f"ODD{far}/b")
    assert (remote_path.outcome, remote_path.exit_code) == (Outcome.FAILURE, 75), remote_path
    closed.clear()
    with odd(before_read=vanish) as server:
        back = with_odd(near, server, f"ODD{far}/x", "b")
    assert (back.outcome, back.exit_code) == (Outcome.FAILURE, 75), back
    assert (far / "b").read_text() == "old"
    assert sorted(path.name for path in (*near.iterdir(), *far.iterdir())) == ["a", "b", "x"]


def test_a_stalled_server_times_out(near: Path, far: Path) -> None:
    """Each request has a timeout."""
    (far / "x").write_bytes(CONTENT)
    go_on = threading.Event()
    with odd(before_read=lambda count, connection: go_on.wait(PATIENCE_S)) as server:
        ended = with_odd(near, server, f"ODD{far}/x", "b", timeout="2s")
        go_on.set()
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert list(near.iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_refused(near: Path, far: Path) -> None:
    """The file has grown by the time its end is reached."""
    (far / "x").write_bytes(CONTENT)

    def grow(count: int, connection: asyncssh.SSHServerConnection) -> None:
        if (far / "x").stat().st_size == len(CONTENT):
            with (far / "x").open("ab") as file:
                file.write(b"more")

    with odd(before_read=grow) as server:
        ended = with_odd(near, server, f"ODD{far}/x", "b")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert "changed while it was being read" in ended.text
    assert list(near.iterdir()) == []


def test_a_full_disk_at_the_server_is_a_temporary_failure(near: Path, far: Path) -> None:
    """No partial file is left on the server."""
    (near / "a").write_bytes(CONTENT)

    def fill(count: int, connection: asyncssh.SSHServerConnection) -> None:
        if count > 1 << 20:
            raise asyncssh.SFTPFailure("No space left on device")

    with odd(before_write=fill) as server:
        ended = with_odd(near, server, "a", f"ODD{far}/b")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert "No space left on device" in ended.text
    assert list(far.iterdir()) == []


def test_too_many_files_are_a_failure(near: Path, far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is checked before anything is written; the server's listing is endless."""
    monkeypatch.setattr(names, "FILES_MAX", 2)
    for name in ("a", "b", "c"):
        (far / name).write_text("x")
    with odd() as (port, key):
        values = schema.FileTransfer(
            source=f"sftp://ann@127.0.0.1:{port}{far}", destination="out", password="secret", host_key=key
        )
        context = Context(directory=near, workspace=near, env={})
        with pytest.raises(NodeFailure, match="has more than 2 files; transfer it in parts"):
            asyncio.run(FileTransferNode().run(context, values))
    assert list(near.iterdir()) == []
