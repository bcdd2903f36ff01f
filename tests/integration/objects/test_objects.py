"""The object storage: the same behaviour on a file system and in a bucket, and what people are told when it fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.transfer.test_s3 import Bucket, bucket, moto, refusing
from tests.integration.transfer.transfer_harness import served
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.objects.opening import open_objects
from waterflowd.ports import Objects

__all__ = ["bucket", "moto"]

LARGE = os.urandom(2 << 20)


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-secret")


def s3(endpoint: str, address: str = "s3://bucket/some/prefix") -> Objects:
    return open_objects(address, {"AWS_ENDPOINT_URL": endpoint})


@pytest.fixture(params=["directory", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "directory":
        return open_objects(f"dir:{tmp_path}", {})
    return s3(request.getfixturevalue("bucket").endpoint)


async def test_an_object_is_read_as_it_was_stored(objects: Objects) -> None:
    """Empty, small and large ones; the newest content counts."""
    for key, content in (("a/empty", b""), ("a/small", b"\x00\xff"), ("large", LARGE)):
        await objects.put(key, content)
        assert await objects.get(key) == content
    await objects.put("a/small", b"other")
    assert await objects.get("a/small") == b"other"


async def test_what_is_not_there_is_none(objects: Objects) -> None:
    """Also below a key that is an object, and in folders that do not exist."""
    await objects.put("a/b", b"x")
    assert await objects.get("a/c") is None
    assert await objects.get("z/y/x") is None
    assert await objects.names("nothing/here") == []


async def test_names_are_those_directly_below_a_folder(objects: Objects) -> None:
    """Sorted; a folder whose name begins alike is another one."""
    for key in ("f/b", "f/a", "f/10", "f2/other", "f/deeper/c"):
        await objects.put(key, b"x")
    assert [name for name in await objects.names("f") if name != "deeper"] == ["10", "a", "b"]
    assert await objects.names("f2") == ["other"]


async def test_a_folder_may_have_more_objects_than_an_answer_of_the_service(bucket: Bucket) -> None:
    """Amazon and moto list a thousand at a time."""
    names = [f"{number:05d}" for number in range(1_030)]
    for name in names:
        bucket.put(f"some/prefix/f/{name}", b"x")
    assert await s3(bucket.endpoint).names("f") == names


async def test_objects_of_a_bucket_are_below_the_prefix(bucket: Bucket) -> None:
    """So that a bucket may serve several installations."""
    await s3(bucket.endpoint).put("a/b", b"x")
    await s3(bucket.endpoint, "s3://bucket").put("a/b", b"y")
    assert sorted(bucket.keys()) == ["a/b", "some/prefix/a/b"]
    assert bucket.get("some/prefix/a/b") == b"x"


async def test_a_file_that_was_not_finished_is_not_an_object(tmp_path: Path) -> None:
    """A daemon that died while it wrote one leaves a name that is never listed."""
    objects = open_objects(f"dir:{tmp_path}", {})
    await objects.put("a/b", b"x")
    (tmp_path / "a" / ".b.0123").write_bytes(b"half")
    assert await objects.names("a") == ["b"]
    assert {path.name for path in os.scandir(tmp_path / "a")} == {"b", ".b.0123"}


async def test_a_directory_that_is_not_mounted_is_an_error(tmp_path: Path) -> None:
    """An empty answer would mean that all output is gone."""
    path = tmp_path / "objects"
    path.mkdir()
    objects = open_objects(f"dir:{path}", {})
    path.rmdir()
    for call in (objects.names("a"), objects.put("a/b", b"x")):
        with pytest.raises(Retryable, match=r"WF322"):
            await call
    assert not path.exists()


async def test_a_missing_bucket_is_named(bucket: Bucket) -> None:
    """The text says what to do."""
    objects = s3(bucket.endpoint, "s3://other/x")
    for call in (objects.put("a", b"x"), objects.get("a"), objects.names("a")):
        with pytest.raises(Retryable, match=r"s3://other/x cannot be used: no such bucket; create it.*WF322"):
            await call


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (
            403,
            "AccessDenied",
            "access denied (AccessDenied); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy",
        ),
        (403, "SignatureDoesNotMatch", "access denied (SignatureDoesNotMatch)"),
        (400, "InvalidRequest", "status 400 (InvalidRequest)"),
        (503, "SlowDown", "status 503 (SlowDown)"),
    ],
)
async def test_a_refusal_has_the_error_code_of_the_service(status: int, code: str, text: str) -> None:
    """But not the rest of its answer, which may contain the whole request."""
    with served(refusing(status, code)) as server:
        for call in (s3(server.url).put("a", b"x"), s3(server.url).get("a"), s3(server.url).names("a")):
            with pytest.raises(Retryable) as found:
                await call
            assert found.value.code == "WF322"
            assert f"s3://bucket/some/prefix cannot be used: {text}" in found.value.text
            assert "hunter2" not in found.value.text


async def test_a_service_that_cannot_be_reached_is_an_error_that_passes() -> None:
    """Callers repeat what they wanted to store."""
    with pytest.raises(Retryable, match=r"its server cannot be reached, or did not answer in time.*WF322"):
        await s3("http://127.0.0.1:9").put("a", b"x")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("", "expected s3://bucket/prefix or dir:/path"),
        ("/srv/waterflow", "expected s3://bucket/prefix or dir:/path"),
        ("s3://", "expected s3://bucket/prefix"),
        ("s3://Bucket/x", "expected s3://bucket/prefix"),
        ("s3://bucket/../other", "expected s3://bucket/prefix"),
        ("s3://bucket//x", "expected s3://bucket/prefix"),
        ("dir:relative", "expected an absolute directory"),
        ("dir:/nowhere/at/all", "there is no such directory; create it for the user of the service"),
    ],
)
def test_an_invalid_address_says_what_is_expected(address: str, text: str) -> None:
    """Before anything is stored."""
    with pytest.raises(Rejected, match="WF620") as found:
        open_objects(address, {})
    assert text in found.value.text
