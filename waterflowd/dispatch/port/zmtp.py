"""One connection of a peer, from its first byte to its messages: the server's side of ZMTP 3 (https://rfc.zeromq.org/spec/37/).

    greeting ──▶ hello ──▶ initiate ──▶ asked ──accept──▶ open
                                          └───refuse───▶ closed

Rules of this file: no sockets and no clock. `receive` takes the bytes that arrived and returns what they mean; `outgoing` has
the bytes to send. Invalid bytes raise `RemoteProtocolError`, after which the connection must be closed. Only CURVE is spoken,
from the first byte on: there is no mechanism to negotiate and nothing that a peer without a key could reach. What a
connection may make this side keep is bounded: a few hundred bytes before its key is proven, afterwards one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from waterflow_agent.errors import RemoteProtocolError
from waterflowd.dispatch.port import curve

#: First the signature, so that a peer of another protocol gets no answer.
_SIGNATURE_BYTES = 10
_GREETING_BYTES = 64
_MECHANISM = b"CURVE".ljust(20, b"\0")
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + _MECHANISM + b"\x01" + bytes(31)
#: Bits of a frame's first byte.
_LONG = 2
_COMMAND = 4


class State(Enum):
    """What the connection waits for."""

    GREETING = "greeting"
    HELLO = "hello"
    INITIATE = "initiate"
    #: The decision about the proven key.
    ASKED = "asked"
    OPEN = "open"


class ServerConnection:
    """See the file's docstring."""

    __slots__ = ("_buffer", "_curve", "_part_bytes_max", "_signed", "client", "outgoing", "state")

    def __init__(self, pairs: Sequence[curve.KeyPair], part_bytes_max: int, random: Callable[[int], bytes]) -> None:
        """`pairs` are the server's keys, the current one first."""
        self.state = State.GREETING
        #: The client's public key, once it is proven.
        self.client = b""
        #: Bytes to send; the caller sends and clears them.
        self.outgoing: list[bytes] = []
        self._curve = curve.CurveServer(pairs, random)
        self._part_bytes_max = part_bytes_max
        self._buffer = bytearray()
        self._signed = False

    @property
    def is_on_old_key(self) -> bool:
        """Whether the client knows the server by another key than the current one."""
        return self._curve.used > 0

    @property
    def buffered(self) -> int:
        """Bytes that were received and not handled yet."""
        return len(self._buffer)

    def receive(self, received: bytes, parts_max: int = 0) -> list[bytes]:
        """Handles received bytes; returns the messages in them, of one part each.

        With `parts_max`, it returns at most so many and keeps the rest for the next call.
        """
        self._buffer += received
        messages: list[bytes] = []
        if self.state is State.GREETING and not self._greet():
            return messages
        while self.state is not State.ASKED and (not parts_max or len(messages) < parts_max):
            body, is_command = self._next_frame()
            if body is None:
                break
            if is_command is (self.state is State.OPEN):
                # The handshake consists of commands; afterwards libzmq sends encrypted messages only.
                raise RemoteProtocolError("WF202", "a message in the handshake, or a command after it")
            if self.state is State.OPEN:
                messages.append(self._message(body))
            elif self.state is State.HELLO:
                self.outgoing.append(_frame(self._curve.hello(body), _COMMAND))
                self.state = State.INITIATE
            else:
                self.client = self._curve.initiate(body)
                self.state = State.ASKED
        return messages

    def accept(self) -> None:
        """The key may use this port. Call `receive` again: messages may have arrived meanwhile."""
        # No `Identity`: a peer's identity is its key.
        self.outgoing.append(_frame(self._curve.ready({"Socket-Type": b"ROUTER"}), _COMMAND))
        self.state = State.OPEN

    def refuse(self) -> None:
        """The key may not use this port; the caller sends `outgoing` and closes the connection."""
        self.outgoing.append(_frame(curve.error("400"), _COMMAND))

    def send(self, message: bytes | memoryview) -> None:
        """Encrypts a message."""
        self.outgoing.append(_frame(self._curve.encrypt(message)))

    def _greet(self) -> bool:
        if not self._signed:
            if len(self._buffer) < _SIGNATURE_BYTES:
                return False
            if self._buffer[0] != 0xFF or self._buffer[9] != 0x7F:
                raise RemoteProtocolError("WF202", "not ZeroMQ")
            self._signed = True
            self.outgoing.append(_GREETING)
        if len(self._buffer) < _GREETING_BYTES:
            return False
        if self._buffer[10] < 3 or bytes(self._buffer[12:32]) != _MECHANISM or self._buffer[32] != 0:
            raise RemoteProtocolError("WF202", "not a client of ZeroMQ 3 or newer with CURVE")
        del self._buffer[:_GREETING_BYTES]
        self.state = State.HELLO
        return True

    def _next_frame(self) -> tuple[bytes | None, bool]:
        """The body of the next frame, and whether it is a command; None until all of it has arrived."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None, False
        flags = buffer[0]
        if flags & ~(_LONG | _COMMAND):
            # `more` is inside of the encrypted message.
            raise RemoteProtocolError("WF202", "reserved bits of a frame are set")
        head = 9 if flags & _LONG else 2
        if len(buffer) < head:
            return None, False
        size = int.from_bytes(buffer[1:head])
        if size > self._body_bytes_max():
            raise RemoteProtocolError("WF201", f"a part has {size} bytes; the limit is {self._part_bytes_max}")
        if len(buffer) < head + size:
            return None, False
        body = bytes(memoryview(buffer)[head : head + size])
        del buffer[: head + size]
        return body, bool(flags & _COMMAND)

    def _body_bytes_max(self) -> int:
        if self.state is State.OPEN:
            return self._part_bytes_max + curve.MESSAGE_OVERHEAD_BYTES
        return curve.INITIATE_BYTES_MAX

    def _message(self, body: bytes) -> bytes:
        flags, content = self._curve.decrypt(body)
        if flags:
            # Agents send messages of one part, and no commands: sessions have their own keep-alives.
            raise RemoteProtocolError("WF202", "a command, or a message of several parts")
        return content


def _frame(body: bytes, flags: int = 0) -> bytes:
    if len(body) > 255:
        return bytes((flags | _LONG,)) + len(body).to_bytes(8) + body
    return bytes((flags, len(body))) + body
