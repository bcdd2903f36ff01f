"""The HTTP nodes against a real server on the loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from waterflow_agent.testing import NodeRun, run_node
from waterflow_agent.wire.messages import Outcome


class Server(ThreadingHTTPServer):
    """Answers as its paths say, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """`/status/N` answers N; `/busy` 503 with `Retry-After: 0` at first; `/later/N` 503 for the first N times."""

    server: Server

    def log_message(self, *_: Any) -> None:
        """Nothing: what went wrong is in the test."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        times = sum(path == self.path for _, path, _, _ in self.server.seen)
        parts = self.path.split("?")[0].strip("/").split("/")
        status, headers, content = 200, {"content-type": "application/json"}, b'{"ok": true}'
        if parts[0] == "status":
            status, content = int(parts[1]), b"why it went wrong"
        elif parts[0] == "busy" and times == 1:
            status, headers = 503, {"retry-after": "0"}
        elif parts[0] == "later" and times <= int(parts[1]):
            status = 503
        elif parts[0] == "large":
            content = b"x" * 100_000
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _answer


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(name: str, directory: Path, **params: object) -> NodeRun:
    return run_node(name, {key.replace("_", "-"): value for key, value in params.items()}, directory=directory)


def test_a_request_gives_status_headers_and_body(server: Server, tmp_path: Path) -> None:
    """Sent as it was written; JSON is parsed; a password and a query are in no log."""
    ended = run(
        "http/request", tmp_path, url=f"{server.url}/x?token=hunter2", method="POST",
        headers={"X-A": "b"}, query={"q": "ü"}, json={"n": 1},
    )  # fmt: skip
    assert ended.outcome is Outcome.SUCCESS, ended
    assert (ended.outputs["status"], ended.outputs["json"]) == (200, {"ok": True})
    method, _, headers, body = server.seen[0]
    assert (method, headers["x-a"], json.loads(body)) == ("POST", "b", {"n": 1})
    assert "hunter2" not in ended.printed


def test_a_refused_status_fails_with_the_beginning_of_the_body(server: Server, tmp_path: Path) -> None:
    """404 is for good, 503 may be tried again (exit code 75); outputs are kept."""
    ended = run("http/request", tmp_path, url=f"{server.url}/status/404")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1)
    assert "status 404" in ended.text
    assert "why it went wrong" in ended.printed
    assert ended.outputs["status"] == 404
    assert run("http/request", tmp_path, url=f"{server.url}/status/503").exit_code == 75
    assert run("http/request", tmp_path, url=f"{server.url}/status/404", expect_status=[404]).exit_code == 0


def test_a_server_that_asks_to_come_back_is_asked_again(server: Server, tmp_path: Path) -> None:
    """`Retry-After` is honoured by the node itself, once."""
    ended = run("http/request", tmp_path, url=f"{server.url}/busy")
    assert ended.outcome is Outcome.SUCCESS, ended
    assert len(server.seen) == 2


def test_what_cannot_be_reached_may_be_tried_again(tmp_path: Path) -> None:
    """A refused connection is 75; what is no address, or two bodies, never gets better."""
    ended = run("http/request", tmp_path, url="http://127.0.0.1:9/")
    assert ended.exit_code == 75, ended
    assert run("http/request", tmp_path, url="ftp://x/").exit_code == 1
    assert "only one of" in run("http/request", tmp_path, url="http://127.0.0.1:9/", body="a", json=1).text


def test_an_answer_is_bounded_and_can_be_saved(server: Server, tmp_path: Path) -> None:
    """Too large is a failure that leaves no file; saved is saved whole."""
    ended = run("http/request", tmp_path, url=f"{server.url}/large", max_bytes=1000)
    assert "more than 1000 bytes" in ended.text
    ended = run("http/request", tmp_path, url=f"{server.url}/large", save_to="out.bin")
    assert ended.outcome is Outcome.SUCCESS, ended
    assert (tmp_path / "out.bin").stat().st_size == 100_000
    assert ended.outputs["body"] == ""


def test_waiting_ends_when_the_server_is_ready_or_the_time_is_over(server: Server, tmp_path: Path) -> None:
    """Each attempt counts; what was last seen is said."""
    ended = run("http/wait", tmp_path, url=f"{server.url}/later/3", interval="20ms")
    assert ended.outcome is Outcome.SUCCESS, ended
    # More than four when an attempt was given up after its second, on a busy machine.
    assert ended.outputs["attempts"] >= 4
    ended = run("http/wait", tmp_path, url=f"{server.url}/status/500", interval="20ms", timeout="2s")
    assert ended.exit_code == 75
    assert "status 500" in ended.printed


@pytest.mark.parametrize(("template", "key"), [("slack", "text"), ("discord", "content"), ("teams", "attachments")])
def test_a_message_has_the_shape_of_its_service(server: Server, tmp_path: Path, template: str, key: str) -> None:
    """And is signed when there is a secret; the address is in no log."""
    ended = run(
        "notify/webhook", tmp_path, url=f"{server.url}/hook/hunter2", message="done ✓", template=template, secret="s3"
    )
    assert ended.outcome is Outcome.SUCCESS, ended
    _, _, headers, body = server.seen[0]
    assert key in json.loads(body)
    digest = hmac.new(b"s3", body, hashlib.sha256).hexdigest()
    assert headers["x-hub-signature-256"] == f"sha256={digest}"
    assert "hunter2" not in ended.printed + ended.text


def test_a_hook_that_refuses_is_a_failure_without_its_address(server: Server, tmp_path: Path) -> None:
    """The address of a hook is a secret."""
    ended = run("notify/webhook", tmp_path, url=f"{server.url}/status/500", message="x")
    assert ended.exit_code == 75
    assert "127.0.0.1" not in ended.text + ended.printed
