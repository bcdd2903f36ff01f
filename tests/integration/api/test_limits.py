"""Limits of the API on real sockets: rates, sizes, depths, connections, time. Exceeding any has a defined answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.integration.api.served import Served, serve
from tests.patience import PATIENCE_S
from waterflowd.access.roles import Role
from waterflowd.api import request_bodies, server
from waterflowd.testing.awaiting import until

YAML = {"Content-Type": "application/yaml"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(tmp_path, is_open=True) as made:
        yield made


def code(answered: httpx.Response) -> tuple[int, str]:
    """Returns status and code of a problem."""
    assert answered.headers["content-type"] == "application/problem+json"
    return answered.status_code, answered.json()["code"]


async def until_limited(client: httpx.AsyncClient) -> httpx.Response:
    """Sends requests until the rate limit is reached; how many that takes depends on the speed of the machine."""
    async with asyncio.timeout(PATIENCE_S):
        while (answered := await client.get("/v1/groups")).status_code != 429:
            assert answered.status_code in (200, 401)
    return answered


# Rates --------------------------------------------------------------------------------------------------------------------


async def test_each_principal_has_its_own_rate_limit(tmp_path: Path) -> None:
    """Beyond the limit there is a 429 with `Retry-After`; other principals and probes are not affected."""
    async with serve(tmp_path, requests_per_s=1) as served:
        fast, other = (served.harness.token(Role.VIEWER, name=name) for name in ("fast", "other"))
        async with served.tcp(fast) as client, served.tcp(other) as second, served.tcp() as anonymous:
            answers = [await client.get("/v1/groups") for _ in range(5)]
            assert [answered.status_code for answered in answers] == [200] * 5
            refused = await until_limited(client)
            assert code(refused) == (429, "WF611")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await second.get("/v1/groups")).status_code == 200
            assert (await anonymous.get("/health")).status_code == 200
            served.harness.clock.ahead_ms += 10_000
            assert (await client.get("/v1/groups")).status_code == 200


async def test_an_open_address_has_a_rate_limit_per_client_address(tmp_path: Path) -> None:
    """All clients have the same name, and are limited by address; the unix socket has a separate limit."""
    async with (
        serve(tmp_path, is_open=True, requests_per_s=1) as served,
        served.tcp() as client,
        served.unix() as socket,
    ):
        assert (await client.get("/v1/groups")).status_code == 200
        await until_limited(client)
        assert (await socket.get("/v1/groups")).status_code == 200


async def test_wrong_tokens_are_rate_limited_and_valid_ones_are_not(served: Served) -> None:
    """Guessing tokens leads to a 429; a valid token from the same address still works."""
    served.harness.services.is_open = False
    async with served.tcp("wf_wrong") as guessing, served.tcp(served.harness.token(Role.VIEWER)) as right:
        assert (await guessing.get("/v1/groups")).status_code == 401
        await until_limited(guessing)
        assert (await right.get("/v1/groups")).status_code == 200


# Bodies -------------------------------------------------------------------------------------------------------------------


async def test_a_body_that_is_too_large_is_a_413(served: Served) -> None:
    """The body is refused by its declared length before it is read, or otherwise by the received bytes."""
    large = b"a" * (request_bodies.BODY_BYTES_MAX + 1)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 1 << 16):
            yield large[start : start + (1 << 16)]

    for content in (large, pieces()):
        async with served.unix() as client:
            with contextlib.suppress(httpx.WriteError, httpx.ReadError):
                assert code(await client.post("/v1/runs", content=content, headers=YAML)) == (413, "WF607")
    async with served.unix() as client:
        answered = await client.post("/v1/runs", content=large[: request_bodies.BODY_BYTES_MAX], headers=YAML)
        assert answered.status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"yaml": "a", "vars": ' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}", 400),
        (b'{"yaml": "a", "inputs": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", 400),
        (b"[" * 500_000, 400),
        (b'{"yaml": "a", "vars": {"n": 99999999999999999999}}', 400),
        (b'{"yaml": "a", "vars": {"n": [' + b"1," * 60_000 + b"1]}}", 400),
        (b'{"yaml": "a", "yaml": "b", "odd": 1}', 400),
        (b'{"yaml": "\\ud800"}', 400),
        (b"\xff\xfe", 400),
        (b"null", 400),
    ],
    ids=["deep vars", "deep inputs", "only brackets", "large number", "many", "odd key", "half", "bytes", "null"],
)
async def test_json_that_is_too_deep_too_large_or_invalid_is_a_400(served: Served, body: bytes, status: int) -> None:
    """The answer is never a 500, and arrives without delay."""
    async with served.unix() as client:
        answered = await client.post("/v1/runs", content=body, headers=JSON)
        assert code(answered)[0] == status, answered.text


async def test_a_body_that_does_not_arrive_is_a_408(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is not kept open."""
    monkeypatch.setattr(request_bodies, "BODY_S_MAX", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(
        b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/yaml\r\nContent-Length: 9\r\n\r\na"
    )
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()


# Connections --------------------------------------------------------------------------------------------------------------


async def test_a_connection_without_a_request_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither silence nor half a request head keeps it open, but a stream does."""
    async with served.tcp() as client, client.stream("GET", "/v1/events") as stream:
        # Set only now, because the stream's own request may take longer.
        monkeypatch.setattr(server, "HEAD_S_MAX", 0.05)
        for content in (b"", b"GET /health HTTP/1.1\r\nHost: loc"):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
            writer.write(content)
            async with asyncio.timeout(PATIENCE_S):
                assert await reader.read() == b""
            writer.close()
        assert served.harness.api.streams.count == 1
        assert not stream.is_closed


async def test_connections_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection beyond the limit is closed at once; when another one closes, a new one is accepted."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    held = [await asyncio.open_connection("127.0.0.1", served.server.port) for _ in range(2)]

    async def is_cut() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        try:
            async with asyncio.timeout(PATIENCE_S):
                return not await reader.read()
        except ConnectionError:
            return True
        finally:
            writer.close()

    assert await is_cut()
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(PATIENCE_S):
        while await is_cut():
            pass


# Paths --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "a" * 10_000,
        "-1",
        "%F0%9F%98%80",
        "%ff",
        "..;/x",
        "%252e%252e",
        "01J%0d%0aX:%20y",
    ],
)
async def test_invalid_ids_are_a_404_everywhere(served: Served, text: str) -> None:
    """The ids are not echoed as a path, a header or a control character."""
    for path in ("/v1/runs/{}", "/v1/runs/{}/logs", "/v1/definitions/{}", "/v1/workflows/{}"):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        writer.write(f"GET {path.format(text)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            answered = await reader.read()
        writer.close()
        assert answered.startswith(b"HTTP/1.1 404"), answered[:300]
        head, _, body = answered.partition(b"\r\n\r\n")
        assert b"\nX:" not in head
        assert all(byte >= 0x20 for byte in body)


async def test_a_method_cannot_be_smuggled_in(served: Served) -> None:
    """Headers and parameters that override the method on other servers have no effect."""
    async with served.tcp(served.harness.token(Role.VIEWER)) as client:
        for headers in (
            {"X-HTTP-Method-Override": "DELETE"},
            {"X-HTTP-Method": "DELETE"},
            {"X-Method-Override": "POST"},
        ):
            answered = await client.get("/v1/runs?_method=DELETE", headers=headers)
            assert answered.status_code == 200
        assert (await client.request("TRACE", "/v1/runs")).status_code == 405
    await until(lambda: not served.harness.api.streams.count)
