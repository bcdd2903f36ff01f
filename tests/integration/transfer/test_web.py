"""`file/transfer` from and to HTTP servers on loopback, with and without TLS."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.remote import git_servers
from tests.integration.transfer.transfer_harness import Request, leftovers, served, signalled, transfer
from tests.patience import PATIENCE_S
from waterflow_agent.attempts import Outcome

CONTENT = os.urandom(5 << 20)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def test_a_file_is_fetched_and_verified(tmp_path: Path) -> None:
    """The file name is the last part of the address; the query is never logged."""
    with served(lambda request: request.reply(200, CONTENT)) as server:
        ended = transfer(tmp_path, f"{server.url}/v1/app%20x.tar?token=hunter2", "in/", checksum=SHA256)
    assert ended.outcome is Outcome.SUCCESS, ended
    assert ended.outputs == {"bytes": len(CONTENT), "files": 1, "checksum": SHA256}
    assert (tmp_path / "in/app x.tar").read_bytes() == CONTENT
    assert "hunter2" not in ended.printed


def test_an_invalid_download_never_replaces_the_file(tmp_path: Path) -> None:
    """After a wrong checksum or a truncated answer the old file is unchanged, and no partial file remains."""
    (tmp_path / "a").write_text("old")

    def cut(request: Request) -> None:
        request.reply(200, CONTENT[:3_000_000], length=len(CONTENT))
        request.close_connection = True

    with served(lambda request: request.reply(200, CONTENT)) as server:
        wrong = transfer(tmp_path, f"{server.url}/a", "a", checksum="sha256:" + "1" * 64)
    with served(cut) as server:
        short = transfer(tmp_path, f"{server.url}/a", "a")
    assert (wrong.exit_code, short.exit_code) == (1, 75), (wrong, short)
    assert SHA256 in wrong.text
    assert (tmp_path / "a").read_text() == "old"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("status", "exit_code"), [(401, 1), (403, 1), (404, 1), (408, 75), (429, 75), (500, 75), (503, 75), (304, 1)]
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_refused_status_is_temporary_or_permanent(tmp_path: Path, method: str, status: int, exit_code: int) -> None:
    """The message has the beginning of the answer, and no secret part of the address."""
    (tmp_path / "a").write_text("x")

    def answer(request: Request) -> None:
        request.body()
        request.reply(status, b"" if status == 304 else b"because " * 100)

    with served(answer) as server:
        address = f"{server.url.replace('://', '://ann:hunter2@')}/x?key=hunter2"
        ended = transfer(tmp_path, *((address, "b") if method == "GET" else ("a", address)))
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, exit_code), ended
    assert f"{method} http://localhost:" in ended.text
    assert f"status {status}" in ended.text
    assert len(ended.text) < 400
    assert "hunter2" not in ended.text + ended.printed
    assert not (tmp_path / "b").exists()


def test_headers_are_not_sent_to_another_server(tmp_path: Path) -> None:
    """A redirect to another server is followed without the step's headers, and never from https to http."""
    tls = git_servers.authority(tmp_path / "tls")
    with served(lambda request: request.reply(200, CONTENT)) as other, served(lambda request: None) as first:

        def move(request: Request) -> None:
            if request.path == "/again":
                request.reply(302, location="/away")
            else:
                request.reply(307, location=f"{other.url}/file")

        first.answer = move
        ended = transfer(tmp_path, f"{first.url}/again", "a", headers={"Authorization": "Bearer hunter2"})
        assert ended.outcome is Outcome.SUCCESS, ended
        assert [headers.get("authorization") for _, _, headers in first.seen] == ["Bearer hunter2"] * 2
        assert [headers.get("authorization") for _, _, headers in other.seen] == [None]
        with served(move, tls) as safe:
            ended = transfer(tmp_path, f"{safe.url}/x", "b", verify=str(tls))
            assert ended.exit_code == 1, ended
            assert "from https to http" in ended.text

        def turn(request: Request) -> None:
            request.body()
            request.reply(302, location="/round")

        first.answer = turn
        ended = transfer(tmp_path, f"{first.url}/round", "b")
        assert "more than 5 redirects" in ended.text
        ended = transfer(tmp_path, "a", f"{first.url}/put")
        assert "redirects of a PUT are not followed" in ended.text


def test_certificates_are_checked(tmp_path: Path) -> None:
    """Certificates are checked with the system's authorities, with the given one, or not at all."""
    tls = git_servers.authority(tmp_path / "tls")
    with served(lambda request: request.reply(200, b"x"), tls) as server:
        refused = transfer(tmp_path, f"{server.url}/a", "a")
        assert (refused.outcome, refused.exit_code) == (Outcome.FAILURE, 1), refused
        assert "CERTIFICATE_VERIFY_FAILED" in refused.text
        assert transfer(tmp_path, f"{server.url}/a", "a", verify=str(tls)).outcome is Outcome.SUCCESS
        assert transfer(tmp_path, f"{server.url}/a", "a", verify=False).outcome is Outcome.SUCCESS
        missing = transfer(tmp_path, f"{server.url}/a", "a", verify="/none.pem")
        assert missing.text == "verify: /none.pem: No such file or directory"


def test_an_upload_announces_its_length_and_keeps_names(tmp_path: Path) -> None:
    """A folder is uploaded below the address; content of unknown length is sent in chunks."""
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/a b").write_bytes(CONTENT)
    (tmp_path / "in/sub/ü#?").write_bytes(b"")
    got: dict[str, bytes] = {}

    def answer(request: Request) -> None:
        if request.command == "GET":
            request.send_response(200)
            request.end_headers()
            request.wfile.write(CONTENT)
            request.close_connection = True
        else:
            got[request.path] = request.body()
            request.reply(201)

    with served(answer) as server:
        ended = transfer(tmp_path, "in", f"{server.url}/dav/", headers={"X-A": "b"})
        assert ended.outcome is Outcome.SUCCESS, ended
        assert got == {"/dav/a%20b": CONTENT, "/dav/sub/%C3%BC%23%3F": b""}
        assert [headers.get("content-length") for _, _, headers in server.seen] == [str(len(CONTENT)), "0"]
        assert server.seen[0][2]["x-a"] == "b"
        ended = transfer(tmp_path, f"{server.url}/source", f"{server.url}/other")
        assert ended.outcome is Outcome.SUCCESS, ended
        assert got["/other"] == CONTENT


def test_a_file_that_changes_while_it_is_sent_is_never_complete(tmp_path: Path) -> None:
    """The server reads the body only after the file has grown, and never receives the announced number of bytes."""
    growing = tmp_path / "growing.log"
    growing.write_bytes(bytes(64 << 20))
    got: list[int] = []

    def answer(request: Request) -> None:
        first = request.rfile.read(1 << 20)
        with growing.open("ab") as file:
            file.write(b"more")
        got.append(len(first) + len(request.rfile.read((64 << 20) - len(first))))

    with served(answer) as server:
        ended = transfer(tmp_path, "growing.log", f"{server.url}/log")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert "changed while it was being read" in ended.text
    assert all(count < 64 << 20 for count in got)


def stalled(go_on: threading.Event) -> Callable[[Request], None]:
    """Sends most of the file, and then nothing."""

    def answer(request: Request) -> None:
        request.reply(200, CONTENT[: 9 << 19], length=len(CONTENT))
        go_on.wait(PATIENCE_S)

    return answer


def test_a_silent_server_times_out(tmp_path: Path) -> None:
    """The failure is temporary, and the partial file is removed."""
    go_on = threading.Event()
    with served(stalled(go_on)) as server:
        ended = transfer(tmp_path, f"{server.url}/a", "a", timeout="500ms")
        go_on.set()
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert list(tmp_path.iterdir()) == []


def test_a_cancel_removes_the_partial_download(tmp_path: Path) -> None:
    """The old file is unchanged."""
    go_on = threading.Event()
    (tmp_path / "a").write_text("old")
    with served(stalled(go_on)) as server:
        params = {"source": f"{server.url}/a", "destination": "a"}
        # A temporary file that is not empty.
        ended = signalled(tmp_path, params, lambda: any(path.stat().st_size for path in leftovers(tmp_path)))
        go_on.set()
    assert ended.returncode == 143, ended.stdout
    assert ended.stdout.endswith(b"stopped\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_timeout_removes_the_partial_download(tmp_path: Path) -> None:
    """A timeout has the same effect as a cancel."""
    go_on = threading.Event()
    with served(stalled(go_on)) as server:
        ended = transfer(tmp_path, f"{server.url}/a", "a", step_timeout_s=2)
        go_on.set()
    assert ended.outcome is Outcome.TIMED_OUT, ended
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_a_temporary_failure(tmp_path: Path) -> None:
    """No server listens on the port; an invalid URL is a permanent failure."""
    (tmp_path / "a").write_text("x")
    assert transfer(tmp_path, "http://127.0.0.1:9/a", "b").exit_code == 75
    assert transfer(tmp_path, "a", "http://127.0.0.1:9/b").exit_code == 75
    for address in ("http://", "http://:x/a", "https://[::1/a", "http://host:99999/a"):
        ended = transfer(tmp_path, address, "b")
        assert ended.exit_code == 1, (address, ended)


@pytest.mark.parametrize("path", ["/..%2f..%2fetc%2fpasswd", "/..", "/a%00b", "/a%0ab"])
def test_a_name_from_a_url_cannot_leave_the_folder(tmp_path: Path, path: str) -> None:
    """Only a plain name can be used within a folder."""
    with served(lambda request: request.reply(200, b"x")) as server:
        ended = transfer(tmp_path, f"{server.url}{path}", "in/")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert list(tmp_path.iterdir()) == []


def test_files_transferred_before_a_failure_are_reported(tmp_path: Path) -> None:
    """The second of three files is refused: one has arrived, and the outputs say so."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "in" / name).write_text("four")

    def answer(request: Request) -> None:
        request.body()
        request.reply(503 if request.path.endswith("/b") else 201)

    with served(answer) as server:
        ended = transfer(tmp_path, "in", f"{server.url}/to/")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert (ended.outputs["files"], ended.outputs["bytes"]) == (1, 4)
    assert [path for _, path, _ in server.seen] == ["/to/a", "/to/b"]


def test_a_link_that_appears_while_files_are_sent_is_not_followed(tmp_path: Path) -> None:
    """The folder was a real one when it was listed; the link that replaced it leads elsewhere."""
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/a").write_text("x")
    (tmp_path / "in/sub/key").write_text("x")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("hunter2")
    got: list[bytes] = []

    def answer(request: Request) -> None:
        got.append(request.body())
        if len(got) == 1:
            (tmp_path / "in/sub").rename(tmp_path / "gone")
            (tmp_path / "in/sub").symlink_to(tmp_path / "secret")
        request.reply(201)

    with served(answer) as server:
        ended = transfer(tmp_path, "in", f"{server.url}/to/")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert "cannot read sub/key" in ended.text
    assert got[:1] == [b"x"]
    assert b"hunter2" not in b"".join(got)


def test_an_invalid_header_is_not_quoted(tmp_path: Path) -> None:
    """It may be a secret, for example one with a trailing newline."""
    (tmp_path / "a").write_text("x")
    with served(lambda request: request.reply(200)) as server:
        for ends in ((f"{server.url}/a", "b"), ("a", f"{server.url}/b")):
            ended = transfer(tmp_path, *ends, headers={"Authorization": "Bearer hunter2\n"})
            assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
            assert 'headers: invalid value of "Authorization"' in ended.text
            assert "hunter2" not in ended.text + ended.printed
        assert server.seen == []
