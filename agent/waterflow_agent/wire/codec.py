"""Encodes and decodes frames, with limits. Whatever the bytes are, the result is a frame or a `RemoteProtocolError`.

A frame is a msgpack array: `[session, ack, first_number, [numbered messages], [loose messages], stamp]`.

- `session` is the token that the agent chose in its `Hello`. It is empty in an answer to a frame without a session.
- `ack` is the highest number of the peer's messages up to which all are durable on this side; 0 for none.
- The numbered messages have the numbers `first_number`, `first_number + 1`, and so on.
- `stamp` of an agent's frame is the agent's boot clock when it sent the frame. A frame of the daemon repeats the highest stamp
  of the session that it has received; so the agent knows until when the daemon certainly knew that it was alive. 0 for none.
- Each list has at most `FRAME_MESSAGES_MAX` messages, whatever their size.
- Later versions may add fields at the end; this version ignores them.
- Each list is decoded as the kinds of messages that the peer may send: for the daemon, `Offer` from an agent is an unknown
  kind.

Messages are encoded one by one when they are queued, and frames are assembled from the raw bytes. So sizes are exact, a frame
can be split anywhere, and a retransmission costs one copy. On the enrollment port a part is one bare message, without a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import msgspec

from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.wire import messages

#: Of a session token: 128 random bits in hexadecimal, with room for another format.
TOKEN_LENGTH_MAX = 64
#: Of a frame without its messages: array headers, token, two numbers.
FRAME_OVERHEAD_BYTES = 128
#: Of a single message, so that a frame with it alone is accepted by the peer's socket.
SINGLE_BYTES_MAX = messages.MESSAGE_BYTES_MAX - FRAME_OVERHEAD_BYTES
#: Of an enrollment request, which anybody may send: names, groups and a token.
ENROLL_BYTES_MAX = 16 << 10
#: Of the text that describes an invalid frame.
_TEXT_LENGTH_MAX = 200

_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]
_Few = msgspec.Meta(max_length=messages.FRAME_MESSAGES_MAX)
_Token = Annotated[str, msgspec.Meta(max_length=TOKEN_LENGTH_MAX)]


class Side(Enum):
    """The side that sent a frame."""

    AGENT = "agent"
    DAEMON = "daemon"


class AgentFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame from an agent."""

    session: _Token
    ack: _Number
    first_number: _Number
    numbered: Annotated[list[messages.Started | messages.Finished], _Few]
    loose: Annotated[list[messages.Hello | messages.Output | messages.FileRequest | messages.ArtifactRequest], _Few]
    stamp: _Number = 0


class DaemonFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame from the daemon."""

    session: _Token
    ack: _Number
    first_number: _Number
    numbered: Annotated[list[messages.Offer | messages.Cancel | messages.Release], _Few]
    loose: Annotated[
        list[
            messages.Welcome
            | messages.KeyRotated
            | messages.Reject
            | messages.Reset
            | messages.OutputAck
            | messages.FileResponse
            | messages.ArtifactResponse
        ],
        _Few,
    ]
    stamp: _Number = 0


Frame = AgentFrame | DaemonFrame

_encoder = msgspec.msgpack.Encoder()
_agent_frames = msgspec.msgpack.Decoder(AgentFrame)
_daemon_frames = msgspec.msgpack.Decoder(DaemonFrame)
_enroll_requests = msgspec.msgpack.Decoder(messages.EnrollRequest)
_enroll_answers = msgspec.msgpack.Decoder(messages.EnrollAnswer)

#: Everything that a decoder raises on hostile bytes: wrong structure, invalid UTF-8, unhashable keys, endless nesting, lengths
#: that do not fit into memory.
_DECODING_ERRORS = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError, MemoryError)


def encode_message(message: messages.Message | messages.EnrollRequest | messages.EnrollAnswer) -> msgspec.Raw:
    """Returns the bytes of a message. Raises `LocalProtocolError` WF206 when it is too large or msgpack cannot encode it."""
    try:
        encoded = _encoder.encode(message)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LocalProtocolError("WF206", f"cannot encode a message: {_line(error)}") from error
    if len(encoded) > SINGLE_BYTES_MAX:
        raise LocalProtocolError("WF206", f"a message has {len(encoded)} bytes; the limit is {SINGLE_BYTES_MAX}")
    return msgspec.Raw(encoded)


def encode_frame(
    session: str,
    ack: int,
    first_number: int,
    numbered: Sequence[msgspec.Raw],
    loose: Sequence[msgspec.Raw],
    stamp: int = 0,
) -> bytes:
    """Returns a frame with encoded messages. The session splits lists so that frames stay small."""
    frame = _encoder.encode((session, ack, first_number, numbered, loose, stamp))
    if len(frame) > messages.MESSAGE_BYTES_MAX:
        raise LocalProtocolError("WF206", f"a frame has {len(frame)} bytes; the limit is {messages.MESSAGE_BYTES_MAX}")
    return frame


def decode_frame(frame: bytes | memoryview, sender: Side) -> Frame:
    """Decodes a frame. Raises `RemoteProtocolError` WF201 (too large), WF202 (malformed), WF203 (unknown kind)."""
    decoder: msgspec.msgpack.Decoder[AgentFrame] | msgspec.msgpack.Decoder[DaemonFrame]
    decoder = _agent_frames if sender is Side.AGENT else _daemon_frames
    _check_size(len(frame), messages.MESSAGE_BYTES_MAX)
    try:
        return decoder.decode(frame)
    except _DECODING_ERRORS as error:
        raise _malformed(error) from error


def decode_enroll_request(part: bytes | memoryview) -> messages.EnrollRequest:
    """Decodes a request on the enrollment port. Raises the same errors as `decode_frame`."""
    _check_size(len(part), ENROLL_BYTES_MAX)
    try:
        return _enroll_requests.decode(part)
    except _DECODING_ERRORS as error:
        raise _malformed(error) from error


def decode_enroll_answer(part: bytes | memoryview) -> messages.EnrollAnswer:
    """Decodes an answer on the enrollment port. Raises the same errors as `decode_frame`."""
    _check_size(len(part), ENROLL_BYTES_MAX)
    try:
        return _enroll_answers.decode(part)
    except _DECODING_ERRORS as error:
        raise _malformed(error) from error


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise RemoteProtocolError("WF201", f"a part has {size} bytes; the limit is {limit}")


def _malformed(error: BaseException) -> RemoteProtocolError:
    # msgspec says "Invalid value" for a tag that no kind of message has; a wrong enum member reads "Invalid enum value".
    if isinstance(error, msgspec.ValidationError) and str(error).startswith("Invalid value"):
        return RemoteProtocolError("WF203", f"unknown kind of message, or not allowed from this side: {_line(error)}")
    return RemoteProtocolError("WF202", f"malformed frame: {_line(error)}")


def _line(error: BaseException) -> str:
    """Returns the error as one printable line, because it may quote the peer."""
    text = str(error) or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode().translate(_CONTROLS)[:_TEXT_LENGTH_MAX]


_CONTROLS = dict.fromkeys((*range(32), 127), "?")
