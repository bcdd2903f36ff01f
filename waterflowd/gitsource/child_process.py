"""Runs one call in a process of its own, in its own process group, so that it can be killed with its children.

Rules of this file: the child gets its request only on its input, not in arguments or its environment, and inherits only its
pipes. A frame is its length as four bytes, big-endian, then the content. The child's input stays open after the request; its
end means that the daemon no longer waits. The caller gets a response or an exception within the time limit and a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Coroutine
from typing import Any, BinaryIO, TypeVar

Result = TypeVar("Result")

LENGTH = struct.Struct(">I")
#: A hundred thousand refs take some ten megabytes.
RESPONSE_BYTES_MAX = 64 << 20
#: The child enforces the time limit itself; this is for one that hangs.
_GRACE_S = 5.0
_BOOT = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]); importlib.import_module(sys.argv[2]).main()"
)
#: What is needed to find programs and libraries. No proxies, no settings of Git or ssh, no secrets.
_KEPT_ENVIRONMENT = frozenset(["PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"])


async def call(module: str, request: bytes, time_s: float) -> bytes:
    """The response of `main()` of a module to a request. Cancelling ends the child.

    Raises `TimeoutError`; `EOFError` if the child ended without a response; `OSError` if it cannot be started or written to.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-c",
        _BOOT,
        json.dumps(sys.path),
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        close_fds=True,
        start_new_session=True,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name in _KEPT_ENVIRONMENT} | {"LC_ALL": "C.UTF-8"},
    )
    try:
        async with asyncio.timeout(time_s + _GRACE_S):
            return await _exchange(child, request)
    finally:
        await _end(child)


class Slots:
    """Bounds how many children work at a time, of those that do not take long: a slow one does not delay others."""

    def __init__(self, at_once: int, slot_s: float) -> None:
        """After `slot_s` a child gives up its slot and continues."""
        self._slots = asyncio.Semaphore(at_once)
        self._slot_s = slot_s

    async def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Awaits a coroutine that waits for a child. Cancelling cancels it."""
        work: asyncio.Task[Result] | None = None
        try:
            async with self._slots:
                work = asyncio.create_task(coroutine)
                await asyncio.wait((work,), timeout=self._slot_s)
            return await work
        except asyncio.CancelledError:
            if work is None:
                coroutine.close()
            else:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            raise


async def _exchange(child: asyncio.subprocess.Process, request: bytes) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(encode_frame(request))
    await child.stdin.drain()
    size = LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))[0]
    if size > RESPONSE_BYTES_MAX:
        raise EOFError("the response is too large")
    return await child.stdout.readexactly(size)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ends the child and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    assert child.stdin is not None
    child.stdin.close()
    await child.wait()
    with contextlib.suppress(OSError):
        await child.stdin.wait_closed()


def encode_frame(payload: bytes) -> bytes:
    """The payload with its length prefix."""
    return LENGTH.pack(len(payload)) + payload


# In the child ---------------------------------------------------------------------------------------------------------------


def prepare() -> None:
    """Prepares the process: private files, and signals that the daemon handles. Its end closes the input."""
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def read_request(input_: BinaryIO) -> bytes:
    """The request of the daemon."""
    size = LENGTH.unpack(input_.read(LENGTH.size))[0]
    return input_.read(size)


def end_with_the_daemon(input_: BinaryIO) -> None:
    """Kills this process and its children when the input ends."""

    def wait() -> None:
        while input_.read(1):
            pass
        end_all()

    threading.Thread(target=wait, name="daemon", daemon=True).start()


def end_all() -> None:
    """Kills this process and its children."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def write_response(output: BinaryIO, response: bytes) -> None:
    """Sends the response."""
    output.write(encode_frame(response))
    output.flush()
