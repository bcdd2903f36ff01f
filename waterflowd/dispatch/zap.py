"""Who may finish a CURVE handshake: the ZeroMQ authentication protocol (https://rfc.zeromq.org/spec/27/), answered in memory.

- On the work port a key that is approved; on the enrollment port any key, since being asked is what that port is for.
- Any other mechanism or domain is refused: NULL and PLAIN do not exist here, not even over loopback.
- The user id of a connection becomes its public key in Z85. It is proven by the handshake, and every frame carries it.
- Garbage, HTTP and peers of another mechanism do not come this far: libzmq drops them by itself and tells nobody. (Its socket
  monitor would, but it blocks the I/O thread when a flood of events is not read fast enough, and so gives strangers a lever.)
- An approval may end after the handshake; so the sessions ask again for each frame, this is only the door.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import zmq
import zmq.asyncio
from zmq.utils import z85

from waterflow_agent.keys import KEY_BYTES
from waterflowd.dispatch.rejections import Rejections

#: The address is fixed by the protocol; there is one authenticator for each ZeroMQ context.
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
WORK_DOMAIN = "work"
ENROLL_DOMAIN = "enroll"
_REQUEST_PARTS = 7


class _Request(NamedTuple):
    version: bytes
    request_id: bytes
    domain: bytes
    address: bytes
    routing_id: bytes
    mechanism: bytes
    key: bytes


class Authenticator:
    """Answers every handshake of one context. Start it before the first socket is bound."""

    def __init__(
        self, context: zmq.asyncio.Context, is_approved: Callable[[str], bool], rejections: Rejections
    ) -> None:
        self._is_approved = is_approved
        self._rejections = rejections
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(ZAP_ENDPOINT)

    async def run(self) -> None:
        """Answers until it is cancelled."""
        while True:
            parts = await self._socket.recv_multipart()
            answer = self._answer(parts)
            # Answers go to a queue inside this process: the requests are one at a time, so there is always room.
            await self._socket.send_multipart(answer)

    def close(self) -> None:
        """Closes the socket; nobody can connect any more."""
        self._socket.close(linger=0)

    def _answer(self, parts: list[bytes]) -> list[bytes]:
        if len(parts) != _REQUEST_PARTS:
            # A mechanism with another number of credentials: none that is spoken here.
            return self._refuse(parts[1] if len(parts) > 1 else b"", "another mechanism than CURVE", parts[3:4])
        request = _Request(*parts)
        if request.version != b"1.0" or request.mechanism != b"CURVE" or len(request.key) != KEY_BYTES:
            return self._refuse(request.request_id, "another mechanism than CURVE", [request.address])
        key = z85.encode(request.key).decode()
        domain = request.domain.decode("ascii", "replace")
        if domain == ENROLL_DOMAIN or (domain == WORK_DOMAIN and self._is_approved(key)):
            return [b"1.0", request.request_id, b"200", b"OK", key.encode(), b""]
        return self._refuse(request.request_id, f"key {key} is not approved", [request.address])

    def _refuse(self, request_id: bytes, text: str, address: list[bytes]) -> list[bytes]:
        self._rejections.note("WF212", text, address[0].decode("ascii", "replace") if address else "?")
        return [b"1.0", request_id, b"400", b"this key is not approved", b"", b""]
