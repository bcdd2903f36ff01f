"""The server's side of CurveZMQ (https://rfc.zeromq.org/spec/26/): proves keys and encrypts. Pure; randomness is an argument.

    client ──HELLO──▶ ──▶ WELCOME, INITIATE ──▶ (the caller decides about the key) ──▶ READY, then MESSAGE in both directions

Names as in the specification: `C` and `S` are the long-term keys of client and server, `c` and `s` those of one connection.
The cookie, which a server may use to keep no state before INITIATE, is random here: a connection's few keys are kept, and
`limits` bounds the connections.

A server may have several long-term keys, while its clients move from old ones to a new one. HELLO does not name the key, but
only the right one opens it; the connection then stays with that key.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nacl import bindings
from nacl.exceptions import CryptoError

from waterflow_agent.errors import RemoteProtocolError

KEY_BYTES = 32
_MAC_BYTES = 16
_COUNTER_BYTES = 8
_COUNTER_MAX = (1 << 64) - 1
_COOKIE_BYTES = 96
_VOUCH_BYTES = 16 + 2 * KEY_BYTES + _MAC_BYTES

_HELLO = b"\x05HELLO"
#: Name, version 1.0, and zeros so that the answer is smaller than the request.
_HELLO_PADDED = _HELLO + b"\x01\x00" + bytes(72)
_HELLO_BYTES = len(_HELLO_PADDED) + KEY_BYTES + _COUNTER_BYTES + 64 + _MAC_BYTES
_INITIATE = b"\x08INITIATE"
_MESSAGE = b"\x07MESSAGE"
#: Of the metadata in INITIATE: a socket type, a routing id of up to 255 bytes, and what applications add.
METADATA_BYTES_MAX = 1_024
INITIATE_BYTES_MAX = (
    len(_INITIATE) + _COOKIE_BYTES + _COUNTER_BYTES + KEY_BYTES + _VOUCH_BYTES + METADATA_BYTES_MAX + _MAC_BYTES
)
#: What a message is longer on the wire than its content.
MESSAGE_OVERHEAD_BYTES = len(_MESSAGE) + _COUNTER_BYTES + _MAC_BYTES + 1


class KeyPair(NamedTuple):
    """A long-term key of the server, 32 bytes each."""

    public: bytes
    secret: bytes


class CurveServer:
    """The handshake and the messages of one connection. Every method raises `RemoteProtocolError` WF202 for invalid bytes."""

    __slots__ = ("_c", "_cookie", "_pairs", "_random", "_received", "_s", "_sent", "_shared", "used")

    def __init__(self, pairs: Sequence[KeyPair], random: Callable[[int], bytes]) -> None:
        """`pairs` are tried in this order: the most usual one comes first. `random` returns that many unpredictable bytes."""
        #: The position of the client's choice in `pairs`, after HELLO.
        self.used = 0
        self._pairs = pairs
        self._random = random
        self._c = b""
        self._s = b""
        self._cookie = b""
        #: The key of the messages, from both keys of the connection.
        self._shared = b""
        #: Counters of the newest nonces: a repeated or smaller one is a replay.
        self._received = 0
        self._sent = 0

    def hello(self, body: bytes) -> bytes:
        """Handles HELLO; returns WELCOME."""
        if len(body) != _HELLO_BYTES or not body.startswith(_HELLO_PADDED):
            raise _invalid("HELLO")
        at = len(_HELLO_PADDED)
        self._c = body[at : at + KEY_BYTES]
        counter = body[at + KEY_BYTES : at + KEY_BYTES + _COUNTER_BYTES]
        shared = self._choose(body[at + KEY_BYTES + _COUNTER_BYTES :], b"CurveZMQHELLO---" + counter)
        self._received = int.from_bytes(counter)
        public, self._s = bindings.crypto_box_keypair()
        self._cookie = self._random(_COOKIE_BYTES)
        nonce = self._random(16)
        return b"\x07WELCOME" + nonce + _seal(public + self._cookie, b"WELCOME-" + nonce, shared)

    def initiate(self, body: bytes) -> bytes:
        """Handles INITIATE; returns the client's long-term public key, which it has proven."""
        at = len(_INITIATE)
        if not self._cookie or not body.startswith(_INITIATE) or len(body) > INITIATE_BYTES_MAX:
            raise _invalid("INITIATE")
        cookie, at = body[at : at + _COOKIE_BYTES], at + _COOKIE_BYTES
        if not hmac.compare_digest(cookie, self._cookie):
            raise _invalid("INITIATE")
        self._cookie = b""
        counter, at = self._newer(body[at : at + _COUNTER_BYTES]), at + _COUNTER_BYTES
        self._shared = _shared(self._c, self._s)
        content = _open(body[at:], b"CurveZMQINITIATE" + counter, self._shared)
        client, vouch = content[:KEY_BYTES], content[KEY_BYTES : KEY_BYTES + _VOUCH_BYTES]
        if len(vouch) != _VOUCH_BYTES:
            raise _invalid("INITIATE")
        # The client's long-term key vouches for the key of this connection, and for this server.
        vouched = _open(vouch[16:], b"VOUCH---" + vouch[:16], _shared(client, self._s))
        if not hmac.compare_digest(vouched, self._c + self._pairs[self.used].public):
            raise _invalid("INITIATE")
        return client

    def ready(self, metadata: Mapping[str, bytes]) -> bytes:
        """READY: the key is accepted, and messages may follow."""
        content = b"".join(
            len(name).to_bytes(1) + name.encode("ascii") + len(value).to_bytes(4) + value
            for name, value in metadata.items()
        )
        counter = self._next()
        return b"\x05READY" + counter + _seal(content, b"CurveZMQREADY---" + counter, self._shared)

    def encrypt(self, content: bytes | memoryview) -> bytes:
        """MESSAGE with this content."""
        counter = self._next()
        nonce = b"CurveZMQMESSAGES" + counter
        sealed = _seal(b"\0" + content, nonce, self._shared)
        return _MESSAGE + counter + sealed

    def decrypt(self, body: bytes) -> tuple[int, bytes]:
        """The flags and the content of MESSAGE."""
        if not body.startswith(_MESSAGE):
            raise _invalid("MESSAGE")
        at = len(_MESSAGE)
        counter = self._newer(body[at : at + _COUNTER_BYTES])
        content = _open(body[at + _COUNTER_BYTES :], b"CurveZMQMESSAGEC" + counter, self._shared)
        if not content:
            raise _invalid("MESSAGE")
        return content[0], content[1:]

    def _choose(self, box: bytes, nonce: bytes) -> bytes:
        """Finds the pair that opens HELLO; returns the secret that it shares with the client."""
        failure = _invalid("HELLO")
        for used, pair in enumerate(self._pairs):
            shared = _shared(self._c, pair.secret)
            try:
                if _open(box, nonce, shared) == bytes(64):
                    self.used = used
                    return shared
            except RemoteProtocolError as error:
                failure = error
        raise failure

    def _newer(self, counter: bytes) -> bytes:
        number = int.from_bytes(counter)
        if len(counter) != _COUNTER_BYTES or number <= self._received:
            raise RemoteProtocolError("WF202", "a nonce was used before")
        self._received = number
        return counter

    def _next(self) -> bytes:
        self._sent += 1
        return self._sent.to_bytes(_COUNTER_BYTES)


def error(status: str) -> bytes:
    """ERROR: the key is refused; the client reports a status of three digits as a failed authentication."""
    return b"\x05ERROR" + len(status).to_bytes(1) + status.encode("ascii")


def _shared(public: bytes, secret: bytes) -> bytes:
    try:
        return bindings.crypto_box_beforenm(public, secret)
    except CryptoError as error:
        # A key of low order, for which every secret gives the same result.
        raise _invalid("key") from error


def _seal(content: bytes, nonce: bytes, shared: bytes) -> bytes:
    return bindings.crypto_secretbox_easy(content, nonce, shared)


def _open(box: bytes, nonce: bytes, shared: bytes) -> bytes:
    try:
        return bindings.crypto_secretbox_open_easy(box, nonce, shared)
    except CryptoError as error:
        raise RemoteProtocolError("WF202", "a box does not open: wrong key, or changed in transit") from error


def _invalid(what: str) -> RemoteProtocolError:
    return RemoteProtocolError("WF202", f"invalid {what} in the handshake")
