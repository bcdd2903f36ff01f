"""An agent's socket: CURVE with a pinned server, bounds, one connection only, and the events of that connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from waterflow_agent.keys import KeyPair
from waterflow_agent.session.frame_receiver import FrameReceiver
from waterflow_agent.wire import messages

#: Frames that are taken before anything else may happen; at 64 offers a frame this is far more than any agent has slots.
DRAIN_FRAMES = 64
_EVENTS = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.CLOSED
    | zmq.Event.DISCONNECTED
)


def secure(sock: zmq.Socket[Any], *, server_key: str, keys: KeyPair) -> None:
    """Sets the options that every socket of an agent has."""
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
    # The session bounds what is on the way; a limit of ZeroMQ's own would only block or lose.
    sock.setsockopt(zmq.SNDHWM, 0)


class Dealer:
    """The socket of one connection; it is not connected yet."""

    def __init__(self, context: zmq.asyncio.Context, *, server_key: str, keys: KeyPair) -> None:
        plain: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context)
        self._socket = plain.socket(zmq.DEALER)
        secure(self._socket, server_key=server_key, keys=keys)
        self._arrivals: FrameReceiver | None = None
        endpoint = f"inproc://monitor-of-{self._socket.fileno()}"
        self._socket.monitor(endpoint, _EVENTS)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.connect(endpoint)

    def connect(self, endpoint: str) -> None:
        """Begins to connect; what comes of it is an event."""
        self._socket.connect(endpoint)

    async def next_event(self) -> zmq.Event:
        """What happens to the connection next."""
        return zmq.Event(parse_monitor_message(await self._monitor.recv_multipart())["event"])

    async def read(self, take: Callable[[memoryview], None]) -> None:
        """Hands over each frame until it is cancelled. Raises what `take` raises."""
        self._arrivals = FrameReceiver(self._socket, lambda parts: take(parts[0].buffer), DRAIN_FRAMES)
        await self._arrivals.run()

    def send(self, frame: bytes) -> None:
        """Hands a frame to ZeroMQ, which is no delivery. Raises `zmq.Again` when the connection is gone."""
        if self._arrivals is not None:
            self._arrivals.look()
        self._socket.send(frame, zmq.NOBLOCK)

    def close(self, linger_ms: int) -> None:
        """Frees everything; ZeroMQ goes on sending what it has for so long."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger_ms)
