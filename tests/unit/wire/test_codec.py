"""The frame codec: limits, and the kinds of messages that each side may send."""

from __future__ import annotations

import msgspec
import pytest

from waterflow_agent.attempts import Outcome
from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.testing import task_id
from waterflow_agent.wire import codec, messages

KEY = task_id("01J00000000000000000000000", "build", "1", 1, 3)
STARTED = messages.Started(key=KEY, at=5)
RESET = messages.Reset(text="say hello again")


def frame_of(*, numbered: list[messages.Message] = (), loose: list[messages.Message] = (), first: int = 1) -> bytes:  # type: ignore[assignment]
    return codec.encode_frame(
        "a-session", 0, first, [codec.encode_message(m) for m in numbered], [codec.encode_message(m) for m in loose]
    )


def test_a_frame_is_decoded_unchanged() -> None:
    """Decoding an encoded frame returns its parts as typed values."""
    frame = codec.decode_frame(frame_of(numbered=[STARTED], first=7), codec.Side.AGENT)

    assert (frame.session, frame.ack, frame.first_number, frame.numbered, frame.loose) == (
        "a-session",
        0,
        7,
        [STARTED],
        [],
    )


@pytest.mark.parametrize(
    ("frame", "sender"),
    [
        (frame_of(numbered=[STARTED]), codec.Side.DAEMON),
        (frame_of(loose=[RESET]), codec.Side.AGENT),
        (frame_of(loose=[STARTED]), codec.Side.AGENT),
        (frame_of(numbered=[messages.Output(key=KEY, offset=0, chunks=[])]), codec.Side.AGENT),
        (frame_of(numbered=[messages.Cancel(key=KEY, force=False, reason="")]), codec.Side.AGENT),
        (codec.encode_frame("s", 0, 1, [msgspec.Raw(msgspec.msgpack.encode(["launch", 1]))], []), codec.Side.AGENT),
    ],
)
def test_a_kind_that_this_peer_may_not_send_is_refused(frame: bytes, sender: codec.Side) -> None:
    """A message of the other side, in the wrong list, or of an unknown kind is WF203."""
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode_frame(frame, sender)

    assert caught.value.code == "WF203"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        msgspec.msgpack.encode(["s", -1, 1, [], []]),
        msgspec.msgpack.encode(["s", float("nan"), 1, [], []]),
        msgspec.msgpack.encode(["s", 2**63, 1, [], []]),
        msgspec.msgpack.encode(["s" * 65, 0, 1, [], []]),
        b"\x95\xa1\xff\x00\x01\x90\x90",
        msgspec.msgpack.encode(["s", 0, 1, [["started", ["r", "j", "s", 1, 1], "soon"]], []]),
        b"\x95\xa1s\x00\x01\x91\x93\xa7started\x95\xa1r\xa1j\xa1s\x01\x01\x01\x90" + b"trailing",
    ],
)
def test_invalid_frames_are_refused(frame: bytes) -> None:
    """Garbage, bombs, bad UTF-8, negative and huge numbers are WF202."""
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode_frame(frame, codec.Side.AGENT)

    assert caught.value.code == "WF202"


def test_an_oversized_part_is_refused_undecoded() -> None:
    """More bytes than a socket should accept are WF201."""
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode_frame(bytes(messages.MESSAGE_BYTES_MAX + 1), codec.Side.AGENT)

    assert caught.value.code == "WF201"


def test_text_of_a_peer_is_escaped_in_the_error() -> None:
    """The name of an unknown kind reaches a log without control characters, and truncated."""
    evil = codec.encode_frame("s", 0, 1, [msgspec.Raw(msgspec.msgpack.encode(["\x1b]0;x\x07\n" + "é" * 900, 1]))], [])

    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode_frame(evil, codec.Side.AGENT)

    assert caught.value.text.isprintable()
    assert caught.value.text.isascii()
    assert len(caught.value.text) < 400


def test_fields_of_a_newer_peer_are_ignored() -> None:
    """Extra fields at the end of a frame and of a message change nothing."""
    newer = msgspec.msgpack.encode(
        ["s", 0, 1, [["started", [["r", "j", "s", 1, "x"], 1, "x"], 5, {"new": 1}]], [], 7, "more"]
    )

    frame = codec.decode_frame(newer, codec.Side.AGENT)

    assert frame.numbered == [messages.Started(key=task_id("r", "j", "s", 1, 1), at=5)]
    assert frame.stamp == 7


@pytest.mark.parametrize("value", [2**70, object(), "\ud800"])
def test_an_unencodable_message_is_a_local_error(value: object) -> None:
    """A message that cannot be encoded is an error of this side: LocalProtocolError WF206."""
    message = messages.Finished(KEY, Outcome.SUCCESS, 0, "", "", {"x": value}, {}, 1, 2, 0, 0)

    with pytest.raises(LocalProtocolError) as caught:
        codec.encode_message(message)

    assert caught.value.code == "WF206"


def test_an_oversized_message_is_not_encoded() -> None:
    """A message that is larger than a socket accepts is refused by its sender."""
    with pytest.raises(LocalProtocolError) as caught:
        codec.encode_message(messages.Reset(text="x" * messages.MESSAGE_BYTES_MAX))

    assert caught.value.code == "WF206"


def test_an_enrollment_request_is_decoded_unchanged() -> None:
    """The enrollment port carries messages without frames in both directions."""
    requested = messages.EnrollRequest(1, "token", "web-1", ["web"], "host", "machine", "0.1.0")
    answer = messages.EnrollAnswer("pending", "wait", "SHA256:x", "web-1", [], "tcp://:1", 5_000)

    assert codec.decode_enroll_request(bytes(memoryview(codec.encode_message(requested)))) == requested
    assert codec.decode_enroll_answer(bytes(memoryview(codec.encode_message(answer)))) == answer


def test_only_a_request_is_read_on_the_enrollment_port() -> None:
    """A work message and a large part are refused there."""
    with pytest.raises(RemoteProtocolError):
        codec.decode_enroll_request(bytes(memoryview(codec.encode_message(STARTED))))
    with pytest.raises(RemoteProtocolError):
        codec.decode_enroll_request(bytes(codec.ENROLL_BYTES_MAX + 1))
