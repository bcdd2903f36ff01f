"""The Vault client against the responses of a server in trouble, and of servers that are not Vault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable, WaterflowError
from waterflowd.secrets.vault import RESPONSE_BYTES_MAX, Vault
from waterflowd.secrets.vault_settings import VaultSettings

TOKEN = "hvs.token-of-the-test"
VALUE = "s3cret-of-vault"
GOOD = json.dumps({"data": {"data": {"key": VALUE}, "metadata": {}}, "lease_duration": 0}).encode()

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def says(status: int, body: bytes = b"", *headers: str) -> Answer:
    """Sends one complete answer."""
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", "Connection: close", *headers]

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    return answer


def raw(content: bytes) -> Answer:
    """Sends these bytes and closes the connection."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(content)

    return answer


async def silent(writer: asyncio.StreamWriter) -> None:
    """Sends nothing until the client disconnects."""
    await asyncio.wait_for(writer.wait_closed(), PATIENCE_S)


async def dripping(writer: asyncio.StreamWriter) -> None:
    """Sends a byte now and then, so no single wait is long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless(writer: asyncio.StreamWriter) -> None:
    """Sends a body without a length, forever."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x" * 65536)
        await writer.drain()


class Server:
    """A server at Vault's address: records the heads of requests, and answers each as the test defines."""

    def __init__(self) -> None:
        self.answer: Answer = says(200, GOOD)
        self.heads: list[str] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Starts the server and returns its address."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await self.answer(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            # The client has disconnected, which some of the tests provoke.
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        """Stops the server and its pending answers."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """The server at the address."""
    made = Server()
    yield made
    await made.close()


def client(address: str, *, namespace: str = "", timeout_s: float = PATIENCE_S) -> Vault:
    """Returns a client with a token."""
    settings = VaultSettings(
        address=address,
        mount="secret",
        version=2,
        namespace=namespace,
        ca_file="",
        role_id="",
        approle_mount="approle",
        timeout_s=timeout_s,
        cache_s=60,
        fields={},
    )
    return Vault(settings, lambda: TOKEN)


async def error_of(server: Server, *, timeout_s: float = PATIENCE_S) -> WaterflowError:
    """Returns the error of a read, and checks that it contains nothing that was sent or received."""
    vault = client(await server.start(), timeout_s=timeout_s)
    with pytest.raises(WaterflowError) as raised:
        await vault.read("apps/web")
    await vault.close()
    assert raised.value.code == "WF626"
    assert not any(word in str(raised.value) for word in (TOKEN, VALUE, "<script>"))
    return raised.value


async def test_a_request_follows_the_api(server: Server) -> None:
    """The request has path, token, namespace and the header for proxies of Vault's agent; HTTP proxies are ignored."""
    vault = client(await server.start(), namespace="team/web")
    assert (await vault.read("apps/web"))[0] == {"key": VALUE}
    await vault.close()
    head = server.heads[0].lower().splitlines()
    assert head[0] == "get /v1/secret/data/apps/web http/1.1"
    assert {f"x-vault-token: {TOKEN}", "x-vault-namespace: team/web", "x-vault-request: true"} <= set(head)


@pytest.mark.parametrize(
    "answer",
    [
        *(says(status, b'{"errors":["<script>"]}') for status in (412, 429, 472, 473, 500, 502, 503)),
        says(200, b"<html><script>maintenance</script>"),
        says(200, b"[" * 100_000),
        says(200, b'{"data": {"data": null}}'),
        says(200, f'{{"data": {{"data": ["{VALUE}"]}}}}'.encode()),
        says(200, b'{"data": "x"}'),
        says(200, b'{"lease_duration": "x"}'),
        says(200, b"\xff\xfe"),
        says(200, b""),
        raw(b""),
        raw(b"SSH-2.0-OpenSSH\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx"),
        endless,
    ],
)
async def test_temporary_failures_are_retryable(server: Server, answer: Answer) -> None:
    """The server is overloaded, sealed, standby, or another one; or the response is truncated or too large."""
    server.answer = answer
    assert isinstance(await error_of(server), Retryable)


@pytest.mark.parametrize("answer", [silent, dripping])
async def test_a_slow_response_times_out(server: Server, answer: Answer) -> None:
    """The limit applies to the whole response, not to each part."""
    server.answer = answer
    error = await error_of(server, timeout_s=0.3)
    assert isinstance(error, Retryable)
    assert "did not answer in 0.3 s" in error.text


@pytest.mark.parametrize("status", [400, 401, 403, 405])
async def test_permanent_failures_are_rejected_with_their_status(server: Server, status: int) -> None:
    """The error also has the path, but no text of the server."""
    server.answer = says(status, f'{{"errors":["{VALUE}"]}}'.encode())
    error = await error_of(server)
    assert isinstance(error, Rejected)
    assert f"path apps/web (status {status})" in error.text


async def test_a_redirect_is_refused_and_gets_no_token(server: Server) -> None:
    """It may come from a standby without forwarding, or from an attacker."""
    other = Server()
    address = await other.start()
    server.answer = says(307, b"", f"Location: {address}/v1/secret/data/apps/web")
    error = await error_of(server)
    assert isinstance(error, Rejected)
    assert "active node" in error.text
    assert other.heads == []
    await other.close()


async def test_an_unreachable_server_is_retryable(server: Server) -> None:
    """The daemon may start before Vault does."""
    address = await server.start()
    await server.close()
    vault = client(address)
    with pytest.raises(Retryable, match="cannot reach Vault"):
        await vault.read("apps/web")
    await vault.close()


async def test_a_response_is_read_up_to_the_limit(server: Server) -> None:
    """One more byte is an error."""
    server.answer = says(200, GOOD.ljust(RESPONSE_BYTES_MAX))
    vault = client(await server.start())
    assert (await vault.read("apps/web"))[0] == {"key": VALUE}
    server.answer = says(200, GOOD.ljust(RESPONSE_BYTES_MAX + 1))
    with pytest.raises(Retryable, match="more than 2 MiB"):
        await vault.read("apps/web")
    await vault.close()
