"""Doors in front of the real server: TLS with our own certificates, and servers that refuse, are silent or are not Temporal.

The development server has neither TLS nor an authorizer, so these replace a cluster that has both.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_CHUNK_BYTES = 64 << 10


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serves connections on loopback, each in its own task; yields `host:port`."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def passing_on_to(address: str) -> Serve:
    """Passes every connection on to the real server."""
    host, _, port = address.rpartition(":")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_CHUNK_BYTES):
            writer.write(piece)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(host, int(port))
        try:
            both = [copy(reader, behind_writer), copy(behind_reader, writer)]
            await asyncio.wait(map(asyncio.ensure_future, both), return_when=asyncio.FIRST_COMPLETED)
        finally:
            behind_writer.transport.abort()

    return serve


class Network:
    """Passes every connection on to the real server, and can lose everything without either end noticing it."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._loses_calls = self._loses_answers = False
        self._cut_off: set[asyncio.StreamWriter] = set()

    def cut(self, *, calls: bool = True) -> None:
        """What the server sends from now on is lost, and what it is sent, too, if `calls` are lost."""
        self._loses_calls, self._loses_answers = calls, True

    @property
    def has_lost(self) -> bool:
        """Whether something was lost since the last cut."""
        return bool(self._cut_off)

    def heal(self) -> None:
        """Connections of which something was lost are reset; new ones work."""
        self._loses_calls = self._loses_answers = False
        for writer in self._cut_off:
            writer.transport.abort()
        self._cut_off.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See `Serve`."""
        behind_reader, behind_writer = await asyncio.open_connection(self._host, int(self._port))
        calls = self._copy(reader, behind_writer, writer, lambda: self._loses_calls)
        answers = self._copy(behind_reader, writer, writer, lambda: self._loses_answers)
        tasks = [asyncio.ensure_future(each) for each in (calls, answers)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            behind_writer.transport.abort()
            self._cut_off.discard(writer)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        is_lost: Callable[[], bool],
    ) -> None:
        while piece := await reader.read(_CHUNK_BYTES):
            if is_lost():
                self._cut_off.add(client)
            else:
                writer.write(piece)
                await writer.drain()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads everything and answers nothing."""
    while await reader.read(_CHUNK_BYTES):
        pass


async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers as an HTTP/1.1 server does."""
    await reader.read(_CHUNK_BYTES)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await writer.drain()


def refusing(status: int, message: str) -> Serve:
    """A gRPC server that answers every call with this status, as an authorizer does."""
    fields = [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % status),
        (b"grpc-message", message.encode()),
    ]
    # HPACK (RFC 7541): `:status: 200` from the static table, then literals that are not indexed.
    block = b"\x88" + b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)
        writer.write(_frame(4, 0, 0, b""))
        while True:
            header = await reader.readexactly(9)
            kind, flags, stream = header[3], header[4], header[5:]
            content = await reader.readexactly(int.from_bytes(header[:3], "big"))
            if kind == 4 and not flags & 1:
                writer.write(_frame(4, 1, 0, b""))
            elif kind == 6 and not flags & 1:
                writer.write(_frame(6, 1, 0, content))
            elif kind == 1:
                writer.write(_frame(1, 5, int.from_bytes(stream, "big"), block))

    return serve


def _text(value: bytes) -> bytes:
    assert len(value) < 127
    return bytes((len(value),)) + value


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content


class Authority:
    """A certificate authority of one test, made by openssl."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.ca, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        subject = ["-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE"]
        _openssl("req", "-x509", "-newkey", *_EC, "-days", "2", *subject, "-keyout", self._key, "-out", self.ca)

    def issue(self, name: str, *, alternative: str = "IP:127.0.0.1", days: str = "2") -> tuple[Path, Path]:
        """A certificate and its key. With negative `days` it has expired."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n")
        _openssl("req", "-newkey", *_EC, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        signed_by: list[str | Path] = ["-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, *signed_by, "-days", days, "-out", certificate)
        key.chmod(0o600)
        return certificate, key

    def context(
        self, *, clients: Path | None = None, alternative: str = "IP:127.0.0.1", days: str = "2"
    ) -> ssl.SSLContext:
        """The settings of a server with a certificate of this authority; `clients` signs those that it requires of clients."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.issue("server", alternative=alternative, days=days))
        context.set_alpn_protocols(["h2"])
        if clients is not None:
            context.load_verify_locations(clients)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


_EC = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
