"""The compiler process: reads requests from standard input and writes answers to standard output, one at a time.

Rules of this file: the process isolates the daemon from hostile files. It has no sockets, secrets or files of the daemon, and
limits itself before the first file: memory, no core dump, low priority. The kernel ends it when a file takes too much processor
time (SIGPROF), and an alarm when it takes too long, even without the parent. It also ends at the end of its input.

A frame is its length as four bytes, big-endian, followed by msgpack. First, an empty frame reports that the process is ready.
Then each request is answered with one `Answer`: the outcome, or the paths of the files that the next request for the same
workflow must contain, because this process cannot read files.
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

#: A ready process needs about 60 MB of address space beyond its libraries; a megabyte of YAML needs a few hundred MB.
MEMORY_BYTES_MAX = 1024 * 1024 * 1024

#: Running steps take precedence: neither a push of many files nor an editor that validates at each keystroke may slow them
#: down. With this value, the process gets about a quarter of a CPU that another process wants completely.
NICENESS = 5

#: Compiled once, so that lazy imports do not delay the first real file.
_WARM_UP = b"jobs: {warm: {runs-on: up, steps: [{run: 'echo ${{ run.id }}', if: success()}]}}"


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One file to compile."""

    path: str
    content: bytes
    #: Other files of its revision, None for missing ones. None for a file that was sent without a repository.
    files: dict[str, bytes | None] | None = None


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a request; exactly one of the fields is set."""

    compiled: dsl.Compiled | None = None
    missing: list[str] = []


def compiled(request: Request) -> Answer:
    """The answer to one request."""
    if request.files is None:
        return Answer(dsl.compile_workflow(request.path, request.content))
    outcome = dsl.compile_from_files(request.path, request.content, request.files)
    return Answer(outcome) if isinstance(outcome, dsl.Compiled) else Answer(None, outcome.paths)


def encode_frame(payload: bytes) -> bytes:
    """The payload after its length."""
    return LENGTH.pack(len(payload)) + payload


def limit(memory_bytes: int) -> None:
    """Limits the memory and priority of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)


def serve(requests: BinaryIO, answers: BinaryIO, cpu_s: float, timeout_s: float) -> None:
    """Answers requests until the input ends."""
    decoder = msgspec.msgpack.Decoder(Request)
    encoder = msgspec.msgpack.Encoder()
    answers.write(encode_frame(b""))
    answers.flush()
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        request = decoder.decode(requests.read(LENGTH.unpack(head)[0]))
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        payload = encoder.encode(compiled(request))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(encode_frame(payload))
        answers.flush()


def main(memory_bytes: int, cpu_s: float, timeout_s: float) -> None:
    """Runs the compiler process until its input ends."""
    # Ctrl-C and SIGTERM are for the parent; when it ends, the input ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    dsl.compile_workflow("warm-up.yml", _WARM_UP)
    limit(memory_bytes)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer, cpu_s, timeout_s)
    except BrokenPipeError:
        # The daemon was killed: exit without the messages that Python would print.
        os._exit(0)
