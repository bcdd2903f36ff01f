"""The daemon's side of a port: owns the listening socket, keeps a process for it running, and passes on its records.

Rules of this file:

- The listening socket stays open while a process is replaced, so the port never changes, and new connections wait.
- A process that ends, sends nonsense, does not read, or shows no sign of life for `SILENCE_S` is replaced, with growing
  delays. Its connections are closed then: agents connect again, and their sessions send again what was not acknowledged.
- Nothing that a process does ends the daemon. What it reports about its peers is taken as their word: it terminates the
  encryption, so it can claim any key, and it has the server's secret key.
- Messages are handled for a few milliseconds at a time, so that other tasks of the event loop continue, and one message of
  each connection after the other (inbox.py). The credit for them is returned after that. Reading continues meanwhile, so that a
  peer's message does not wait in the socket behind those of others; the windows of the connections bound what waits here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import msgspec
from zmq.utils import z85

from waterflow_agent.backoff import Backoff
from waterflow_agent.clock import Clock
from waterflow_agent.errors import RemoteProtocolError, Stalled
from waterflow_agent.keys import KEY_BYTES
from waterflow_agent.wire import messages
from waterflowd.dispatch.keys import ServerKeys
from waterflowd.dispatch.port import records
from waterflowd.dispatch.port.inbox import Inbox
from waterflowd.dispatch.port.limits import PortLimits
from waterflowd.dispatch.port.records import AcceptedPair, Kind, Record, Refused, Setup, Verdict

#: How long messages are handled before other tasks of the event loop continue. One message may take longer.
SLICE_S = 0.002
#: What waits to be handled before reading stops, in bytes: the windows of 32 connections.
_INBOX_COST_MAX = 32 * records.WINDOW_COST
#: A process without a sign of life for this long is replaced; asked this often.
SILENCE_S = 30.0
_PING_S = 5.0
#: A cold start takes half a second, and many times that while a machine boots.
START_S_MAX = 60.0
_BACKOFF = Backoff(first_s=0.1, max_s=5.0)
#: A process that ran this long starts again without a delay.
_STABLE_S = 60.0
_BACKLOG = 1_024
#: Bytes for a process that does not read; more than all that sessions may have unacknowledged is unlikely to be of use.
_CHANNEL_BYTES_MAX = 256 << 20
#: Space of connection numbers for each process, so that a number is never used again.
_NUMBERS_BITS = 40
#: The process uses the packages of the daemon, and nothing of its environment.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from waterflowd.dispatch.port import process as p; p.main({}, {}, {})"
)
_KEPT_ENVIRONMENT = frozenset(["LD_LIBRARY_PATH"])

#: The clock by which old keys expire, unless the caller has a better one.
WALL_MS = Clock().wall_ms

_logger = logging.getLogger("waterflow.dispatch")


class IncomingMessage(NamedTuple):
    """One message: the number of its connection, the proven key, the network address, and the bytes.

    `is_on_old_key`: the peer knows this server by an old key, which only serves to tell it the current one.
    """

    connection: int
    public_key: str
    address: str
    payload: memoryview
    is_on_old_key: bool = False


class PortListener(Protocol):
    """What a port calls. No method may raise because of what a peer sent."""

    def admit(self, public_key: str, address: str) -> Verdict:
        """Whether this key may use the port now."""
        ...

    def take(self, incoming: IncomingMessage) -> None:
        """Handles a message."""
        ...

    def closed(self, connection: int, text: str) -> None:
        """A connection that was admitted is closed; `text` says why."""
        ...

    def refused(self, report: Refused) -> None:
        """The process has refused connections."""
        ...


class PortSettings(NamedTuple):
    """What distinguishes the ports."""

    #: For people.
    name: str
    limits: PortLimits
    part_bytes_max: int = messages.MESSAGE_BYTES_MAX
    #: Bytes that may wait to be sent to one peer, and to all of them.
    outbound_bytes_max: int = 80 << 20
    outbound_total_max: int = 512 << 20
    messages_max: int = 0
    niceness: int = 0


class Port:
    """One port. `bind`, then `run` as a task; everything is called on the event loop's thread."""

    def __init__(self, keys: ServerKeys, settings: PortSettings, wall_ms: Callable[[], int] = WALL_MS) -> None:
        """`wall_ms` is the clock by which old keys expire."""
        self.messages_received = 0
        #: Processes that were replaced.
        self.restarts = 0
        self.endpoint = ""
        self._keys = keys
        self._settings = settings
        self._wall_ms = wall_ms
        self._listener: PortListener | None = None
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._channel: _Channel | None = None
        #: Proven key and address of each admitted connection, and whether it uses an old key of the server.
        self._connections: dict[int, tuple[str, str, bool]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._inbox = Inbox()
        self._turn: asyncio.Handle | None = None
        self._generation = 0

    @property
    def pid(self) -> int | None:
        """The id of the process; None while there is none."""
        return self._process.pid if self._process is not None else None

    def bind(self, endpoint: str) -> str:
        """Binds the listening socket; returns the endpoint with the actual port. Raises `Stalled` WF221 if it is in use."""
        try:
            self._socket = _listen(endpoint)
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise Stalled("WF221", f"cannot listen on {endpoint}: {text}; change it, or free the port") from error
        host, port = self._socket.getsockname()[:2]
        self.endpoint = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        return self.endpoint

    async def run(self, listener: PortListener) -> None:
        """Keeps a process running, until cancelled."""
        self._listener = listener
        failures = 0
        while True:
            began = self._loop.time()
            reason = await self._serve()
            failures = 0 if self._loop.time() - began > _STABLE_S else failures + 1
            self.restarts += 1
            delay_s = _BACKOFF.delay_s(failures, jitter=1.0) if failures else 0.0
            _logger.error("%s; starting it again in %.1f s", reason, delay_s)
            await asyncio.sleep(delay_s)

    def send(self, connection: int, payload: bytes) -> bool:
        """Sends a message without ever waiting. False if the connection is closed; otherwise it may be delivered."""
        if connection not in self._connections or self._channel is None:
            return False
        self._channel.write(records.record(Kind.MESSAGE, connection, payload))
        return True

    def disconnect(self, connection: int) -> None:
        """Closes a connection after everything is sent; the listener is not called."""
        if self._connections.pop(connection, None) is not None and self._channel is not None:
            self._channel.write(records.record(Kind.CLOSE, connection))

    def close(self) -> None:
        """Closes the listening socket. Cancel `run` first."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # The process ------------------------------------------------------------------------------------------------------

    async def _serve(self) -> str:
        """Runs one process until it has to be replaced; returns the reason."""
        own, other = socket.socketpair()
        name = f"the process of the {self._settings.name} port"
        try:
            try:
                self._process = await self._start(other)
            except OSError as error:
                return f"{name} could not be started: {error.strerror}"
            finally:
                other.close()
            channel = self._channel = _Channel(self._received)
            own.setblocking(False)
            await self._loop.create_unix_connection(lambda: channel, sock=own)
            channel.write(records.record(Kind.SETUP, 0, msgspec.msgpack.encode(self._setup())))
            return f"{name} {await self._watch(channel)}"
        finally:
            await self._end()
            own.close()

    async def _start(self, channel: socket.socket) -> asyncio.subprocess.Process:
        assert self._socket is not None
        descriptors = (channel.fileno(), self._socket.fileno())
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-c",
            _BOOT.format(*descriptors, self._settings.niceness),
            json.dumps(sys.path),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=descriptors,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name in _KEPT_ENVIRONMENT},
        )

    def _setup(self) -> Setup:
        self._generation += 1
        settings = self._settings
        now = self._wall_ms()
        return Setup(
            pairs=[
                AcceptedPair(
                    z85.decode(pair.public),
                    z85.decode(pair.secret),
                    None if pair is self._keys.current else pair.accepted_until - now,
                )
                for pair in (self._keys.current, *self._keys.old(now))
            ],
            limits=settings.limits,
            part_bytes_max=settings.part_bytes_max,
            outbound_bytes_max=settings.outbound_bytes_max,
            outbound_total_max=settings.outbound_total_max,
            messages_max=settings.messages_max,
            first_connection=self._generation << _NUMBERS_BITS,
        )

    async def _watch(self, channel: _Channel) -> str:
        """Returns why the process has to be replaced."""
        allowed_s = START_S_MAX
        while True:
            channel.is_alive = False
            channel.write(records.record(Kind.PING))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(allowed_s):
                    await channel.sign_of_life()
            if channel.failure:
                return channel.failure
            if not channel.is_alive:
                return f"showed no sign of life for {allowed_s:g} s"
            allowed_s = SILENCE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PING_S):
                    await channel.ended.wait()

    async def _end(self) -> None:
        """Ends the process, and tells the listener about its connections."""
        channel, self._channel = self._channel, None
        process, self._process = self._process, None
        if channel is not None:
            channel.close()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._inbox.clear()
        connections, self._connections = self._connections, {}
        for connection in connections:
            assert self._listener is not None
            self._listener.closed(connection, "the process of the port has ended")

    # Records ----------------------------------------------------------------------------------------------------------

    def _received(self, found: list[Record]) -> None:
        if self._turn is None:
            self._inbox.add(found)
            self._handle()
        else:
            # Copies, because a record that waits would keep everything in memory that was read with it.
            self._inbox.add((kind, connection, memoryview(bytes(payload))) for kind, connection, payload in found)

    def _handle(self) -> None:
        """Handles waiting records, for one turn of the loop."""
        self._turn = None
        channel, listener, inbox = self._channel, self._listener, self._inbox
        if channel is None or listener is None:
            return
        credit: dict[int, int] = {}
        deadline = time.perf_counter() + SLICE_S
        try:
            while inbox:
                kind, connection, payload = inbox.take()
                if kind != Kind.MESSAGE:
                    self._control(channel, listener, kind, connection, payload)
                elif (known := self._connections.get(connection)) is not None:
                    self.messages_received += 1
                    credit[connection] = credit.get(connection, 0) + records.cost(payload)
                    key, address, is_on_old_key = known
                    listener.take(IncomingMessage(connection, key, address, payload, is_on_old_key))
                if time.perf_counter() >= deadline:
                    break
        except Exception:
            # The supervision point of the port: whatever its process has sent ends only that process.
            _logger.exception("internal error in a record of the %s port", self._settings.name)
            channel.fail("sent a record that could not be handled")
            return
        for connection, amount in credit.items():
            if connection in self._connections:
                channel.write(records.credit(connection, amount))
        if inbox:
            self._turn = self._loop.call_soon(self._handle)
        if inbox.cost > _INBOX_COST_MAX:
            channel.pause()
        else:
            channel.resume()

    def _control(
        self, channel: _Channel, listener: PortListener, kind: int, connection: int, payload: memoryview
    ) -> None:
        if kind == Kind.PROVEN:
            content = bytes(payload)
            key, is_on_old_key = z85.encode(content[:KEY_BYTES]).decode(), bool(content[KEY_BYTES])
            address = content[KEY_BYTES + 1 :].decode("ascii", "replace")
            if self._is_full():
                channel.fail("ignores the limits")
                return
            verdict = listener.admit(key, address)
            if verdict is Verdict.ACCEPT:
                self._connections[connection] = key, address, is_on_old_key
            channel.write(records.record(Kind.VERDICT, connection, bytes((verdict,))))
        elif kind == Kind.CLOSED:
            if self._connections.pop(connection, None) is not None:
                listener.closed(connection, bytes(payload).decode("ascii", "replace"))
        elif kind == Kind.REFUSED:
            listener.refused(msgspec.msgpack.decode(payload, type=Refused))
        elif kind == Kind.PING:
            channel.lives()

    def _is_full(self) -> bool:
        total = self._settings.limits.total
        # The process may use the place of a connection whose end still waits behind its messages.
        return len(self._connections) >= total and len(self._connections) - self._inbox.count(Kind.CLOSED) >= total


class _Channel(asyncio.Protocol):
    """The daemon's end of the socket pair."""

    def __init__(self, take: Callable[[list[Record]], None]) -> None:
        self.ended = asyncio.Event()
        self.failure = ""
        self.is_alive = False
        self._take = take
        self._reader = records.RecordReader()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._flushing: asyncio.Handle | None = None
        self._alive = asyncio.Event()
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.failure:
            return
        try:
            found = self._reader.feed(data)
        except RemoteProtocolError as error:
            self.fail(f"sent an invalid record: {error}")
        else:
            self._take(found)

    def connection_lost(self, error: Exception | None) -> None:
        self.fail("ended")

    def lives(self) -> None:
        """The process has answered."""
        self.is_alive = True
        self._alive.set()

    async def sign_of_life(self) -> None:
        """Returns when the process has answered, or has ended."""
        self._alive.clear()
        if not self.failure:
            await self._alive.wait()

    def write(self, record: bytes) -> None:
        """Sends a record at the end of this turn of the loop."""
        self._outgoing.append(record)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)

    def pause(self) -> None:
        """Stops reading: what has been read is handled first."""
        if not self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def close(self) -> None:
        """Closes the socket, by which the process ends."""
        self.failure = self.failure or "was stopped"
        if self._flushing is not None:
            self._flushing.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        self._flushing = None
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is None or self.failure:
            return
        self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))
        if self._transport.get_write_buffer_size() > _CHANNEL_BYTES_MAX:
            self.fail("does not read what the daemon sends")

    def fail(self, text: str) -> None:
        """The process has to be replaced; `text` says what it did."""
        self.failure = self.failure or text
        self._alive.set()
        self.ended.set()


def _listen(endpoint: str) -> socket.socket:
    """A listening socket for an endpoint such as `tcp://127.0.0.1:*`, `tcp://*:7600` or `tcp://[::]:7600`."""
    if not endpoint.startswith("tcp://"):
        raise ValueError("it must begin with tcp://")
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    number = 0 if port in ("*", "0") else int(port)
    family, address = _address(host)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `[::]` and `*` mean every address, of both families.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, number))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _address(host: str) -> tuple[socket.AddressFamily, str]:
    if host in ("*", "::"):
        return (socket.AF_INET6, "::") if socket.has_dualstack_ipv6() else (socket.AF_INET, "0.0.0.0")
    with contextlib.suppress(ValueError):
        is_v4 = isinstance(ipaddress.ip_address(host.partition("%")[0]), ipaddress.IPv4Address)
        return (socket.AF_INET if is_v4 else socket.AF_INET6), host
    family, _, _, _, found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    return socket.AddressFamily(family), str(found[0])
