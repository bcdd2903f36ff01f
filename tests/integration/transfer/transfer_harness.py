"""Common helpers for tests of `file/transfer`: the node in its own process, and the files that it may leave behind."""

from __future__ import annotations

import http.server
import os
import signal
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.integration.remote import git_servers
from tests.integration.remote.git_servers import LOOPBACK
from tests.patience import PATIENCE_S, wait_until
from waterflow_agent.nodes import node_process, shell
from waterflow_agent.testing import NodeRun, run_node, task_id
from waterflow_agent.wire import messages


def transfer(
    directory: Path,
    source: object,
    destination: object,
    /,
    *,
    env: dict[str, str] | None = None,
    step_timeout_s: float = PATIENCE_S,
    **more: Any,
) -> NodeRun:
    """Runs the node to completion, in `directory`."""
    params = {"source": str(source), "destination": str(destination)}
    options = {name.replace("_", "-"): value for name, value in more.items()}
    return run_node(
        "file/transfer", params | options, directory=directory, env=_environment(env), timeout_s=step_timeout_s
    )


#: No settings of the user, and no cloud metadata service that could provide keys.
ENVIRONMENT = {"HOME": "/nonexistent", "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*"}


def _environment(env: dict[str, str] | None) -> dict[str, str]:
    return {**ENVIRONMENT, **(env or {})}


def leftovers(folder: Path) -> list[Path]:
    """Returns the temporary files below a folder."""
    return list(folder.rglob(".waterflow-*"))


def signalled(
    directory: Path,
    params: dict[str, Any],
    is_time: Callable[[], object],
    *,
    node: str = "file/transfer",
    env: dict[str, str] | None = None,
    after: Callable[[], object] = lambda: None,
) -> subprocess.CompletedProcess[bytes]:
    """Starts the node, sends it a cancel's signal at the right moment, then calls `after`, and returns how it ended."""
    with tempfile.TemporaryDirectory() as files:
        task = messages.Task(
            key=task_id("run", "job", "step", 1, 1), node=node, params=params, env=_environment(env),
            step_name="a", working_directory=None, timeout_ms=60_000, stop_signal="SIGTERM", grace_ms=10_000,
            output_bytes_max=1 << 20, boot_id="", instance="",
        )  # fmt: skip
        location = shell.AttemptLocation(files=files, workspace=str(directory), temp=f"{files}/temp", agent="test")
        command = node_process.prepare(task, location, shell.inherited(os.environ))
        process = subprocess.Popen(
            command.argv, cwd=directory, env=command.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            wait_until(lambda: is_time() or process.poll() is not None, "the right moment")
            process.send_signal(signal.SIGTERM)
            after()
            printed, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait()
    return subprocess.CompletedProcess(command.argv, process.returncode, printed)


class Request(http.server.BaseHTTPRequestHandler):
    """One request; the server's `answer` handles it."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Logs nothing: the test reports what went wrong."""

    def _answer(self) -> None:
        self.server.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        with suppress(OSError):
            self.server.answer(self)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

    def body(self) -> bytes:
        """Returns the whole body, or what was received of it."""
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        content = b""
        while size := int(self.rfile.readline() or b"0", 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def reply(self, status: int, content: bytes = b"", /, *, length: int | None = None, **headers: str) -> None:
        """Sends a complete answer, or with `length` only the beginning of one."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Server(http.server.ThreadingHTTPServer):
    """A server for one test; it records the requests that it received."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Callable[[Request], None]) -> None:
        super().__init__((LOOPBACK, 0), Request)
        self.answer = answer
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.scheme = "http"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores the error: tests disconnect peers on purpose."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.server_address[1]}"


def certified(folder: Path) -> tuple[Path, Path]:
    """Returns the certificate of an authority, and one that it signed for localhost, with its key beside it."""
    authority = git_servers.authority(folder / "authority")
    mine = folder / "server"
    mine.mkdir()
    for line in (
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
        f" -addext subjectAltName=DNS:localhost -keyout {mine}/key.pem -out {mine}/request",
        f"x509 -req -in {mine}/request -days 2 -CA {authority} -CAkey {authority.with_name('key.pem')} -CAcreateserial"
        f" -copy_extensions copy -out {mine}/certificate.pem",
    ):
        subprocess.run(["openssl", *line.split()], check=True, capture_output=True)
    return authority, mine / "certificate.pem"


@contextmanager
def served(answer: Callable[[Request], None], certificate: Path | None = None) -> Iterator[Server]:
    """Serves in threads; with a certificate over TLS."""
    server = Server(answer)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
