"""Bytes to frames and back, with limits. Pure: whatever the bytes are, the answer is a frame or `RemoteProtocolError`.

A frame is a msgpack array: `[session, ack, first_number, [numbered messages], [loose messages]]`.

- `session` is the token that the agent chose in its `Hello`; it is empty in an answer to something that has no session.
- `ack` is the highest number of the peer's that is durable here, and so are all before it. 0 for none.
- The numbered messages have the numbers `first_number`, `first_number + 1`, and so on.
- Later versions may add fields at the end; they are ignored here.
- Each list is decoded as what that peer may put there and nothing else: an agent's `Offer` is an unknown kind to the daemon.

Messages are encoded one by one when they are queued and put together as raw bytes, so that sizes are exact, a frame is split
where it must be, and sending again costs a copy. On the enrollment port a part is one bare message, without a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import msgspec

from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.wire import messages

#: A session token: 128 random bits in hexadecimal, with room for another way to make one.
TOKEN_LENGTH_MAX = 64
#: What a frame costs besides its messages: array headers, token, two numbers.
FRAME_OVERHEAD_BYTES = 128
#: Largest single message: a frame of its own that the peer's socket still takes.
SINGLE_BYTES_MAX = messages.MESSAGE_BYTES_MAX - FRAME_OVERHEAD_BYTES
#: Names, groups and a token; an enrollment needs no more, and strangers may send it.
ENROLL_BYTES_MAX = 16 << 10
#: A peer's fault is told in one line.
_TEXT_LENGTH_MAX = 200

_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]
_Token = Annotated[str, msgspec.Meta(max_length=TOKEN_LENGTH_MAX)]


class Side(Enum):
    """Who sent a frame."""

    AGENT = "agent"
    DAEMON = "daemon"


class AgentFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame that an agent sent."""

    session: _Token
    ack: _Number
    first_number: _Number
    numbered: list[messages.Started | messages.Finished]
    loose: list[messages.Hello | messages.Output | messages.FileRequest]


class DaemonFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame that the daemon sent."""

    session: _Token
    ack: _Number
    first_number: _Number
    numbered: list[messages.Offer | messages.Cancel | messages.Release]
    loose: list[messages.Welcome | messages.Reject | messages.Reset | messages.OutputAck | messages.FileResponse]


Frame = AgentFrame | DaemonFrame

_encoder = msgspec.msgpack.Encoder()
_agent_frames = msgspec.msgpack.Decoder(AgentFrame)
_daemon_frames = msgspec.msgpack.Decoder(DaemonFrame)
_enroll_requests = msgspec.msgpack.Decoder(messages.EnrollRequest)
_enroll_answers = msgspec.msgpack.Decoder(messages.EnrollAnswer)

#: All that a decoder raises on hostile bytes: bad structure, bad UTF-8, keys that have no hash, nesting without end, lengths
#: that nobody has memory for.
_DECODING_FAULTS = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError, MemoryError)


def encode_message(message: messages.Message | messages.EnrollRequest | messages.EnrollAnswer) -> msgspec.Raw:
    """The bytes of one message. `LocalProtocolError` WF206 when it is larger than a peer takes or holds what msgpack cannot."""
    try:
        encoded = _encoder.encode(message)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LocalProtocolError("WF206", f"a message cannot be put on the wire: {_line(error)}") from error
    if len(encoded) > SINGLE_BYTES_MAX:
        raise LocalProtocolError(
            "WF206", f"a message of {len(encoded)} bytes is larger than the {SINGLE_BYTES_MAX} that a peer takes"
        )
    return msgspec.Raw(encoded)


def encode_frame(
    session: str, ack: int, first_number: int, numbered: Sequence[msgspec.Raw], loose: Sequence[msgspec.Raw]
) -> bytes:
    """Puts encoded messages into a frame. Splitting lists so that a frame stays small is the session's work."""
    frame = _encoder.encode((session, ack, first_number, numbered, loose))
    if len(frame) > messages.MESSAGE_BYTES_MAX:
        raise LocalProtocolError("WF206", f"a frame of {len(frame)} bytes is larger than a peer takes")
    return frame


def decode_frame(frame: bytes | memoryview, sender: Side) -> Frame:
    """A frame as typed values. `RemoteProtocolError` WF201 (too large), WF202 (malformed), WF203 (unknown kind)."""
    decoder: msgspec.msgpack.Decoder[AgentFrame] | msgspec.msgpack.Decoder[DaemonFrame]
    decoder = _agent_frames if sender is Side.AGENT else _daemon_frames
    _check_size(len(frame), messages.MESSAGE_BYTES_MAX)
    try:
        return decoder.decode(frame)
    except _DECODING_FAULTS as error:
        raise _malformed(error) from error


def decode_enroll_request(part: bytes | memoryview) -> messages.EnrollRequest:
    """What a stranger asks on the enrollment port; errors as in `decode_frame`."""
    _check_size(len(part), ENROLL_BYTES_MAX)
    try:
        return _enroll_requests.decode(part)
    except _DECODING_FAULTS as error:
        raise _malformed(error) from error


def decode_enroll_answer(part: bytes | memoryview) -> messages.EnrollAnswer:
    """What the daemon answers on the enrollment port; errors as in `decode_frame`."""
    _check_size(len(part), ENROLL_BYTES_MAX)
    try:
        return _enroll_answers.decode(part)
    except _DECODING_FAULTS as error:
        raise _malformed(error) from error


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise RemoteProtocolError("WF201", f"{size} bytes in one part, where {limit} are the limit")


def _malformed(error: BaseException) -> RemoteProtocolError:
    # msgspec says "Invalid value" for a tag that no kind of message has; a wrong enum member reads "Invalid enum value".
    if isinstance(error, msgspec.ValidationError) and str(error).startswith("Invalid value"):
        return RemoteProtocolError("WF203", f"a kind of message that is not known or not allowed here: {_line(error)}")
    return RemoteProtocolError("WF202", f"a malformed frame: {_line(error)}")


def _line(error: BaseException) -> str:
    """What went wrong in one printable line: the text may quote the peer."""
    text = str(error) or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode().translate(_CONTROLS)[:_TEXT_LENGTH_MAX]


_CONTROLS = dict.fromkeys((*range(32), 127), "?")
