"""Decides who may complete a CURVE handshake, by the ZeroMQ authentication protocol (https://rfc.zeromq.org/spec/27/).

- The work port accepts approved keys; the enrollment port accepts any key, since it exists for new servers.
- Any other mechanism or domain is rejected: NULL and PLAIN are never accepted, not even over loopback.
- The user id of a connection is its public key in Z85. The handshake proves it, and every frame carries it.
- Garbage, HTTP and other mechanisms do not get here: libzmq drops them silently. (Its socket monitor would report them, but it
  blocks the I/O thread when a flood of events is not read fast enough, which would be a point of attack.)
- A key may be revoked after the handshake, so the sessions check it again for each frame.
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
    """Answers every handshake of one context. Start it before binding the first socket."""

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
            # Requests arrive one at a time, so the in-process queue for answers always has space.
            await self._socket.send_multipart(answer)

    def close(self) -> None:
        """Closes the socket; no new connections are possible."""
        self._socket.close(linger=0)

    def _answer(self, parts: list[bytes]) -> list[bytes]:
        if len(parts) != _REQUEST_PARTS:
            # An unsupported mechanism, with a different number of credentials.
            return self._reject(parts[1] if len(parts) > 1 else b"", "a mechanism other than CURVE", parts[3:4])
        request = _Request(*parts)
        if request.version != b"1.0" or request.mechanism != b"CURVE" or len(request.key) != KEY_BYTES:
            return self._reject(request.request_id, "a mechanism other than CURVE", [request.address])
        key = z85.encode(request.key).decode()
        domain = request.domain.decode("ascii", "replace")
        if domain == ENROLL_DOMAIN or (domain == WORK_DOMAIN and self._is_approved(key)):
            return [b"1.0", request.request_id, b"200", b"OK", key.encode(), b""]
        return self._reject(request.request_id, f"key {key} is not approved", [request.address])

    def _reject(self, request_id: bytes, text: str, address: list[bytes]) -> list[bytes]:
        self._rejections.record("WF212", text, address[0].decode("ascii", "replace") if address else "?")
        return [b"1.0", request_id, b"400", b"this key is not approved", b"", b""]
