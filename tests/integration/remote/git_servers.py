"""Remotes on loopback, served by the real Git: over `git://`, https with a test authority, and a real sshd."""

from __future__ import annotations

import base64
import getpass
import http.server
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.gitsource.lfs_server import LFS_CONTENTS, LfsServer
from tests.integration.reconcile.reconciler_harness import Work
from waterflowd.gitsource.remote.mirror import MirrorState
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.reconcile.settings import DEFAULT_FOLDERS, RepositorySettings
from waterflowd.reconcile.source import Refs, Source

Serve = Callable[[socket.socket], object]

LOOPBACK = "127.0.0.1"
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def environment(**more: str) -> dict[str, str]:
    """Returns an environment in which Git ignores the configuration of this machine."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", **more}


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores the error: tests disconnect peers on purpose."""


@contextmanager
def serving(answer: Serve) -> Iterator[int]:
    """Serves TCP; each connection is handled by the function in a thread. Yields the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                answer(self.request)

    with _Server((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _by(arguments: list[str], env: dict[str, str]) -> Serve:
    """Returns a handler that passes a connection to a program, as inetd does."""

    def answer(connection: socket.socket) -> None:
        process = subprocess.Popen(
            arguments, stdin=connection.fileno(), stdout=connection.fileno(), stderr=subprocess.DEVNULL, env=env
        )
        process.wait()

    return answer


def git_daemon(root: Path) -> Serve:
    """Runs `git daemon` for the repositories below `root`."""
    line = ["git", "daemon", "--inetd", "--export-all", f"--base-path={root}", str(root)]
    return _by(line, environment())


def old_git_daemon(root: Path) -> Serve:
    """Runs a server that only knows version 1 of the protocol."""

    def answer(connection: socket.socket) -> None:
        size = int(connection.recv(4, socket.MSG_WAITALL), 16)
        request = connection.recv(size - 4, socket.MSG_WAITALL)
        path = root / request.split(b"\0")[0].split(b" ", 1)[1].decode().lstrip("/")
        _by(["git", "upload-pack", str(path)], environment())(connection)

    return answer


def _answer_and_close(answer: Serve, connection: socket.socket) -> None:
    answer(connection)
    connection.close()


def cut_after(answer: Serve, count: int) -> Serve:
    """Runs a server that vanishes once it has sent this many bytes."""

    def cut(connection: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        threading.Thread(target=lambda: _quietly(lambda: _answer_and_close(answer, theirs)), daemon=True).start()
        threading.Thread(target=_copy, args=(connection, ours), daemon=True).start()
        left = count
        while left > 0 and (data := ours.recv(min(left, 4_096))):
            connection.sendall(data)
            left -= len(data)
        ours.close()
        # A thread reads from it, so closing it would not inform the other side.
        connection.shutdown(socket.SHUT_RDWR)

    return cut


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(4_096):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _quietly(function: Callable[[], object]) -> None:
    with suppress(OSError):
        function()


class Https:
    """The behaviour of an https server; tests change it while the server runs."""

    def __init__(self, root: Path, authority: Path) -> None:
        self.root = root
        #: The certificate to trust.
        self.authority = authority
        self.port = 0
        #: The `user:token` that is required, if any.
        self.login: str | None = None
        #: Status and headers that replace the answer.
        self.instead: tuple[int, dict[str, str]] | None = None
        #: Requests below the first path are sent to the second one.
        self.moved: tuple[str, str] | None = None
        #: Changes the body that is sent.
        self.edit: Callable[[str, bytes], bytes] = lambda path, body: body
        #: Always speaks version 1 of the protocol, whatever the client requests.
        self.forget_protocol = False
        #: What it has of Git LFS, if anything.
        self.lfs: LfsServer | None = None
        self.seen: list[tuple[str, str]] = []

    def authorization(self) -> str:
        """The header that a request needs."""
        return "Basic " + base64.b64encode((self.login or "").encode()).decode()

    def url(self, name: str = "ops.git") -> str:
        return f"https://localhost:{self.port}/{name}"


def authority(directory: Path) -> Path:
    """Creates a self-signed certificate for localhost, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    directory.mkdir(exist_ok=True)
    certificate = directory / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(directory / "key.pem"),
         "-out", str(certificate)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate


@contextmanager
def https(root: Path, *, is_plain: bool = False) -> Iterator[Https]:
    """Runs `git http-backend` with or without TLS."""
    certificate = Path() if is_plain else authority(root / "tls")
    behaviour = Https(root, certificate)

    class Handler(_Cgi):
        of = behaviour

    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    if not is_plain:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    behaviour.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield behaviour
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Cgi(http.server.BaseHTTPRequestHandler):
    """One request to `git http-backend`."""

    of: Https
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.of.seen.append((self.path, self.headers.get("Authorization") or ""))
        if self.of.instead is not None:
            self._send(*self.of.instead, b"")
            return
        if self.of.moved is not None and self.path.startswith(self.of.moved[0]):
            self._send(301, {"Location": self.path.replace(*self.of.moved)}, b"")
            return
        is_content = self.path.startswith(LFS_CONTENTS)
        if (
            self.of.login is not None
            and self.headers.get("Authorization") != self.of.authorization()
            and not is_content
        ):
            self._send(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
            return
        if self.of.lfs is not None:
            host = f"{'http' if self.of.authority == Path() else 'https'}://localhost:{self.of.port}"
            answer = self.of.lfs.answer(self.command, self.path, host, self.headers, body)
            if answer is not None:
                self._send(*answer)
                return
        path, _, query = self.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": str(self.of.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type") or "",
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": "" if self.of.forget_protocol else self.headers.get("Git-Protocol") or "",
        }
        done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=environment(**variables))
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        self._send(status, headers, self.of.edit(self.path, content))

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(content)


class Sshd:
    """A running sshd with its keys; it accepts one key for the user who runs the tests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.user = getpass.getuser()
        self.key = make_key(directory / "client")
        self.host_key = make_key(directory / "host")
        self.known_hosts = directory / "known_hosts"
        (directory / "authorized_keys").write_text(Path(f"{self.key}.pub").read_text())
        self.configuration = directory / "sshd_config"
        self.configuration.write_text(
            f"HostKey {self.host_key}\nAuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nPidFile none\n"
            "AcceptEnv GIT_PROTOCOL\nPrintMotd no\n"
        )

    def trust(self, key: Path) -> None:
        """Makes this host key the known one."""
        kind, text = Path(f"{key}.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[{LOOPBACK}]:{self.port} {kind} {text}\n")

    def hash_names(self) -> None:
        """Hashes the names in the known hosts file."""
        line = ["ssh-keygen", "-H", "-f", str(self.known_hosts)]
        subprocess.run(line, check=True, capture_output=True)

    def url(self, path: Path) -> str:
        return f"ssh://{self.user}@{LOOPBACK}:{self.port}{path}"


def make_key(path: Path) -> Path:
    """Creates an ed25519 key without a passphrase."""
    line = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(line, check=True, capture_output=True)
    return path


def fingerprint(key: Path) -> str:
    """Returns `SHA256:...` of a public key."""
    line = ["ssh-keygen", "-l", "-f", f"{key}.pub"]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()[1]


@contextmanager
def sshd(directory: Path) -> Iterator[Sshd]:
    """Runs sshd for one connection after another; its own known_hosts file trusts it."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("OpenSSH's client or server is not installed")
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("sshd as root needs the directory /run/sshd")
    directory.mkdir()
    server = Sshd(directory)
    with serving(_by([SSHD, "-i", "-f", str(server.configuration)], environment())) as port:
        server.port = port
        server.trust(server.host_key)
        yield server


class RemoteRepository:
    """A repository behind a server, and sources that read it over the network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = Work(root, "ops")
        self.settings = RepositorySettings(name="ops", url="git://127.0.0.1/ops.git", interval_ms=60_000)
        self.environment: dict[str, str] = {}
        self.opened: list[Source] = []

    @property
    def mirror(self) -> Path:
        return self.root / "mirrors" / "ops.git"

    def opener(self) -> RepositoryOpener:
        return RepositoryOpener(self.root / "mirrors", self.environment)

    def open(self, **changes: Any) -> Source:
        self.settings = msgspec.structs.replace(self.settings, **changes)
        self.opened.append(self.opener().open(self.settings))
        return self.opened[-1]

    async def close(self) -> None:
        for source in self.opened:
            await source.close()

    def mirror_state(self) -> MirrorState:
        return msgspec.json.decode((self.mirror / "waterflow.json").read_bytes(), type=MirrorState)

    def packs(self) -> int:
        return len(list(self.mirror.glob("objects/pack/*.pack")))

    @contextmanager
    def served(self, serve: Serve | None = None) -> Iterator[None]:
        """Serves the repository over `git://`."""
        with serving(serve or git_daemon(self.root)) as port:
            self.settings = msgspec.structs.replace(self.settings, url=f"git://127.0.0.1:{port}/ops.git")
            yield

    @contextmanager
    def served_by(self, transport: str) -> Iterator[None]:
        if transport == "https":
            with https(self.root) as server:
                server.login = "ada:geheim"
                self.environment["WATERFLOWD_GIT_TOKEN_OPS"] = "ada:geheim"
                self.settings = msgspec.structs.replace(self.settings, url=server.url(), ca_file=str(server.authority))
                yield
        elif transport == "ssh":
            with sshd(self.root / "ssh") as server:
                self.settings = msgspec.structs.replace(
                    self.settings,
                    url=server.url(self.work.bare),
                    ssh_key_file=str(server.key),
                    known_hosts_file=str(server.known_hosts),
                )
                yield
        else:
            with self.served(old_git_daemon(self.root) if transport == "old git" else None):
                yield


async def contents(source: Source, refs: Refs, ref: str = "refs/heads/main") -> dict[str, bytes | None]:
    """Returns the workflow files at a ref, by path."""
    revision = await source.revision(refs.object_ids[ref], None, DEFAULT_FOLDERS)
    blobs = await source.blobs([file.blob for file in revision.files])
    return {file.path: blobs[file.blob] for file in revision.files}


def shown_of(process: int) -> bytes:
    """Returns what other users can see of a process: its command line and its environment."""
    return b"".join(Path(f"/proc/{process}/{name}").read_bytes() for name in ("cmdline", "environ"))
