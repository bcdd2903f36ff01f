"""The HTTP nodes against a real server on loopback."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.remote import git_servers
from tests.integration.transfer.transfer_harness import Request, served, signalled
from tests.patience import PATIENCE_S
from waterflow_agent.attempts import Outcome
from waterflow_agent.testing import NodeRun, run_node


class Server(ThreadingHTTPServer):
    """Answers as the paths say, and records the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.is_closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """`/status/N` answers N; `/busy` 503 with `Retry-After: 0` at first; `/later/N` 503 to N requests, `/stuck` to one."""

    server: Server

    def log_message(self, *_: Any) -> None:
        """Logs nothing: the test reports what went wrong."""

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
        elif parts[0] == "garbled":
            content = b"{"
        elif parts[0] == "charset":
            headers, content = {"content-type": f"text/plain; charset={parts[1]}"}, "größer".encode()
        elif parts[0] == "endless":
            self._answer_without_end(parts[1])
            return
        elif parts[0] == "stuck" and times == 1:
            status = 503
        elif parts[0] == "stuck":
            self._answer_without_end("headers")
            return
        elif parts[0] == "large":
            content = b"x" * 100_000
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer_without_end(self, where: str) -> None:
        """Sends a byte of the headers or of the body now and then, until the client is gone."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" if where == "headers" else b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while not self.server.is_closing.wait(0.05):
                self.wfile.write(b"X-A: b\r\n" if where == "headers" else b"x" * 65_536)

    do_GET = do_POST = do_PUT = _answer


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.is_closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def run(name: str, directory: Path, **params: object) -> NodeRun:
    return run_node(name, {key.replace("_", "-"): value for key, value in params.items()}, directory=directory)


def test_a_request_returns_status_headers_and_body(server: Server, tmp_path: Path) -> None:
    """The request is sent as written and JSON is parsed; passwords and queries are never logged."""
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
    """404 is permanent, 503 may be retried (exit code 75); the outputs are kept."""
    ended = run("http/request", tmp_path, url=f"{server.url}/status/404")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1)
    assert "status 404" in ended.text
    assert "why it went wrong" in ended.printed
    assert ended.outputs["status"] == 404
    assert run("http/request", tmp_path, url=f"{server.url}/status/503").exit_code == 75
    assert run("http/request", tmp_path, url=f"{server.url}/status/404", expect_status=[404]).exit_code == 0


def test_retry_after_is_honoured_once(server: Server, tmp_path: Path) -> None:
    """The node honours `Retry-After` itself, once."""
    ended = run("http/request", tmp_path, url=f"{server.url}/busy")
    assert ended.outcome is Outcome.SUCCESS, ended
    assert len(server.seen) == 2


def test_an_unreachable_server_is_a_temporary_failure(tmp_path: Path) -> None:
    """A refused connection gives exit code 75; an invalid URL, or two bodies, is permanent."""
    ended = run("http/request", tmp_path, url="http://127.0.0.1:9/")
    assert ended.exit_code == 75, ended
    assert run("http/request", tmp_path, url="ftp://x/").exit_code == 1
    assert "mutually exclusive" in run("http/request", tmp_path, url="http://127.0.0.1:9/", body="a", json=1).text


def test_a_response_is_limited_and_can_be_saved(server: Server, tmp_path: Path) -> None:
    """An oversized body is a failure that leaves no file; otherwise the complete body is saved."""
    ended = run("http/request", tmp_path, url=f"{server.url}/large", max_bytes=1000)
    assert "larger than 1000 bytes" in ended.text
    ended = run("http/request", tmp_path, url=f"{server.url}/large", save_to="out.bin")
    assert ended.outcome is Outcome.SUCCESS, ended
    assert (tmp_path / "out.bin").stat().st_size == 100_000
    assert ended.outputs["body"] == ""


def test_invalid_json_is_returned_as_text(server: Server, tmp_path: Path) -> None:
    """A body that is not valid JSON is still returned, as text."""
    ended = run("http/request", tmp_path, url=f"{server.url}/garbled")
    assert (ended.outcome, ended.outputs["json"], ended.outputs["body"]) == (Outcome.SUCCESS, None, "{")


def test_a_response_that_cannot_be_saved_leaves_no_partial_file(server: Server, tmp_path: Path) -> None:
    """If the body is too large or cannot be saved, an existing file is unchanged and no partial file remains."""
    (tmp_path / "out.bin").write_text("old")
    (tmp_path / "folder").mkdir()
    for url, save_to, text in (
        (f"{server.url}/large", "out.bin", "larger than 1000 bytes"),
        (server.url, "none/out.bin", "cannot write"),
        (server.url, "folder", "cannot write"),
    ):
        ended = run("http/request", tmp_path, url=url, save_to=save_to, max_bytes=1000)
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
        assert text in ended.text
        assert "Traceback" not in ended.printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "out.bin"]
    assert (tmp_path / "out.bin").read_text() == "old"


def test_a_cancel_leaves_no_partial_file(tmp_path: Path) -> None:
    """An existing file is unchanged."""
    (tmp_path / "out").write_text("old")
    go_on = threading.Event()

    def answer(request: Request) -> None:
        request.reply(200, b"x" * 1_000_000, length=2_000_000)
        go_on.wait(PATIENCE_S)

    with served(answer) as server:
        params = {"url": server.url, "save-to": "out", "max-bytes": 10_000_000}
        ended = signalled(tmp_path, params, lambda: len(list(tmp_path.iterdir())) == 2, node="http/request")
        go_on.set()
    assert ended.returncode == 143, ended.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "old"


@pytest.mark.root
def test_a_full_disk_is_a_temporary_failure(server: Server, tmp_path: Path) -> None:
    """A full disk is a temporary failure."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        ended = run("http/request", tmp_path, url=f"{server.url}/large", save_to="disk/out")
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
        assert os.strerror(errno.ENOSPC) in ended.text
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("node", ["http/request", "http/wait"])
@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"url": "http://"}, "invalid URL"),
        ({"url": "http://[::1/"}, "invalid URL (hidden)"),
        ({"expect-status": "200, fine"}, 'invalid status "fine"; use a number such as 200, or a class such as 2xx'),
        ({"timeout": "soon"}, "timeout: expected a duration such as 30s or a number of seconds, not 'soon'"),
        ({"timeout": 0}, "timeout: expected a duration"),
        ({"verify": "/none.pem"}, "verify: /none.pem: No such file or directory"),
    ],
)
def test_a_permanent_error_is_exit_code_1(tmp_path: Path, node: str, params: dict[str, object], text: str) -> None:
    """The message is clear and contains no traceback."""
    ended = run_node(node, {"url": "http://127.0.0.1:9/", **params}, directory=tmp_path)
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert text in ended.text
    assert "Traceback" not in ended.printed


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"method": "GE T"}, "method"),
        ({"headers": {"X-Token": "hunter2\nX-B: c"}}, 'headers: invalid value of "X-Token"'),
        ({"headers": {"X-Token": "hunter2 ü"}}, 'headers: invalid value of "X-Token"'),
        ({"headers": {"X Token": "hunter2"}}, 'headers: invalid header name "X Token"'),
        ({"retry-status": "never"}, 'invalid status "never"'),
    ],
)
def test_an_impossible_request_is_exit_code_1(
    server: Server, tmp_path: Path, params: dict[str, object], text: str
) -> None:
    """Nothing is sent, and the invalid value is not shown, because it may be a secret."""
    ended = run_node("http/request", {"url": server.url, **params}, directory=tmp_path)
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert text in ended.text
    assert "hunter2" not in ended.text + ended.printed
    assert server.seen == []


def test_certificates_are_checked(tmp_path: Path) -> None:
    """Checks use the system's authorities, the given one, or none; an untrusted server is a permanent failure."""
    tls = git_servers.authority(tmp_path / "tls")
    with served(lambda request: request.reply(200, b"x"), tls) as server:
        refused = run("http/request", tmp_path, url=server.url)
        assert (refused.outcome, refused.exit_code) == (Outcome.FAILURE, 1), refused
        assert "CERTIFICATE_VERIFY_FAILED" in refused.text
        hook = run("notify/webhook", tmp_path, url=f"{server.url}/hunter2", message="x")
        assert (hook.outcome, hook.exit_code) == (Outcome.FAILURE, 1), hook
        assert "hunter2" not in hook.text + hook.printed
        for node in ("http/request", "http/wait"):
            assert run(node, tmp_path, url=server.url, verify=str(tls)).outcome is Outcome.SUCCESS
            assert run(node, tmp_path, url=server.url, verify=False).outcome is Outcome.SUCCESS
        late = run("http/wait", tmp_path, url=server.url, timeout=1, interval=0.05)
        assert (late.outcome, late.exit_code) == (Outcome.FAILURE, 75), late
        assert "CERTIFICATE_VERIFY_FAILED" in late.text


def test_a_stalled_or_interrupted_response_is_a_temporary_failure(tmp_path: Path) -> None:
    """The attempt ends in time, and the message has the address without its query."""
    go_on = threading.Event()

    def answer(request: Request) -> None:
        if request.path.startswith("/still"):
            go_on.wait(PATIENCE_S)
        else:
            request.reply(200, b"beginning", length=100)
            request.close_connection = True

    with served(answer) as server:
        for path in ("still", "broken"):
            ended = run("http/request", tmp_path, url=f"{server.url}/{path}?key=hunter2", timeout="1s", save_to="out")
            assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
            assert ended.text.startswith(f"GET {server.url}/{path}: ")
            assert "hunter2" not in ended.text + ended.printed
        still = run("notify/webhook", tmp_path, url=f"{server.url}/still", message="x", timeout="1s")
        assert (still.outcome, still.exit_code) == (Outcome.FAILURE, 75), still
        assert still.text == "cannot reach the webhook: ReadTimeout"
        go_on.set()
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_when_the_server_is_ready_or_at_the_timeout(server: Server, tmp_path: Path) -> None:
    """The outputs count the attempts, and the log says what the last one saw."""
    ended = run("http/wait", tmp_path, url=f"{server.url}/later/3", interval="20ms")
    assert ended.outcome is Outcome.SUCCESS, ended
    # More than four if an attempt was abandoned after its second on a busy machine.
    assert ended.outputs["attempts"] >= 4
    ended = run("http/wait", tmp_path, url=f"{server.url}/status/500", interval="20ms", timeout="2s")
    assert ended.exit_code == 75
    assert "status 500" in ended.printed


@pytest.mark.parametrize(("template", "key"), [("slack", "text"), ("discord", "content"), ("teams", "attachments")])
def test_a_message_has_the_format_of_its_service(server: Server, tmp_path: Path, template: str, key: str) -> None:
    """The message is signed if there is a secret, and the address is never logged."""
    ended = run(
        "notify/webhook", tmp_path, url=f"{server.url}/hook/hunter2", message="done ✓", template=template, secret="s3"
    )
    assert ended.outcome is Outcome.SUCCESS, ended
    _, _, headers, body = server.seen[0]
    assert key in json.loads(body)
    digest = hmac.new(b"s3", body, hashlib.sha256).hexdigest()
    assert headers["x-hub-signature-256"] == f"sha256={digest}"
    assert "hunter2" not in ended.printed + ended.text


def test_a_refused_message_does_not_reveal_the_webhook_url(server: Server, tmp_path: Path) -> None:
    """The address of a hook is a secret, so the message does not contain it."""
    ended = run("notify/webhook", tmp_path, url=f"{server.url}/status/500", message="x")
    assert ended.exit_code == 75
    assert "127.0.0.1" not in ended.text + ended.printed


@pytest.mark.parametrize(
    ("params", "exit_code", "text"),
    [
        ({"message": "x", "url": "http://"}, 1, "invalid url"),
        ({"message": "x", "url": "ftp://127.0.0.1/hunter2"}, 1, "invalid url"),
        ({"message": "x", "url": "http://127.0.0.1:9/hunter2"}, 75, "cannot reach the webhook: ConnectError"),
        ({}, 1, "message or json is required"),
        ({"message": "x", "json": {"a": 1}}, 1, "message and json are mutually exclusive"),
        ({"message": "x", "template": "irc"}, None, "with.template: unknown value 'irc'"),
        ({"message": "x", "timeout": "soon"}, 1, "timeout: expected a duration"),
    ],
)
def test_an_unreachable_webhook_is_one_clear_message(
    tmp_path: Path, params: dict[str, object], exit_code: int | None, text: str
) -> None:
    """Only an unreachable server is a temporary failure."""
    ended = run_node("notify/webhook", {"url": "http://127.0.0.1:9/hunter2", **params}, directory=tmp_path)
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, exit_code), ended
    assert text in ended.text
    assert "hunter2" not in ended.text + ended.printed


def test_a_message_may_be_any_json(server: Server, tmp_path: Path) -> None:
    """JSON is sent unchanged; a plain message gets a default format."""
    run("notify/webhook", tmp_path, url=server.url, json={"a": [1, None]})
    run("notify/webhook", tmp_path, url=server.url, message="x")
    assert [json.loads(body) for _, _, _, body in server.seen] == [{"a": [1, None]}, {"message": "x"}]


@pytest.mark.parametrize(("status", "exit_code"), [(302, 1), (404, 1), (408, 75), (429, 75), (500, 75)])
def test_the_webhook_status_decides_whether_the_failure_is_temporary(
    server: Server, tmp_path: Path, status: int, exit_code: int
) -> None:
    """The status is also an output of the failed step."""
    ended = run("notify/webhook", tmp_path, url=f"{server.url}/status/{status}", message="x")
    assert (ended.exit_code, ended.text) == (exit_code, f"the webhook returned status {status}"), ended
    assert ended.outputs == {"status": status}


@pytest.mark.parametrize("charset", ["no-such-charset", "hex", "punycode", "utf-8"])
def test_an_unknown_charset_is_read_as_utf_8(server: Server, tmp_path: Path, charset: str) -> None:
    """What the server calls its text must not end the node with a traceback."""
    ended = run("http/request", tmp_path, url=f"{server.url}/charset/{charset}")
    assert ended.outcome is Outcome.SUCCESS, ended
    assert "Traceback" not in ended.printed
    assert charset == "punycode" or ended.outputs["body"] == "größer"


def test_waiting_reads_no_body_and_ends_in_time(server: Server, tmp_path: Path) -> None:
    """An endless body does not delay a response with the right status; endless headers end with the timeout."""
    ready = run("http/wait", tmp_path, url=f"{server.url}/endless/body", timeout="30s")
    assert (ready.outcome, ready.outputs["status"]) == (Outcome.SUCCESS, 200)
    stuck = run("http/wait", tmp_path, url=f"{server.url}/endless/headers", timeout="300ms", interval="100ms")
    assert stuck.outcome is Outcome.FAILURE
    assert "not ready after" in stuck.text


def test_waiting_says_what_was_wrong_before_the_last_attempt_was_cut_off(server: Server, tmp_path: Path) -> None:
    """The end of the time is no cause."""
    ended = run("http/wait", tmp_path, url=f"{server.url}/stuck", timeout="4s", interval="1s")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert ended.text.endswith("status 503"), ended.text
