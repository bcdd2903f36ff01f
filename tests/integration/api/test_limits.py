"""Limits of the API on real sockets: rates, sizes, depths, connections, time. Exceeding any has a defined answer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.integration.api.served import Served, serve
from tests.patience import PATIENCE_S
from waterflowd.access.roles import Role
from waterflowd.api import request_bodies, server
from waterflowd.api.access import auth, quotas
from waterflowd.api.connections import Connection, ConnectionTable
from waterflowd.fleet.events import AgentRevoked
from waterflowd.model.ids import FLEET, AgentId
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.rates import BucketPerName
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


async def test_each_principal_has_its_share_of_the_daemon_s_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A principal whose requests take too long in total is refused for a while; others are not affected."""
    monkeypatch.setattr(auth, "TIME_MS_BURST", 5.0)
    async with serve(tmp_path, requests_per_s=1_000_000) as served:
        greedy, other = (served.harness.token(Role.VIEWER, name=name) for name in ("greedy", "other"))
        served.harness.clock.now = lambda: 1_000_000  # type: ignore[method-assign]
        async with served.tcp(greedy) as client, served.tcp(other) as second:
            refused = await until_limited(client)
            assert code(refused) == (429, "WF611")
            wait_ms = int(refused.json()["detail"].partition("ms of the daemon's time per second; wait ")[2].split()[0])
            assert int(refused.headers["Retry-After"]) == max(1, math.ceil(wait_ms / 1000))
            assert (await second.get("/v1/groups")).status_code == 200
            served.harness.clock.now = lambda: 1_010_000  # type: ignore[method-assign]
            assert (await client.get("/v1/groups")).status_code == 200


async def test_what_a_stream_takes_is_charged_to_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it continues. It rests when its client has no time left, whose requests are refused; later it continues."""
    buckets: list[BucketPerName] = []

    def recorded(per_s: float, burst: float, names_max: int) -> BucketPerName:
        buckets.append(BucketPerName(per_s, burst, names_max))
        return buckets[-1]

    monkeypatch.setattr(auth, "BucketPerName", recorded)
    monkeypatch.setattr(auth, "TIME_MS_BURST", 2.0)
    async with serve(tmp_path, requests_per_s=1_000_000) as served:
        harness, times, count = served.harness, buckets[1], 5_000
        greedy, other = (harness.token(Role.VIEWER, name=name) for name in ("greedy", "other"))
        facts = [AgentRevoked(at=1, by="test", agent=AgentId("x"))] * count
        harness.log.append_blocking(Batch(appends=[StreamAppend(stream=FLEET, expected=0, at=1, events=facts)]))
        now = harness.clock.now()
        harness.clock.now = lambda: now  # type: ignore[method-assign]
        received = 0

        async def follow(client: httpx.AsyncClient) -> None:
            nonlocal received
            async with client.stream("GET", "/v1/events?cursor=0") as response:
                assert response.status_code == 200
                async for line in response.aiter_lines():
                    received += line.startswith("data: ")
                    if received == count:
                        return

        async with served.tcp(greedy) as client, served.tcp(other) as second:
            following = asyncio.create_task(follow(client))
            await until(lambda: received == count or times.bucket("t-greedy", now).is_spent(now))
            refused = await client.get("/v1/groups")
            assert code(refused) == (429, "WF611")
            assert (await second.get("/v1/groups")).status_code == 200
            assert received < count
            while not following.done():
                # A second of its time at once, as often as needed.
                now += 4_000
                await asyncio.wait([following], timeout=0.05)
            await following


async def test_many_requests_at_once_do_not_hold_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred that arrive together are read in turn with everything else on the loop, and all are answered."""
    count, begun = 100, 0
    set_busy = ConnectionTable.set_busy

    def counted(table: ConnectionTable, connection: Connection) -> None:
        nonlocal begun
        begun += 1
        set_busy(table, connection)

    monkeypatch.setattr(ConnectionTable, "set_busy", counted)
    request = b"GET /v1/groups HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with serve(tmp_path, is_open=True) as served, served.tcp() as client:
        assert (await client.get("/v1/groups")).status_code == 200
        begun = 0
        opened = []
        for _ in range(count):
            # The kernel accepts them; the loop stands still.
            opened.append(socket.create_connection(("127.0.0.1", served.server.port or 0)))
            opened[-1].sendall(request)
        most = 0
        while begun < count:
            before = begun
            await asyncio.sleep(0)
            most = max(most, begun - before)
        for connection in opened:
            with connection:
                assert await asyncio.to_thread(connection.recv, 12) in (b"HTTP/1.1 200", b"HTTP/1.1 429")
        assert most <= 10


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


@pytest.mark.parametrize("has_sent_before", [True, False], ids=["between requests", "before the first"])
async def test_a_request_that_arrives_while_the_daemon_stands_still_is_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch, has_sent_before: bool
) -> None:
    """Its connection's time has run out meanwhile, whenever the daemon stopped and the request was sent; it is not reset."""
    monkeypatch.setattr(server, "_SECOND_LOOK_S", PATIENCE_S)
    for turns in range(8):
        with monkeypatch.context() as patch:
            patch.setattr(server, "HEAD_S_MAX", PATIENCE_S if has_sent_before else 0.01)
            patch.setattr(served.server._server.config, "timeout_keep_alive", 0.01)  # type: ignore[union-attr]
            reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
            await until(lambda: len(served.server.tables.tcp) == 1)
        async with asyncio.timeout(PATIENCE_S):
            if has_sent_before:
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await reader.readuntil(b"}")
            time.sleep(0.03)  # noqa: ASYNC251 - nothing in this process runs, and the timer is overdue
            for _ in range(turns):
                await asyncio.sleep(0)
            assert (await answer_of((reader, writer))).startswith(b"HTTP/1.1 200"), turns
        await until(lambda: not len(served.server.tables.tcp))


async def answer_of(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str = "/health") -> bytes:
    """Sends a request on an open connection; returns the answer up to its end, empty if there is none."""
    reader, writer = connection
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_silent_connections_keep_nobody_out(served: Served) -> None:
    """520 connections that send nothing: another client on TCP is answered at once, and so is the unix socket."""
    held = [await asyncio.open_connection("127.0.0.1", served.server.port) for _ in range(520)]
    await until(lambda: len(served.server.tables.tcp) == quotas.TCP.connections_per_source)
    async with served.tcp() as client, served.unix() as admin:
        for _ in range(3):
            assert (await client.get("/v1/groups")).status_code == 200
            assert (await admin.get("/v1/groups")).status_code == 200
    # The oldest were closed for the newest, which still work.
    assert (await answer_of(held[-1])).startswith(b"HTTP/1.1 200")
    assert await answer_of(held[0]) == b""
    for _, writer in held:
        writer.close()


async def test_streams_of_one_viewer_keep_nobody_out(tmp_path: Path) -> None:
    """It opens 256 of them, and gets a part; another viewer and the administrator's unix socket open theirs."""
    async with serve(tmp_path) as served:
        greedy, other = (served.harness.token(Role.VIEWER, name=name) for name in ("greedy", "other"))
        request = f"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {greedy}\r\n\r\n".encode()
        statuses: list[bytes] = []
        held = []
        for _ in range(256):
            connection = await asyncio.open_connection("127.0.0.1", served.server.port)
            held.append(connection)
            connection[1].write(request)
            async with asyncio.timeout(PATIENCE_S):
                head = await connection[0].readuntil(b"\r\n\r\n")
                statuses.append(head.split()[1])
                if statuses[-1] == b"429":
                    problem = await connection[0].readuntil(b"}")
                    assert b"you have 32 open streams, which is the limit" in problem
        assert statuses.count(b"200") == quotas.TCP.streams_per_client
        assert statuses.count(b"429") == 256 - quotas.TCP.streams_per_client
        async with served.tcp(other) as viewer, served.unix() as admin:
            for client in (viewer, admin):
                async with client.stream("GET", "/v1/events") as response:
                    assert response.status_code == 200
                assert (await client.get("/v1/groups")).status_code == 200
        for _, writer in held:
            writer.close()


async def test_a_connection_is_refused_with_the_reason_only_when_all_are_busy(tmp_path: Path) -> None:
    """While each connection of the address carries a stream, a new one gets a 429; the unix socket has others."""
    async with serve(tmp_path, is_open=True) as served, served.unix() as admin:
        table = served.server.tables.tcp
        table._per_source = 2
        streams_open = [served.tcp() for _ in range(2)]
        async with streams_open[0].stream("GET", "/v1/events"), streams_open[1].stream("GET", "/v1/events"):
            answered = await answer_of(await asyncio.open_connection("127.0.0.1", served.server.port))
            assert answered.startswith(b"HTTP/1.1 429")
            assert b"2 connections from your address are busy" in answered
            assert (await admin.get("/v1/groups")).status_code == 200
        for client in streams_open:
            await client.aclose()
        await until(lambda: not len(table))
        assert (await answer_of(await asyncio.open_connection("127.0.0.1", served.server.port))).startswith(
            b"HTTP/1.1 200"
        )


async def test_a_new_connection_costs_nobody_a_request_that_has_arrived(tmp_path: Path) -> None:
    """At the limit an idle connection is closed for it, but none with a request that the daemon has not read yet."""
    async with serve(tmp_path, is_open=True) as served:
        table = served.server.tables.tcp
        table._per_source = 2
        add = table.add
        sent: list[bool] = []
        for writing in (1, 2):
            held = [await kept_connection(served) for _ in range(2)]

            def add_after_requests(
                connection: Connection, name: str, writers: Sequence[asyncio.StreamWriter]
            ) -> str | None:
                # Between the loop's last look at its sockets and the new connection. On loopback a sent byte has arrived.
                for writer in writers:
                    os.write(writer.get_extra_info("socket").fileno(), CLOSING_REQUEST)
                sent.append(True)
                return add(connection, name)

            writers = [writer for _, writer in held[:writing]]
            table.add = functools.partial(add_after_requests, writers=writers)  # type: ignore[method-assign]
            newcomer = await answer_of(await asyncio.open_connection("127.0.0.1", served.server.port))
            table.add = add  # type: ignore[method-assign]
            assert len(sent) == writing
            assert newcomer.startswith(b"HTTP/1.1 200" if writing == 1 else b"HTTP/1.1 429")
            async with asyncio.timeout(PATIENCE_S):
                for reader, _ in held[:writing]:
                    assert (await reader.read()).startswith(b"HTTP/1.1 200")
            for _, writer in held:
                writer.close()
            await until(lambda: not len(table))


CLOSING_REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def kept_connection(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An idle connection, after a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(b"}")
    return reader, writer


async def test_requests_of_one_client_at_a_time_are_limited(tmp_path: Path) -> None:
    """Requests whose body does not arrive occupy only their own client's share, also when nobody knows who they are."""
    async with serve(tmp_path) as served:
        slow = served.harness.token(Role.RUNNER, name="slow")
        pools = served.harness.api.pools
        pools.tcp.requests = quotas.Quota("requests", 4, 2)
        head = "POST /v1/validate HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/yaml\r\n"
        held = []
        for _ in range(2):
            _, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
            writer.write((head + "Content-Length: 9\r\n\r\na").format(slow).encode())
            held.append(writer)
        await until(lambda: pools.tcp.requests.count == 2)
        async with served.tcp(slow) as client, served.tcp(served.harness.token(Role.VIEWER)) as other:
            refused = await client.get("/v1/groups")
            assert code(refused) == (429, "WF609")
            assert refused.headers["Retry-After"] == "1"
            assert "you have 2 open requests" in refused.json()["detail"]
            assert (await other.get("/v1/groups")).status_code == 200
        for writer in held:
            writer.close()
        await until(lambda: not pools.tcp.requests.count)


# Framing ------------------------------------------------------------------------------------------------------------------

SECOND = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"


def framed(*lines: bytes, body: bytes = b"0\r\n\r\n" + SECOND, version: bytes = b"1.1", end: bytes = b"\r\n") -> bytes:
    """A request with these header lines, whose body one server reads as empty, and another as a second request."""
    request = b"POST /v1/validate HTTP/" + version
    return end.join([request, b"Host: localhost", b"Content-Type: application/yaml", *lines, b"", b""]) + body


LENGTH = b"Content-Length: %d" % (5 + len(SECOND))
CHUNKED = b"Transfer-Encoding: chunked"

AMBIGUOUS = {
    "length and encoding": framed(LENGTH, CHUNKED),
    "encoding and length": framed(CHUNKED, LENGTH),
    "length zero and encoding": framed(b"Content-Length: 0", CHUNKED),
    "two equal lengths": framed(LENGTH, LENGTH),
    "two lengths": framed(LENGTH, b"Content-Length: 5"),
    "a list of lengths": framed(LENGTH + b", " + LENGTH.partition(b": ")[2]),
    "a signed length": framed(b"Content-Length: +5"),
    "a hexadecimal length": framed(b"Content-Length: 0x5"),
    "a length with an underscore": framed(b"Content-Length: 1_0"),
    "an empty length": framed(b"Content-Length: "),
    "an endless length": framed(b"Content-Length: " + b"9" * 40),
    "two encodings": framed(CHUNKED, CHUNKED),
    "a list of encodings": framed(b"Transfer-Encoding: chunked, identity"),
    "another encoding": framed(b"Transfer-Encoding: gzip, chunked"),
    "an unknown encoding": framed(b"Transfer-Encoding: xchunked"),
    "an encoding after a vertical tab": framed(b"Transfer-Encoding: \x0bchunked"),
    "an encoding on the next line": framed(b"Transfer-Encoding:\r\n chunked"),
    "a header that hides an encoding": framed(LENGTH, b"X: a\r\n\tTransfer-Encoding: chunked"),
    "a space before the colon": framed(b"Transfer-Encoding : chunked"),
    "a space before the name": framed(b" Transfer-Encoding: chunked"),
    "an encoding in HTTP/1.0": framed(CHUNKED, version=b"1.0"),
    "bare line feeds": framed(CHUNKED, end=b"\n"),
    "one bare line feed": framed(b"X: a\nTransfer-Encoding: chunked"),
    "a bare carriage return": framed(b"X: a\rTransfer-Encoding: chunked", LENGTH),
    "a NUL in a name": framed(b"Transfer-Encoding\0: chunked"),
}


@pytest.mark.parametrize("listener", ["tcp", "unix"])
@pytest.mark.parametrize("form", AMBIGUOUS)
async def test_a_request_whose_end_is_ambiguous_has_one_answer(served: Served, form: str, listener: str) -> None:
    """It is a 400, whatever the request says, and the connection is closed: nothing in it is a second request."""
    if listener == "tcp":
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    else:
        reader, writer = await asyncio.open_unix_connection(str(served.path))
    writer.write(AMBIGUOUS[form])
    async with asyncio.timeout(PATIENCE_S):
        answered = await reader.read()
    writer.close()
    assert answered.startswith(b"HTTP/1.1 400 "), answered
    assert answered.count(b"HTTP/1.1 ") == 1
    head, _, body = answered.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert b'"code":"WF605"' in body


async def test_two_requests_in_one_packet_have_two_answers(served: Served) -> None:
    """Pipelining works with heads that are not ambiguous, with a body of either kind between them, and byte by byte."""
    body = b"jobs: {j: {runs-on: g, steps: [{run: x}]}}"
    first = framed(b"Content-Length: %d" % len(body), body=body)
    second = framed(CHUNKED, body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    last = SECOND.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    for size in (1 << 16, 1):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        whole = first + second + last
        for start in range(0, len(whole), size):
            writer.write(whole[start : start + size])
            await writer.drain()
        async with asyncio.timeout(PATIENCE_S):
            answered = await reader.read()
        writer.close()
        assert answered.count(b"HTTP/1.1 200") == 3, answered


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
