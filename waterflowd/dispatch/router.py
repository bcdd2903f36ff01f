"""A ROUTER socket with CURVE encryption, server side. The daemon uses two of them.

Decisions based on measurements:

- The socket assigns the routing ids, and no peer can take over another's (`ROUTER_HANDOVER` off). They are return addresses;
  a peer's identity is the frame's `User-Id`, which the authenticator sets from the proven key.
- `ROUTER_MANDATORY` is on and every send is `DONTWAIT`: otherwise one frozen peer would block the event loop, and without
  MANDATORY undeliverable frames disappear silently.
- Many frames are handled per turn of the loop, up to a limit that lets others run, and without a future per frame.
- ZeroMQ closes the connection of a part larger than `MAXMSGSIZE`. A frame is one part; a message with more parts is rejected.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import zmq

from waterflow_agent.session.frame_receiver import FrameReceiver
from waterflow_agent.wire import messages
from waterflowd.dispatch.keys import ServerKeys

#: Frames handled before other tasks of the event loop get their turn.
DRAIN_MAX = 128
#: Frames queued per peer. Few inbound: TCP holds the rest back in the peer. Outbound, one second of a busy agent's work.
FRAMES_INBOUND_MAX = 64
FRAMES_OUTBOUND_MAX = 1_000
#: Time limit of ZeroMQ's greeting and handshake.
HANDSHAKE_MS = 5_000
#: Pings that free the kernel's and ZeroMQ's resources of a dead peer; sessions have their own, shorter silence limit.
HEARTBEAT_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 8_000
_BACKLOG = 512
#: Prefix of an IPv4 peer's address on a dual-stack socket.
_MAPPED_IPV4 = "::ffff:"


class IncomingFrame(NamedTuple):
    """One received part: return address, proven key, network address, and the bytes."""

    routing_id: bytes
    public_key: str
    address: str
    payload: memoryview


class SendResult(Enum):
    """The result of a send."""

    #: ZeroMQ has queued it, which does not mean delivery.
    QUEUED = "queued"
    #: The peer does not receive: it is frozen or far behind.
    FULL = "full"
    #: The connection no longer exists.
    GONE = "gone"


class Router:
    """One bound socket. `handle` is called for each frame and must not raise because of its content."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: ServerKeys,
        domain: str,
        *,
        part_bytes_max: int = messages.MESSAGE_BYTES_MAX,
    ) -> None:
        self.frames_received = 0
        #: Messages with several parts or without a key; only a broken or hostile peer sends them.
        self.frames_misshapen = 0
        self._socket = context.socket(zmq.ROUTER)
        self._arrivals: FrameReceiver | None = None
        self._endpoint = ""
        options: dict[int, int | bytes] = {
            zmq.CURVE_SERVER: 1,
            zmq.CURVE_SECRETKEY: keys.secret.encode(),
            zmq.CURVE_PUBLICKEY: keys.public.encode(),
            zmq.ZAP_DOMAIN: domain.encode(),
            zmq.ROUTER_MANDATORY: 1,
            zmq.ROUTER_HANDOVER: 0,
            zmq.MAXMSGSIZE: part_bytes_max,
            zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
            zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
            zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS,
            zmq.HEARTBEAT_TTL: HEARTBEAT_TIMEOUT_MS,
            zmq.TCP_MAXRT: HEARTBEAT_TIMEOUT_MS,
            zmq.RCVHWM: FRAMES_INBOUND_MAX,
            zmq.SNDHWM: FRAMES_OUTBOUND_MAX,
            zmq.BACKLOG: _BACKLOG,
            zmq.LINGER: 0,
        }
        for option, value in options.items():
            self._socket.setsockopt(option, value)

    @property
    def endpoint(self) -> str:
        """The bound endpoint with the actual port; empty before `bind`."""
        return self._endpoint

    def bind(self, endpoint: str) -> str:
        """Binds; returns the endpoint with the actual port. Raises `zmq.ZMQError` when the address is not available."""
        self._socket.setsockopt(zmq.IPV6, 0 if _is_ipv4(endpoint) else 1)
        self._socket.bind(endpoint)
        self._endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return self._endpoint

    def send(self, routing_id: bytes, payload: bytes) -> SendResult:
        """Passes one part to ZeroMQ without ever waiting."""
        if self._arrivals is not None:
            self._arrivals.look()
        try:
            self._socket.send_multipart((routing_id, payload), zmq.NOBLOCK)
        except zmq.Again:
            return SendResult.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return SendResult.GONE
            raise
        return SendResult.QUEUED

    async def run(self, handle: Callable[[IncomingFrame], None]) -> None:
        """Reads until it is cancelled."""
        self._arrivals = FrameReceiver(self._socket, lambda parts: self._hand_over(parts, handle), DRAIN_MAX)
        await self._arrivals.run()

    def close(self) -> None:
        """Closes the socket; unsent frames are dropped."""
        self._socket.close(linger=0)

    def _hand_over(self, parts: list[zmq.Frame], handle: Callable[[IncomingFrame], None]) -> None:
        self.frames_received += 1
        if len(parts) != 2:
            self.frames_misshapen += 1
            return
        payload = parts[1]
        try:
            public_key, address = (
                str(payload.get("User-Id")),
                str(payload.get("Peer-Address")).removeprefix(_MAPPED_IPV4),
            )
        except zmq.ZMQError:
            self.frames_misshapen += 1
            return
        handle(IncomingFrame(parts[0].bytes, public_key, address, payload.buffer))


def _is_ipv4(endpoint: str) -> bool:
    host = endpoint.removeprefix("tcp://").rpartition(":")[0]
    try:
        return isinstance(ipaddress.ip_address(host), ipaddress.IPv4Address)
    except ValueError:
        return False
