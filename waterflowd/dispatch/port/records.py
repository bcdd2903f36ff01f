"""The records between the daemon and a port process, over a socket pair. Pure.

    size of the payload, kind, connection, payload

Rules of this file:

- A connection has a number from the moment its key is proven. It is never used again, not even by a later process.
- Each connection has a window of its own towards the daemon. A message costs its size, or `MESSAGE_COST_MIN`; the process
  reads no more from a connection whose window is used up until the daemon has handled something and returns the credit. So
  one peer can neither fill the socket pair nor make others wait behind more than its window.
- Both sides take what arrives in one piece as one batch, and write all records of one turn of their loop at once.
"""

from __future__ import annotations

import struct
from enum import IntEnum

import msgspec

from waterflow_agent.errors import RemoteProtocolError
from waterflow_agent.wire import messages
from waterflowd.dispatch.port.limits import PortLimits

HEAD = struct.Struct("<IBQ")
_COST = struct.Struct("<Q")
#: A frame, and room for the other kinds.
_PAYLOAD_BYTES_MAX = messages.MESSAGE_BYTES_MAX + 1_024

#: Of one connection, towards the daemon: half of the largest usual frame, so one is handled while the next arrives.
WINDOW_COST = 512 << 10
#: So that tiny messages are bounded too: at most 512 of one connection are in the socket pair.
MESSAGE_COST_MIN = 1 << 10


class Kind(IntEnum):
    """Kinds of records."""

    #: To the process, once: how to serve the port (`Setup`).
    SETUP = 1
    #: To the process: what the daemon decides about a proven key (`Verdict`).
    VERDICT = 2
    #: In both directions: a message of or for the peer.
    MESSAGE = 3
    #: To the process: cost of messages that the daemon has handled.
    CREDIT = 4
    #: To the process: close the connection once everything is sent.
    CLOSE = 5
    #: In both directions: the process answers each one, as a sign of life.
    PING = 6
    #: To the daemon: a connection has proven a key: its 32 bytes, a byte that is 1 if it uses an old key of the server, and
    #: the address.
    PROVEN = 7
    #: To the daemon: the connection is closed; the payload says why, for people.
    CLOSED = 8
    #: To the daemon: connections were refused (`Refused`); connection 0.
    REFUSED = 9


class Verdict(IntEnum):
    """The daemon's decision about a proven key."""

    ACCEPT = 0
    #: The key may not use this port; the peer is told.
    REFUSE = 1
    #: Not now: the connection is closed.
    CLOSE = 2


class AcceptedPair(msgspec.Struct, frozen=True, array_like=True):
    """A key pair of the server, 32 bytes each."""

    public: bytes
    secret: bytes
    #: For how long it is accepted, from now on; None for the current one.
    accepted_ms: int | None


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How to serve a port."""

    #: The current one first.
    pairs: list[AcceptedPair]
    limits: PortLimits
    part_bytes_max: int
    #: Bytes that may wait to be sent to one peer, and to all of them.
    outbound_bytes_max: int
    outbound_total_max: int
    #: Messages of a connection that are passed on; later ones are ignored. 0 for any number.
    messages_max: int
    first_connection: int


class Refused(msgspec.Struct, frozen=True, array_like=True):
    """A number of connections that were refused for one reason; `address` is the last one's."""

    code: str
    text: str
    address: str
    count: int


def record(kind: Kind, connection: int = 0, payload: bytes = b"") -> bytes:
    """The bytes of a record."""
    return HEAD.pack(len(payload), kind, connection) + payload


def cost(payload: bytes | memoryview) -> int:
    """What a message costs of its connection's window."""
    return max(MESSAGE_COST_MIN, len(payload))


def credit(connection: int, amount: int) -> bytes:
    """The record that returns an amount of credit."""
    return record(Kind.CREDIT, connection, _COST.pack(amount))


def credit_of(payload: bytes | memoryview) -> int:
    """The amount in a credit record."""
    amount: int = _COST.unpack(payload)[0]
    return amount


#: Kind, connection and payload.
Record = tuple[int, int, memoryview]


class RecordReader:
    """Finds the records in a stream of bytes."""

    def __init__(self) -> None:
        #: The beginning of a record in pieces, and the size from which on it is worth joining them.
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._enough = HEAD.size

    def feed(self, received: bytes) -> list[Record]:
        """Kind, connection and payload of each complete record. Raises `RemoteProtocolError` for an impossible size."""
        self._rest.append(received)
        self._rest_size += len(received)
        if self._rest_size < self._enough:
            return []
        content = b"".join(self._rest) if len(self._rest) > 1 else received
        view, at, end = memoryview(content), 0, len(content)
        found: list[Record] = []
        self._enough = HEAD.size
        while end - at >= HEAD.size:
            size, kind, connection = HEAD.unpack_from(content, at)
            if size > _PAYLOAD_BYTES_MAX:
                raise RemoteProtocolError("WF201", f"a record has {size} bytes; the limit is {_PAYLOAD_BYTES_MAX}")
            if end - at < HEAD.size + size:
                self._enough = HEAD.size + size
                break
            at += HEAD.size
            found.append((kind, connection, view[at : at + size]))
            at += size
        self._rest = [content[at:]]
        self._rest_size = end - at
        return found
