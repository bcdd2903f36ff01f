"""The agent's sockets: CURVE with a pinned server key, bounded, one connection each, and the events of that connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from waterflow_agent.keys import KeyPair
from waterflow_agent.session import reachability
from waterflow_agent.session.frame_receiver import FrameReceiver
from waterflow_agent.wire import messages

#: Frames read in one turn of the loop; with 64 offers a frame this is far more than any agent has slots.
DRAIN_FRAMES = 64
#: When a socket is closed, for frames that ZeroMQ still holds.
LINGER_MS = 500
_EVENTS = (
    zmq.Event.CONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.CLOSED
    | zmq.Event.DISCONNECTED
)


def secure(sock: zmq.Socket[Any], *, server_key: str, keys: KeyPair) -> None:
    """Sets the options of every socket of an agent."""
    sock.curve_serverkey = server_key.encode("ascii")
    sock.curve_publickey = keys.public.encode("ascii")
    sock.curve_secretkey = keys.secret.encode("ascii")
    sock.linger = 0
    sock.setsockopt(zmq.IPV6, 1)
    sock.setsockopt(zmq.RECONNECT_IVL, -1)
    sock.setsockopt(zmq.CONNECT_TIMEOUT, 5_000)
    sock.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
    sock.setsockopt(zmq.MAXMSGSIZE, messages.MESSAGE_BYTES_MAX)
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    # The session bounds what is in flight; a limit of ZeroMQ would only block or lose messages.
    sock.setsockopt(zmq.SNDHWM, 0)


class Dealer:
    """The socket of one connection."""

    def __init__(self, context: zmq.asyncio.Context, *, server_key: str, keys: KeyPair) -> None:
        plain: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context)
        self._socket = plain.socket(zmq.DEALER)
        secure(self._socket, server_key=server_key, keys=keys)
        self._receiver: FrameReceiver | None = None
        endpoint = f"inproc://monitor-of-{self._socket.fileno()}"
        self._socket.monitor(endpoint, _EVENTS)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.connect(endpoint)

    async def resolution_problem(self, endpoint: str) -> str:
        """Why the host name in the endpoint has no address; "" if it has one."""
        return await reachability.resolution_problem(endpoint)

    async def connection_problem(self, endpoint: str) -> str:
        """Why the endpoint accepts no connection, or that it does not keep one."""
        return await reachability.connection_problem(endpoint)

    def connect(self, endpoint: str) -> None:
        """Starts to connect; the outcome is an event."""
        self._socket.connect(endpoint)

    async def next_event(self) -> zmq.Event:
        """Waits for the next event of the connection."""
        return zmq.Event(parse_monitor_message(await self._monitor.recv_multipart())["event"])

    async def read(self, take: Callable[[memoryview], None]) -> None:
        """Passes each frame to `take` until cancelled. Raises what `take` raises."""
        self._receiver = FrameReceiver(self._socket, lambda parts: take(parts[0].buffer), DRAIN_FRAMES)
        await self._receiver.run()

    def send(self, frame: bytes) -> None:
        """Passes a frame to ZeroMQ, which does not mean that it is delivered.

        Raises `zmq.Again` when the connection is lost.
        """
        if self._receiver is not None:
            self._receiver.look()
        self._socket.send(frame, zmq.NOBLOCK)

    def close(self, linger_ms: int) -> None:
        """Closes the socket; ZeroMQ keeps sending queued frames for `linger_ms`."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger_ms)


class SocketFactory:
    """Opens the sockets of one agent, one at a time."""

    def __init__(self, keys: KeyPair) -> None:
        self._keys = keys
        self._context: zmq.asyncio.Context | None = None

    def open(self, server_key: str) -> Dealer:
        """Returns a socket that is not connected yet, for a server with this key."""
        if self._context is None:
            self._context = zmq.asyncio.Context()
        return Dealer(self._context, server_key=server_key, keys=self._keys)

    def close(self) -> None:
        """Closes all sockets."""
        if self._context is not None:
            self._context.destroy(linger=LINGER_MS)
            self._context = None
