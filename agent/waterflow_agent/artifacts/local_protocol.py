"""What a step and its agent exchange over the step's socket: frames of a length (four bytes) and msgpack.

The step numbers its requests, and repeats those without an answer on its next connection: the agent may have been restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from waterflow_agent.wire import messages

#: The name of the socket in the directory with the files of the step.
SOCKET = "artifacts"
#: The name of the socket for caches that the server itself keeps.
CACHE_SOCKET = "caches"
#: Requests of one step that wait for their answers.
IN_FLIGHT_MAX = 8
_LENGTH = struct.Struct(">I")
#: A block, or the index blocks of many artifacts.
FRAME_BYTES_MAX = 4 << 20


class StepRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request of a step."""

    number: int
    action: messages.ArtifactAction


class StepResponse(msgspec.Struct, frozen=True, array_like=True):
    """The answer; see `messages.ArtifactResponse`."""

    number: int
    result: messages.ArtifactResult | None
    code: str = ""
    text: str = ""
    after_ms: int = 0


_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(StepRequest)
_responses = msgspec.msgpack.Decoder(StepResponse)


def encode(message: StepRequest | StepResponse) -> bytes:
    """The bytes of a frame."""
    content = _encoder.encode(message)
    return _LENGTH.pack(len(content)) + content


async def read_request(reader: asyncio.StreamReader) -> StepRequest:
    """The next request. Raises `EOFError`, `OSError`, `ValueError` or `msgspec.MsgspecError` when the connection is over."""
    return _requests.decode(await _read(reader))


async def read_response(reader: asyncio.StreamReader) -> StepResponse:
    """The next response; raises as `read_request`."""
    return _responses.decode(await _read(reader))


async def _read(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {length} bytes")
    return await reader.readexactly(length)


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address of a socket's path, which may be longer than an address can be. Raises `OSError`."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def new_socket() -> socket.socket:
    """A socket that does not block."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    made.setblocking(False)
    return made
