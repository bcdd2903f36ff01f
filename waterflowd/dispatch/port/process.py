"""The process of a port: accepts connections, speaks with their peers, and exchanges records with the daemon.

Rules of this file:

- It inherits its listening socket and its end of the socket pair, and nothing else. It holds no state that anybody would
  miss: after its death the daemon starts another one for the same listening socket, whose connections wait meanwhile.
- It ends when the socket pair does. SIGTERM and SIGINT are for the daemon.
- One connection at a time gets a turn of the loop, of at most `TURN_MESSAGES` messages. A connection whose window is used up
  is not read: TCP holds the rest back in the peer.
- Whatever a peer sends affects its own connection only. Refusals are counted and reported a few times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any, cast

import msgspec

from waterflow_agent.clock import Clock
from waterflow_agent.errors import RemoteProtocolError
from waterflowd.dispatch.port import curve, records, zmtp
from waterflowd.dispatch.port.limits import Census
from waterflowd.dispatch.port.records import Kind, Setup, Verdict

#: Messages of one connection in one turn of the loop.
TURN_MESSAGES = 64
#: Connections accepted in one turn.
_TURN_ACCEPTS = 32
#: Between two looks at deadlines, and two reports of refusals.
_SWEEP_S = 0.25
#: If a sweep is this late, the process itself was suspended, and the silence of a peer proves nothing.
_PAUSE_S = 1.0
#: A client that sees the end of its connection may drop a message that it has not read yet. It gets this time to close first.
_LINGER_S = 1.0
#: Descriptors for everything but connections.
_OWN_DESCRIPTORS = 32
#: Address space: the interpreter, its libraries, and the buffers within the limits.
_MEMORY_BYTES_MAX = 2 << 30
_BOOT_MS = Clock().boot_ms
_RESET = b"\x01\0\0\0\0\0\0\0"
_MAPPED_IPV4 = "::ffff:"


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, port: PortProcess, number: int, address: str) -> None:
        self.number = number
        self.address = address
        self.began = self.heard = port.loop.time()
        self.transport: asyncio.Transport | None = None
        #: Bytes in the transport's buffer when it was last looked at.
        self.unsent = 0
        self._port = port
        self._zmtp = zmtp.ServerConnection(port.pairs(), port.setup.part_bytes_max, os.urandom)
        self._window = records.WINDOW_COST
        self._messages = 0
        #: Whether it has sent all messages that the port takes from one connection.
        self._has_said_all = False
        self._is_known = False
        self._is_closing = False
        self._is_paused = False
        self._turn: asyncio.Handle | None = None

    @property
    def is_open(self) -> bool:
        """Whether its key is accepted."""
        return self._zmtp.state is zmtp.State.OPEN

    @property
    def is_held_back(self) -> bool:
        """Whether it is this side that does not read, until the daemon has handled something."""
        return self._is_paused and not self._has_said_all

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._is_closing:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        self.heard = self._port.loop.time()
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        before = self._zmtp.state
        try:
            received = self._zmtp.receive(data, TURN_MESSAGES)
        except RemoteProtocolError as error:
            self._port.refused(error.code, error.text, self.address)
            self.abort(error.text)
            return
        self.flush()
        state = self._zmtp.state
        if state is zmtp.State.ASKED and before is not state:
            self._ask()
        for message in received:
            if not self._has_said_all and not self._is_closing:
                self._pass_on(message)
        if self._is_closing:
            return
        if self._window <= 0 or self._has_said_all or state is zmtp.State.ASKED:
            self._pause()
        elif len(received) == TURN_MESSAGES:
            self._pause()
            self._take_turn()
        else:
            self._resume()

    def _pass_on(self, message: bytes) -> None:
        port = self._port
        if not self._messages:
            refusal = port.census.activate(self.number)
            if refusal:
                port.refused("WF222", refusal, self.address)
                self.abort(refusal)
                return
        self._messages += 1
        self._has_said_all = self._messages == port.setup.messages_max
        self._window -= records.cost(message)
        port.tell(Kind.MESSAGE, self.number, message)

    def _take_turn(self) -> None:
        """Handles what has arrived already, in the next turn of the loop."""
        if self._turn is None:
            self._turn = self._port.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turn = None
        if not self._is_closing:
            self._receive(b"")

    def _pause(self) -> None:
        if not self._is_paused and self.transport is not None and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused and self.transport is not None and not self.transport.is_closing():
            self._is_paused = False
            self.heard = self._port.loop.time()
            self.transport.resume_reading()

    # The key ----------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        port, key = self._port, self._zmtp.client
        refusal = port.census.prove(self.number, key)
        if refusal:
            port.refused("WF222", refusal, self.address)
            self.abort(refusal)
            return
        self._is_known = True
        port.tell(Kind.PROVEN, self.number, key + bytes((self._zmtp.is_on_old_key,)) + self.address.encode())

    def decided(self, verdict: Verdict) -> None:
        """The daemon has decided about the key."""
        if self._is_closing or self._zmtp.state is not zmtp.State.ASKED:
            return
        if verdict is Verdict.ACCEPT:
            self._zmtp.accept()
            self.flush()
            self._take_turn()
            return
        self._is_known = False
        if verdict is Verdict.REFUSE:
            self._zmtp.refuse()
            self.flush()
            self.finish()
        else:
            self.abort("refused for now")

    # Sending ----------------------------------------------------------------------------------------------------------

    def send(self, message: memoryview) -> None:
        """Sends a message of the daemon."""
        if self._is_closing or not self.is_open:
            return
        self._zmtp.send(message)
        self.flush()

    def flush(self) -> None:
        """Passes on what the protocol has to send. A peer that does not receive loses its connection."""
        outgoing, transport = self._zmtp.outgoing, self.transport
        if not outgoing or transport is None:
            return
        transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))
        outgoing.clear()
        unsent = transport.get_write_buffer_size()
        if unsent or self.unsent:
            self._port.outbound_changed(self, unsent)

    def add_credit(self, amount: int) -> None:
        """The daemon has handled messages of this cost."""
        self._window += amount
        if self._is_paused and self._window > 0:
            self._take_turn()

    # The end ----------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Closes the connection after everything is sent, and not before the peer had time to read it."""
        if self._is_closing or self.transport is None:
            return
        self._is_closing = True
        self._is_known = False
        # Read on, without effect, to notice that the peer has closed it.
        self._resume()
        self._port.loop.call_later(_LINGER_S, self.transport.close)

    def abort(self, text: str) -> None:
        """Closes the connection at once."""
        self._is_closing = True
        if self._is_known:
            self._is_known = False
            self._port.tell(Kind.CLOSED, self.number, text.encode())
        self._port.left(self)
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_closing = True
        if self._turn is not None:
            self._turn.cancel()
        if self._is_known:
            self._port.tell(Kind.CLOSED, self.number, b"its connection is closed")
        self._port.left(self)


class PortProcess(asyncio.Protocol):
    """The port's connections, and the socket pair to the daemon."""

    def __init__(
        self, listener: socket.socket, loop: asyncio.AbstractEventLoop, boot_ms: Callable[[], int] = _BOOT_MS
    ) -> None:
        """`boot_ms` is the clock by which old keys expire."""
        self.loop = loop
        self.ended: asyncio.Future[None] = loop.create_future()
        self._listener = listener
        self._reader = records.RecordReader()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._flushing: asyncio.Handle | None = None
        self._peers: dict[int, Peer] = {}
        self._setup: Setup | None = None
        self._boot_ms = boot_ms
        #: The key pairs of the server, and until when (boot clock, ms) an old one is accepted.
        self._pairs: list[tuple[curve.KeyPair, int | None]] = []
        self._census: Census | None = None
        self._next = 0
        self._outbound = 0
        #: By code and text; both are chosen by this program, so there are few.
        self._refused: dict[tuple[str, str], records.Refused] = {}
        self._swept = loop.time()

    @property
    def setup(self) -> Setup:
        """The daemon's instructions."""
        assert self._setup is not None
        return self._setup

    @property
    def census(self) -> Census:
        """The connections by address and key."""
        assert self._census is not None
        return self._census

    def pairs(self) -> list[curve.KeyPair]:
        """The key pairs that are accepted now, the current one first."""
        if len(self._pairs) == 1:
            return [self._pairs[0][0]]
        now = self._boot_ms()
        return [pair for pair, until in self._pairs if until is None or now < until]

    # The daemon -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for kind, connection, payload in self._reader.feed(data):
            self._take(kind, connection, payload)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _take(self, kind: int, connection: int, payload: memoryview) -> None:
        if kind == Kind.SETUP:
            self._begin(msgspec.msgpack.decode(payload, type=Setup))
            return
        if kind == Kind.PING:
            self.tell(Kind.PING, 0, b"")
            return
        peer = self._peers.get(connection)
        if peer is None:
            return
        if kind == Kind.MESSAGE:
            peer.send(payload)
        elif kind == Kind.CREDIT:
            peer.add_credit(records.credit_of(payload))
        elif kind == Kind.VERDICT:
            peer.decided(Verdict(payload[0]))
        elif kind == Kind.CLOSE:
            peer.finish()

    def tell(self, kind: Kind, connection: int, payload: bytes) -> None:
        """Sends a record to the daemon at the end of this turn of the loop."""
        self._outgoing.append(records.record(kind, connection, payload))
        if self._flushing is None:
            self._flushing = self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None:
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def refused(self, code: str, text: str, address: str) -> None:
        """Counts a refused connection."""
        known = self._refused.get((code, text))
        self._refused[code, text] = records.Refused(code, text, address, 1 + (known.count if known is not None else 0))

    def failed(self, error: BaseException | None) -> None:
        """Counts an internal error. It has closed the connection that caused it, and must not fill a log."""
        trace = error.__traceback__ if error is not None else None
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f" in line {trace.tb_lineno} of {trace.tb_frame.f_code.co_filename}" if trace is not None else ""
        self.refused("WF222", f"internal error: {type(error).__name__}{where}", "?")

    # Connections ------------------------------------------------------------------------------------------------------

    def _begin(self, setup: Setup) -> None:
        now = self._boot_ms()
        self._pairs = [
            (curve.KeyPair(pair.public, pair.secret), None if pair.accepted_ms is None else now + pair.accepted_ms)
            for pair in setup.pairs
        ]
        limits = setup.limits.within(_descriptors() - _OWN_DESCRIPTORS)
        self._setup, self._census, self._next = setup, Census(limits), setup.first_connection
        self.loop.add_reader(self._listener.fileno(), self._accept)
        self._swept = self.loop.time()
        self.loop.call_later(_SWEEP_S, self._sweep)

    def _accept(self) -> None:
        for _ in range(_TURN_ACCEPTS):
            try:
                connection, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # The peer is gone already.
                    continue
                # The limits are below the descriptors of this process, so the whole machine has none left.
                self.refused("WF222", "no descriptors or memory left", "?")
                self.loop.remove_reader(self._listener.fileno())
                self.loop.call_later(_SWEEP_S, self.loop.add_reader, self._listener.fileno(), self._accept)
                return
            self._arrive(connection, str(address[0]).removeprefix(_MAPPED_IPV4))

    def _arrive(self, connection: socket.socket, address: str) -> None:
        number = self._next
        may_stay, victim = self.census.arrive(number, address, int(self.loop.time() * 1000))
        if not may_stay:
            self.refused("WF222", "too many new connections of one address", address)
            # With a reset, which leaves nothing behind in the kernel.
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
            return
        self._next += 1
        peer = self._peers[number] = Peer(self, number, address)
        if victim is not None:
            self.refused("WF222", "too many connections without a message", self._peers[victim].address)
            self._peers[victim].abort("displaced by newer connections")
        with contextlib.suppress(OSError):
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self.loop.create_task(self._adopt(connection, peer))
        task.add_done_callback(_ignore)

    async def _adopt(self, connection: socket.socket, peer: Peer) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: peer, connection)
        except OSError:
            connection.close()
            self.left(peer)

    def left(self, peer: Peer) -> None:
        """A connection is closed."""
        if self._peers.pop(peer.number, None) is not None:
            self.census.leave(peer.number)
            self._outbound -= peer.unsent

    def outbound_changed(self, peer: Peer, unsent: int) -> None:
        """A connection has this many bytes that wait to be sent."""
        self._outbound += unsent - peer.unsent
        peer.unsent = unsent
        if unsent > self.setup.outbound_bytes_max:
            peer.abort("it does not receive: frozen or far behind")
        elif self._outbound > self.setup.outbound_total_max:
            self._measure_outbound()
            if self._outbound > self.setup.outbound_total_max:
                worst = max(self._peers.values(), key=lambda one: one.unsent)
                worst.abort("it does not receive, and the buffers of this port are full")

    def _measure_outbound(self) -> None:
        for peer in self._peers.values():
            if peer.unsent and peer.transport is not None:
                peer.unsent = peer.transport.get_write_buffer_size()
        self._outbound = sum(peer.unsent for peer in self._peers.values())

    def _sweep(self) -> None:
        now, limits = self.loop.time(), self.setup.limits
        self.loop.call_later(_SWEEP_S, self._sweep)
        late, self._swept = now - self._swept - _SWEEP_S, now
        for report in self._refused.values():
            self.tell(Kind.REFUSED, 0, msgspec.msgpack.encode(report))
        self._refused.clear()
        is_resumed = late > _PAUSE_S
        for peer in list(self._peers.values()):
            if is_resumed:
                peer.began = peer.heard = now
            elif not peer.is_open:
                if now - peer.began > limits.handshake_s:
                    self.refused("WF222", f"no key proven within {limits.handshake_s:g} s", peer.address)
                    peer.abort("the handshake took too long")
            elif now - peer.heard > limits.idle_s and not peer.is_held_back:
                self.refused("WF222", f"no message for {limits.idle_s:g} s", peer.address)
                peer.abort(f"no message for {limits.idle_s:g} s")


def _ignore(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


def _descriptors() -> int:
    """Raises the limit of descriptors as far as permitted; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def _confine(niceness: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES_MAX, _MEMORY_BYTES_MAX))
    # A core dump would contain the server's secret key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(niceness)


async def _serve(channel: socket.socket, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    process = PortProcess(listener, loop)
    loop.set_exception_handler(lambda _, context: process.failed(context.get("exception")))
    await loop.create_unix_connection(lambda: process, sock=channel)
    await process.ended


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def main(channel_descriptor: int, listener_descriptor: int, niceness: int) -> None:
    """Serves the port until the socket pair is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _confine(niceness)
    channel, listener = socket.socket(fileno=channel_descriptor), socket.socket(fileno=listener_descriptor)
    for sock in (channel, listener):
        sock.setblocking(False)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(channel, listener))
    # Connections end with the process.
    os._exit(0)
