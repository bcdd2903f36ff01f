"""The server's side of ZMTP and CurveZMQ, against a client that can change every step."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from tests.unit.dispatch.curve_client import GREETING, CurveClient, frame, taken
from waterflow_agent.errors import RemoteProtocolError
from waterflowd.dispatch.port import curve
from waterflowd.dispatch.port.zmtp import ServerConnection, State

PUBLIC, SECRET = bindings.crypto_box_keypair()
PART_MAX = 1_000
#: What the server sends before it has read a key.
GREETING_OF_SERVER = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\x01" + bytes(31)


def connection() -> ServerConnection:
    return ServerConnection([curve.KeyPair(PUBLIC, SECRET)], PART_MAX, os.urandom)


def asked(client: CurveClient) -> ServerConnection:
    """A connection whose client has proven its key."""
    server = connection()
    server.receive(GREETING + client.hello())
    client.welcome(taken(server)[64:])
    server.receive(client.initiate())
    return server


def opened(client: CurveClient) -> ServerConnection:
    server = asked(client)
    server.accept()
    taken(server)
    return server


def test_a_client_proves_its_key_and_exchanges_messages() -> None:
    """The key is reported before the decision; then messages of every size pass in both directions."""
    client = CurveClient(PUBLIC)
    server = asked(client)
    assert server.state is State.ASKED
    assert server.client == client.public
    server.accept()
    taken(server)

    for content in (b"", b"x", b"y" * 300, b"z" * PART_MAX):
        assert server.receive(client.message(content)) == [content]
        server.send(content)
        assert client.opened(taken(server)) == content


def test_bytes_may_arrive_one_by_one() -> None:
    """The greeting is answered after the signature, and frames may be cut anywhere."""
    client = CurveClient(PUBLIC)
    server = connection()
    for at in range(9):
        server.receive(GREETING[at : at + 1])
        assert not server.outgoing
    for byte in GREETING[9:] + client.hello():
        server.receive(bytes((byte,)))
    client.welcome(taken(server)[64:])
    for byte in client.initiate():
        server.receive(bytes((byte,)))

    assert server.client == client.public


def test_messages_before_the_decision_wait_for_it() -> None:
    """Nothing of a peer is handled before its key is accepted."""
    client = CurveClient(PUBLIC)
    server = asked(client)
    assert server.receive(client.message(b"early")) == []
    server.accept()

    assert server.receive(b"") == [b"early"]


def test_a_turn_is_bounded() -> None:
    """At most as many messages as asked for; the rest is kept."""
    client = CurveClient(PUBLIC)
    server = opened(client)
    content = b"".join(client.message(bytes((number,))) for number in range(5))

    assert [len(server.receive(part, 2)) for part in (content, b"", b"", b"")] == [2, 2, 1, 0]


def test_a_client_that_expects_another_server_is_refused() -> None:
    """Its hello opens with this server's key only, and its vouch names the server that it means."""
    server = connection()
    with pytest.raises(RemoteProtocolError):
        server.receive(GREETING + CurveClient(bindings.crypto_box_keypair()[0]).hello())

    client, server = CurveClient(PUBLIC), connection()
    server.receive(GREETING + client.hello())
    client.welcome(taken(server)[64:])
    with pytest.raises(RemoteProtocolError):
        server.receive(client.initiate(vouched_server=bindings.crypto_box_keypair()[0]))


def test_a_key_without_its_secret_half_proves_nothing() -> None:
    """The vouch must be made with the long-term key that is claimed."""
    client, server = CurveClient(PUBLIC), connection()
    server.receive(GREETING + client.hello())
    client.welcome(taken(server)[64:])
    client.public = bindings.crypto_box_keypair()[0]

    with pytest.raises(RemoteProtocolError):
        server.receive(client.initiate())
    assert server.state is not State.ASKED


def test_the_cookie_of_another_connection_is_refused() -> None:
    """A recorded INITIATE fits no other connection."""
    first, second = CurveClient(PUBLIC), CurveClient(PUBLIC)
    servers = [connection(), connection()]
    for client, server in zip((first, second), servers, strict=True):
        server.receive(GREETING + client.hello())
        client.welcome(taken(server)[64:])
    second.cookie = first.cookie

    with pytest.raises(RemoteProtocolError):
        servers[1].receive(second.initiate())


def test_a_repeated_message_is_refused() -> None:
    """A replay within the connection."""
    client = CurveClient(PUBLIC)
    server = opened(client)
    message = client.message(b"pay once")
    assert server.receive(message) == [b"pay once"]

    with pytest.raises(RemoteProtocolError, match="nonce"):
        server.receive(message)


@pytest.mark.parametrize("flags", [1, 2, 3, 255])
def test_parts_and_commands_are_refused(flags: int) -> None:
    """Agents send neither."""
    client = CurveClient(PUBLIC)
    server = opened(client)
    with pytest.raises(RemoteProtocolError):
        server.receive(client.message(b"x", flags))


def test_sizes_are_checked_before_the_bytes_arrive() -> None:
    """A stranger cannot make the process keep a large frame, and an agent none beyond the limit."""
    server = connection()
    server.receive(GREETING)
    with pytest.raises(RemoteProtocolError):
        server.receive(b"\x06" + (curve.INITIATE_BYTES_MAX + 1).to_bytes(8))

    client = CurveClient(PUBLIC)
    server = opened(client)
    with pytest.raises(RemoteProtocolError, match="limit"):
        server.receive(client.message(b"x" * (PART_MAX + 1))[:9])
    assert server.buffered < 100


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\n",
        b"\xff" + bytes(8) + b"\x7f\x01" + bytes(60),
        GREETING.replace(b"CURVE", b"PLAIN"),
        GREETING.replace(b"CURVE", b"NULL\0"),
        GREETING[:32] + b"\x01" + GREETING[33:],
        GREETING + frame(b"x"),
        GREETING + frame(b"\x05HELLO", is_command=True),
        GREETING + b"\x80\x00",
    ],
)
def test_other_protocols_and_mechanisms_are_refused(start: bytes) -> None:
    """HTTP, old versions, other mechanisms, a second server, and messages before the handshake."""
    with pytest.raises(RemoteProtocolError):
        connection().receive(start)


def test_a_refused_key_is_told_so() -> None:
    """With the status that libzmq reports as a failed authentication."""
    server = asked(CurveClient(PUBLIC))
    server.refuse()

    assert taken(server).endswith(b"\x05ERROR\x03400")


def test_a_key_of_low_order_is_refused() -> None:
    """With such a key every secret gives the same result."""
    client, server = CurveClient(PUBLIC), connection()
    client.short_public = bytes(32)
    with pytest.raises(RemoteProtocolError):
        server.receive(GREETING + client.hello())


@given(at=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_no_changed_byte_opens_a_connection(at: int, mask: int) -> None:
    """One changed byte of the handshake is an error or has no effect, and never another key; of a message, always an error."""
    client, server = CurveClient(PUBLIC), connection()
    client_bytes = GREETING + client.hello()
    if at < len(client_bytes):
        client_bytes = _changed(client_bytes, at, mask)
    try:
        server.receive(client_bytes)
        client.welcome(taken(server)[64:])
        initiate = client.initiate()
        server.receive(_changed(initiate, at - len(client_bytes), mask) if at >= len(client_bytes) else initiate)
    except (RemoteProtocolError, AssertionError, IndexError):
        return
    assert server.client in (b"", client.public)


@given(content=st.binary(max_size=2_000), at=st.integers(0, 100), mask=st.integers(1, 255))
def test_no_changed_message_is_read(content: bytes, at: int, mask: int) -> None:
    """A changed length waits for more, or is an error; a changed box never opens."""
    client = CurveClient(PUBLIC)
    server = opened(client)
    message = client.message(content[:PART_MAX])
    with contextlib.suppress(RemoteProtocolError):
        assert server.receive(_changed(message, at, mask)) == []


@given(noise=st.binary(max_size=3_000), is_greeted=st.booleans())
def test_noise_is_an_error_or_nothing(noise: bytes, is_greeted: bool) -> None:
    """Whatever the bytes are, nothing but a protocol error is raised, and little is kept."""
    server = connection()
    try:
        server.receive((GREETING if is_greeted else b"") + noise)
    except RemoteProtocolError:
        return
    assert server.state is not State.ASKED
    assert server.buffered <= curve.INITIATE_BYTES_MAX + 9


def _changed(content: bytes, at: int, mask: int) -> bytes:
    at %= len(content)
    return content[:at] + bytes((content[at] ^ mask,)) + content[at + 1 :]


def test_a_client_of_an_old_key_is_recognized_while_that_key_is_accepted() -> None:
    """Each connection stays with the key that opened its first message; the current key is tried first."""
    pairs = [curve.KeyPair(*bindings.crypto_box_keypair()) for _ in range(4)]
    for number, pair in enumerate(pairs):
        client = CurveClient(pair.public)
        server = ServerConnection(pairs, PART_MAX, os.urandom)
        server.receive(GREETING + client.hello())
        client.welcome(taken(server)[64:])
        server.receive(client.initiate())

        assert (server.client, server.is_on_old_key) == (client.public, number > 0)
        server.accept()
        taken(server)
        assert server.receive(client.message(b"x")) == [b"x"]


def test_a_key_that_is_not_accepted_opens_nothing() -> None:
    """A client of an expired key gets no answer to its first message."""
    expired, *pairs = [curve.KeyPair(*bindings.crypto_box_keypair()) for _ in range(3)]
    client = CurveClient(expired.public)
    server = ServerConnection(pairs, PART_MAX, os.urandom)

    with pytest.raises(RemoteProtocolError, match="wrong key"):
        server.receive(GREETING + client.hello())

    assert taken(server) == GREETING_OF_SERVER


@pytest.mark.parametrize(("opened_with", "vouched_for"), [(0, 1), (1, 0), (1, 2)])
def test_a_vouch_for_another_key_of_the_server_proves_nothing(opened_with: int, vouched_for: int) -> None:
    """Somebody who knows one key of the server cannot pass on a vouch that was made for another one."""
    pairs = [curve.KeyPair(*bindings.crypto_box_keypair()) for _ in range(3)]
    client = CurveClient(pairs[opened_with].public)
    server = ServerConnection(pairs, PART_MAX, os.urandom)
    server.receive(GREETING + client.hello())
    client.welcome(taken(server)[64:])

    with pytest.raises(RemoteProtocolError, match="INITIATE"):
        server.receive(client.initiate(vouched_server=pairs[vouched_for].public))
