"""`file/transfer` from and to S3: moto's server, and servers that refuse, lie, hang or vanish."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.transfer.transfer_harness import Request, certified, leftovers, served, signalled, transfer
from tests.patience import PATIENCE_S
from waterflow_agent.attempts import Outcome
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.node import Context, NodeFailure
from waterflow_agent.nodes.transfer import names
from waterflow_agent.nodes.transfer.node import FileTransferNode

KEYS: dict[str, Any] = {"access-key": "AKIDTEST", "secret-key": "hunter2-secret"}
SMALL = os.urandom(1000)
#: Three parts of an upload.
LARGE = os.urandom(20 << 20)


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Bucket:
    """The bucket `bucket` of a moto server, and helpers to inspect it."""

    def __init__(self, endpoint: str, client: Any, backend: Any) -> None:
        self.endpoint = endpoint
        self.client = client
        self.backend = backend

    def put(self, key: str, content: bytes) -> None:
        """Stores an object, also under keys that no client would send."""
        self.backend.put_object("bucket", key, content)

    def get(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket="bucket", Key=key)["Body"].read()
        return content

    def keys(self) -> list[str]:
        return [found["Key"] for found in self.client.list_objects_v2(Bucket="bucket").get("Contents", [])]

    def uploads(self) -> list[str]:
        """Returns the keys with unfinished uploads."""
        return [found["Key"] for found in self.client.list_multipart_uploads(Bucket="bucket").get("Uploads", [])]


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import boto3
        from moto.server import ThreadedMotoServer
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        region_name="us-east-1",
    )
    yield f"http://{host}:{port}", client
    client.close()
    server.stop()


@pytest.fixture
def bucket(moto: tuple[str, Any]) -> Iterator[Bucket]:
    from moto.s3.models import s3_backends

    endpoint, client = moto
    backend = s3_backends["123456789012"]["aws"]
    backend.reset()
    client.create_bucket(Bucket="bucket")
    yield Bucket(endpoint, client, backend)
    backend.reset()


def send(directory: Path, bucket: Bucket, source: str, destination: str, **more: Any) -> Any:
    return transfer(directory, source, destination, **{"endpoint": bucket.endpoint, **KEYS, **more})


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "in parts"])
def test_a_file_is_uploaded_and_downloaded_unchanged(bucket: Bucket, tmp_path: Path, content: bytes) -> None:
    """The checksum is the same, and is verified in both directions."""
    (tmp_path / "a").write_bytes(content)
    uploaded = send(tmp_path, bucket, "a", "s3://bucket/back ups/ü#%25+a", checksum=sha256(content))
    assert uploaded.outcome is Outcome.SUCCESS, uploaded
    assert uploaded.outputs == {"bytes": len(content), "files": 1, "checksum": sha256(content)}
    assert bucket.get("back ups/ü#%25+a") == content
    back = send(tmp_path, bucket, "s3://bucket/back ups/ü#%25+a", "b", checksum=sha256(content))
    assert back.outcome is Outcome.SUCCESS, back
    assert (tmp_path / "b").read_bytes() == content
    assert "hunter2" not in uploaded.printed + back.printed


def test_an_upload_does_not_abort_the_process_at_exit(bucket: Bucket, tmp_path: Path) -> None:
    """Threads of the library outlived the transfer and aborted the process while the interpreter exited."""
    (tmp_path / "a").write_bytes(LARGE)
    ended = [send(tmp_path, bucket, "a", "s3://bucket/a") for _ in range(8)]
    assert [one.exit_code for one in ended] == [0] * 8, ended


def test_keys_can_come_from_the_environment(bucket: Bucket, tmp_path: Path) -> None:
    """Environment variables work as they do in other tools; parameters take precedence."""
    (tmp_path / "a").write_bytes(SMALL)
    env = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": bucket.endpoint}
    assert transfer(tmp_path, "a", "s3://bucket/one", env=env).outcome is Outcome.SUCCESS
    env["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    assert transfer(tmp_path, "a", "s3://bucket/two", env=env, endpoint=bucket.endpoint).outcome is Outcome.SUCCESS
    assert bucket.keys() == ["one", "two"]


def test_folders_and_patterns_work_in_both_directions(bucket: Bucket, tmp_path: Path) -> None:
    """Names below the folder are kept; folder markers are not files, and keys with only the same prefix are skipped."""
    for name in ("in/a.gz", "in/sub/b.gz", "in/sub/c.txt", "in/empty"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name.endswith("empty") else name.encode())
    ended = send(tmp_path, bucket, "in", "s3://bucket/x/")
    assert ended.outcome is Outcome.SUCCESS, ended
    assert bucket.keys() == ["x/a.gz", "x/empty", "x/sub/b.gz", "x/sub/c.txt"]
    bucket.put("x/mark/", b"")
    bucket.put("x/sub/", b"")
    bucket.put("xyz", b"not below")
    ended = send(tmp_path, bucket, "s3://bucket/x/", "out")
    assert ended.outcome is Outcome.SUCCESS, ended
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert names == ["a.gz", "empty", "sub/b.gz", "sub/c.txt"]
    ended = send(tmp_path, bucket, "s3://bucket/x/**/*.gz", "s3://bucket/y/")
    assert ended.outputs["files"] == 2
    assert bucket.get("y/sub/b.gz") == b"in/sub/b.gz"
    ended = send(tmp_path, bucket, "s3://bucket/*", "all")
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["xyz"], ended


def test_a_folder_marker_is_not_a_file(bucket: Bucket, tmp_path: Path) -> None:
    """A folder that contains nothing else is empty, which is a failure."""
    bucket.put("x/", b"")
    ended = send(tmp_path, bucket, "s3://bucket/x/", "out")
    assert (ended.exit_code, ended.text) == (1, "s3://bucket/x/: no such file")


def test_errors_have_a_clear_message_without_secrets(bucket: Bucket, tmp_path: Path) -> None:
    """Each of these errors is permanent."""
    (tmp_path / "a").write_bytes(SMALL)
    for source, destination, more, text in (
        ("s3://bucket/none", "b", {}, f"s3://bucket/none: no such object at {bucket.endpoint}; append a slash"),
        ("s3://none-such/x", "b", {}, "s3://none-such/x"),
        ("s3://none-such/", "b", {}, "no such bucket"),
        ("a", "s3://none-such/x", {}, f"s3://none-such/x: no such bucket at {bucket.endpoint}"),
        ("a", "s3://bucket/a//b", {}, "invalid key"),
        ("a", "s3://bucket/../b", {}, "invalid key"),
        ("a", "s3://bucket/x\ny", {}, "invalid key"),
        ("a", "s3://bucket/x", {"secret-key": None}, "must be set together"),
        ("a", "s3://bucket/x", {"endpoint": "127.0.0.1:9"}, "starts with https://"),
        ("a", "s3://bucket/x", {"access-key": None, "secret-key": None}, "no credentials; next: set access-key"),
    ):
        ended = send(tmp_path, bucket, source, destination, **more)
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), (source, destination, ended)
        assert text in ended.text, (source, destination, ended.text)
        assert "hunter2" not in ended.text + ended.printed
    assert bucket.keys() == []


def test_a_checksum_mismatch_creates_no_object(bucket: Bucket, tmp_path: Path) -> None:
    """The checksum is only known at the end; after a mismatch no part remains on the server."""
    bucket.put("x", b"old")
    (tmp_path / "a").write_bytes(LARGE)
    for name in ("x", "y"):
        ended = send(tmp_path, bucket, "a", f"s3://bucket/{name}", checksum=sha256(b""))
        assert (ended.exit_code, ended.outputs["files"]) == (1, 0), ended
        assert sha256(LARGE) in ended.text
    assert bucket.get("x") == b"old"
    assert bucket.keys() == ["x"]
    assert bucket.uploads() == []


def test_a_cancel_removes_uploaded_parts(bucket: Bucket, tmp_path: Path) -> None:
    """The source pauses in the middle, when the server has parts; after the cancel it has none."""
    go_on = threading.Event()

    def stall(request: Request) -> None:
        request.reply(200, LARGE[: 19 << 20], length=len(LARGE))
        go_on.wait(PATIENCE_S)

    with served(stall) as server:
        params = {"source": f"{server.url}/a", "destination": "s3://bucket/x", "endpoint": bucket.endpoint, **KEYS}
        ended = signalled(tmp_path, params, bucket.uploads)
        go_on.set()
    assert ended.returncode == 143, ended.stdout
    assert bucket.keys() == []
    assert bucket.uploads() == []


@pytest.mark.parametrize("key", ["x/../../etc/cron.d/evil", "x//etc/passwd", "x/new\nline", "x/./a"])
def test_names_in_a_listing_cannot_leave_the_folder(bucket: Bucket, tmp_path: Path, key: str) -> None:
    """No file is written."""
    bucket.put("x/a", SMALL)
    bucket.put(key, b"evil")
    (tmp_path / "work").mkdir()
    ended = send(tmp_path / "work", bucket, "s3://bucket/x/", "out")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert list(tmp_path.rglob("*")) == [tmp_path / "work"]


def refusing(status: int, code: str) -> Callable[[Request], None]:
    def answer(request: Request) -> None:
        request.body()
        request.reply(status, f"<Error><Code>{code}</Code><Key>hunter2</Key></Error>".encode(), content_type="text/xml")

    return answer


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "text"),
    [
        (403, "AccessDenied", 1, "access denied (AccessDenied); next: check access-key"),
        (403, "SignatureDoesNotMatch", 1, "access denied (SignatureDoesNotMatch)"),
        (400, "InvalidRequest", 1, "status 400 (InvalidRequest)"),
        (503, "SlowDown", 75, "status 503 (SlowDown)"),
        (500, "InternalError", 75, "status 500 (InternalError)"),
    ],
)
def test_a_refusal_is_temporary_or_permanent_by_its_error_code(
    tmp_path: Path, status: int, code: str, exit_code: int, text: str
) -> None:
    """The message contains the server's error code, but not the rest of its answer."""
    (tmp_path / "a").write_bytes(SMALL)
    with served(refusing(status, code)) as server:
        ended = transfer(tmp_path, "a", "s3://bucket/x", endpoint=server.url, **KEYS)
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, exit_code), ended
    assert text in ended.text
    assert "hunter2" not in ended.text + ended.printed


def test_an_unreachable_or_stalled_server_is_a_temporary_failure(tmp_path: Path) -> None:
    """Each request has a timeout, so the failure is reported in time."""
    (tmp_path / "a").write_bytes(SMALL)
    go_on = threading.Event()
    away = transfer(tmp_path, "a", "s3://bucket/x", endpoint="http://127.0.0.1:9", **KEYS)
    with served(lambda request: (go_on.wait(PATIENCE_S), None)[1]) as server:
        still = transfer(tmp_path, "a", "s3://bucket/x", endpoint=server.url, timeout="300ms", **KEYS)
        go_on.set()
    nowhere = transfer(tmp_path, "a", "s3://bucket/x", endpoint="http://me:hunter2@nowhere.invalid:9", **KEYS)
    for ended, text in (
        (away, "http://127.0.0.1:9: Connection refused"),
        (still, f"{server.url}: the request timed out, or the connection was closed"),
        (nowhere, "http://nowhere.invalid:9: its host name has no address"),
    ):
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
        assert ended.text == f"s3://bucket/x: cannot reach {text}"


def test_certificates_are_checked(bucket: Bucket, tmp_path: Path) -> None:
    """Certificates are checked with the system's authorities, with the given one, or not at all."""
    (tmp_path / "a").write_bytes(SMALL)
    authority, certificate = certified(tmp_path)

    def answer(request: Request) -> None:
        request.body()
        request.reply(200, etag='"x"')

    with served(answer, certificate) as server:
        refused = transfer(tmp_path, "a", "s3://bucket/x", endpoint=server.url, **KEYS)
        assert (refused.outcome, refused.exit_code) == (Outcome.FAILURE, 1), refused
        assert f"the certificate of {server.url} is not trusted" in refused.text
        for verify, signed in ((str(authority), "UNSIGNED-PAYLOAD"), (False, sha256(SMALL).removeprefix("sha256:"))):
            ended = transfer(tmp_path, "a", "s3://bucket/x", endpoint=server.url, verify=verify, **KEYS)
            assert ended.outcome is Outcome.SUCCESS, ended
            # An attacker in between must not be able to change what is sent.
            assert server.seen[-1][2]["x-amz-content-sha256"] == signed
        missing = transfer(tmp_path, "a", "s3://bucket/x", endpoint=server.url, verify="/none.pem", **KEYS)
        assert missing.text == "verify: /none.pem: No such file or directory"


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(tmp_path: Path) -> None:
    """The second range is only valid for the object that the first one has read."""
    first, second = bytes(16 << 20), b"x" * (16 << 20)
    seen: list[str] = []

    def answer(request: Request) -> None:
        size = str(len(first))
        if request.command == "HEAD":
            request.reply(200, first, etag='"1"', last_modified="Tue, 24 Nov 2026 10:00:00 GMT")
            return
        seen.append(request.headers["if-match"])
        begin, end = (int(part) for part in request.headers["range"].removeprefix("bytes=").split("-"))
        if begin == 0:
            headers: dict[str, Any] = {"content_range": f"bytes {begin}-{end}/{size}", "etag": '"1"'}
            request.reply(206, first[begin : end + 1], last_modified="Tue, 24 Nov 2026 10:00:00 GMT", **headers)
        else:
            assert second
            request.reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")

    with served(answer) as server:
        ended = transfer(tmp_path, "s3://bucket/x", "a", endpoint=server.url, **KEYS)
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert ended.text == "s3://bucket/x changed while it was being read"
    assert set(seen) == {'"1"'}
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_vanishes_halfway_leaves_no_partial_file(tmp_path: Path) -> None:
    """Each answer is cut off before its end."""

    def answer(request: Request) -> None:
        if request.command == "HEAD":
            request.reply(200, LARGE, etag='"1"', last_modified="Tue, 24 Nov 2026 10:00:00 GMT")
            return
        begin, end = (int(part) for part in request.headers["range"].removeprefix("bytes=").split("-"))
        part = LARGE[begin : end + 1]
        headers = {"content_range": f"bytes {begin}-{end}/{len(LARGE)}", "etag": '"1"'}
        headers["last_modified"] = "Tue, 24 Nov 2026 10:00:00 GMT"
        request.reply(206, part if begin == 0 else part[:1000], length=len(part), **headers)
        request.close_connection = True

    with served(answer) as server:
        ended = transfer(tmp_path, "s3://bucket/x", "a", endpoint=server.url, **KEYS)
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert list(tmp_path.iterdir()) == []
    assert not leftovers(tmp_path)


def test_too_many_objects_are_a_failure(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is checked before anything is written."""
    monkeypatch.setattr(names, "FILES_MAX", 2)
    for name in ("a", "b", "c"):
        bucket.put(f"x/{name}", SMALL)
    values = schema.FileTransfer(
        source="s3://bucket/x/", destination="out", endpoint=bucket.endpoint, access_key="a", secret_key="b"
    )
    context = Context(directory=tmp_path, workspace=tmp_path, env={})
    with pytest.raises(NodeFailure, match="has more than 2 objects; transfer it in parts"):
        asyncio.run(FileTransferNode().run(context, values))
    assert list(tmp_path.iterdir()) == []
