"""The compiler's side of the pipe: reads files from standard input, answers on standard output, one after the other.

Rules of this file: the process exists so that a hostile file can stop nothing. It has no sockets, no secrets and no
files of the daemon; it limits itself before the first file: memory, no core dump, and behind the daemon's own work.
An alarm ends it when a file takes too long, so even without a parent it cannot run on. End of input (the parent closed, or is
gone) ends it.

A frame is its length as four bytes, big-endian, then msgpack. First an empty frame says that the child is warm. Then
for each request comes one `Answer`: the outcome, or the paths of the other files that the next request of the same file
has to bring along, because this process can read none itself.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

import msgspec

from waterflowd import dsl

LENGTH = struct.Struct(">I")

#: A warm child needs about 60 MB of addresses beyond its libraries; a megabyte of YAML a few hundred.
MEMORY_BYTES_MAX = 1024 * 1024 * 1024

#: What runs has the first call on the processors: a push of many files, or an editor that validates at each key, must not
#: stand in the way of steps. It leaves a child a quarter of a processor that somebody else would take whole.
NICENESS = 5

#: Compiled once, so that the first real file does not pay for what loads late.
_WARM_UP = b"jobs: {warm: {runs-on: up, steps: [{run: 'echo ${{ run.id }}', if: success()}]}}"


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One file to compile."""

    path: str
    content: bytes
    #: Other files of its revision, None for those that do not exist; None for a file that came without its repository.
    files: dict[str, bytes | None] | None = None


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What became of a request; exactly one of the two is there."""

    compiled: dsl.Compiled | None = None
    wanted: list[str] = []


def compiled(request: Request) -> Answer:
    """The answer to one request."""
    if request.files is None:
        return Answer(dsl.compile_workflow(request.path, request.content))
    outcome = dsl.compile_knowing(request.path, request.content, request.files)
    return Answer(outcome) if isinstance(outcome, dsl.Compiled) else Answer(None, outcome.paths)


def encode_frame(payload: bytes) -> bytes:
    """The payload with its length in front."""
    return LENGTH.pack(len(payload)) + payload


def limit(memory_bytes: int) -> None:
    """Bounds what this process may take; only what it already has stays usable."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)


def serve(requests: BinaryIO, answers: BinaryIO, timeout_s: float) -> None:
    """Answers requests until the input ends."""
    decoder = msgspec.msgpack.Decoder(Request)
    encoder = msgspec.msgpack.Encoder()
    answers.write(encode_frame(b""))
    answers.flush()
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        request = decoder.decode(requests.read(LENGTH.unpack(head)[0]))
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        answer = compiled(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(encode_frame(encoder.encode(answer)))
        answers.flush()


def main(memory_bytes: int, timeout_s: float) -> None:
    """Runs as the child until its input ends."""
    # A terminal's Ctrl-C and the service manager's SIGTERM are for the parent, whose end ends the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    dsl.compile_workflow("warm-up.yml", _WARM_UP)
    limit(memory_bytes)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer, timeout_s)
    except BrokenPipeError:
        # The daemon was killed: nobody reads answers any more, nor what Python would say about it at the end.
        os._exit(0)
