"""The client's side of CurveZMQ for tests, step by step, so that a test can change every step."""

from __future__ import annotations

import os

from nacl import bindings

from waterflowd.dispatch.port import zmtp

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)


class CurveClient:
    """A client with a fresh key for a server."""

    def __init__(self, server_key: bytes) -> None:
        self.server_key = server_key
        self.public, self.secret = bindings.crypto_box_keypair()
        self.short_public, self.short_secret = bindings.crypto_box_keypair()
        self.cookie = b""
        self.counter = 0
        self.shared = b""

    def _next(self) -> bytes:
        self.counter += 1
        return self.counter.to_bytes(8)

    def hello(self) -> bytes:
        counter = self._next()
        box = _seal(bytes(64), b"CurveZMQHELLO---" + counter, self.server_key, self.short_secret)
        return frame(b"\x05HELLO\x01\x00" + bytes(72) + self.short_public + counter + box, is_command=True)

    def welcome(self, received: bytes) -> None:
        body = _body(received)
        assert body.startswith(b"\x07WELCOME")
        content = bindings.crypto_box_open_easy(body[24:], b"WELCOME-" + body[8:24], self.server_key, self.short_secret)
        self.shared = bindings.crypto_box_beforenm(content[:32], self.short_secret)
        self.server_short, self.cookie = content[:32], content[32:]

    def initiate(self, metadata: bytes = b"\x0bSocket-Type\0\0\0\x06DEALER", vouched_server: bytes = b"") -> bytes:
        nonce = os.urandom(16)
        vouched = self.short_public + (vouched_server or self.server_key)
        vouch = nonce + _seal(vouched, b"VOUCH---" + nonce, self.server_short, self.secret)
        counter = self._next()
        box = bindings.crypto_secretbox_easy(self.public + vouch + metadata, b"CurveZMQINITIATE" + counter, self.shared)
        return frame(b"\x08INITIATE" + self.cookie + counter + box, is_command=True)

    def message(self, content: bytes, flags: int = 0) -> bytes:
        counter = self._next()
        box = bindings.crypto_secretbox_easy(bytes((flags,)) + content, b"CurveZMQMESSAGEC" + counter, self.shared)
        return frame(b"\x07MESSAGE" + counter + box)

    def opened(self, received: bytes) -> bytes:
        """The content of a message of the server."""
        body = _body(received)
        return bindings.crypto_secretbox_open_easy(body[16:], b"CurveZMQMESSAGES" + body[8:16], self.shared)[1:]


def frame(body: bytes, *, is_command: bool = False) -> bytes:
    """A frame of ZMTP."""
    flags = 4 if is_command else 0
    if len(body) > 255:
        return bytes((flags | 2,)) + len(body).to_bytes(8) + body
    return bytes((flags, len(body))) + body


def _body(received: bytes) -> bytes:
    return received[9:] if received[0] & 2 else received[2:]


def _seal(content: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    return bindings.crypto_box_easy(content, nonce, public, secret)


def taken(connection: zmtp.ServerConnection) -> bytes:
    """What the server has to send."""
    outgoing = b"".join(connection.outgoing)
    connection.outgoing.clear()
    return outgoing
