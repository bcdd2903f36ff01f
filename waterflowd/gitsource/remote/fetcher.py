"""Starts fetch children: one process for each fetch, in its own process group, so that it can be killed with its children.

Rules of this file: the child gets its request only on its input, not in arguments or its environment, and inherits only its
pipes. The caller gets a response or an error within the request's time limit and a few seconds. Only a few children start at a
time, so that a daemon with many repositories does not start a hundred of them together; a slow child gives up its slot, so that
remotes that hang do not delay others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys

import msgspec

from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource.remote.fetch_errors import timed_out
from waterflowd.gitsource.remote.fetch_protocol import (
    LENGTH,
    RESPONSE_BYTES_MAX,
    Fetched,
    FetchFailed,
    FetchRequest,
    FetchResponse,
    encode_frame,
)
from waterflowd.reconcile import codes

_AT_ONCE = 8
_SLOT_S = 5.0
#: The child enforces the time limit itself; this is for one that hangs.
_GRACE_S = 5.0
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from waterflowd.gitsource.remote import fetch_child as c; c.main()"
)
#: What is needed to find programs and libraries. No proxies, no settings of Git or ssh, no secrets.
_KEPT_ENVIRONMENT = frozenset(["PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"])
_responses: msgspec.msgpack.Decoder[FetchResponse] = msgspec.msgpack.Decoder(FetchResponse)


class Fetcher:
    """Runs the fetch children of all repositories."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, request: FetchRequest) -> Fetched:
        """Performs one fetch; `Retryable` or `Stalled` if it fails. Cancelling ends the child."""
        async with self._slots:
            work = asyncio.create_task(_fetch(request))
            try:
                await asyncio.wait((work,), timeout=_SLOT_S)
            except asyncio.CancelledError:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                raise
        response = await work
        if isinstance(response, FetchFailed):
            raise (Retryable if response.is_retryable else Stalled)(response.code, response.text)
        return response


async def _fetch(request: FetchRequest) -> FetchResponse:
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-c",
            _BOOT,
            json.dumps(sys.path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            close_fds=True,
            start_new_session=True,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name in _KEPT_ENVIRONMENT}
            | {"LC_ALL": "C.UTF-8"},
        )
    except OSError as error:
        return FetchFailed(code=codes.NOT_THERE, text=f"cannot start a fetch: {error.strerror}")
    try:
        async with asyncio.timeout(request.limits.time_s + _GRACE_S):
            return await _exchange(child, request)
    except TimeoutError:
        return timed_out(request)
    except (OSError, EOFError, msgspec.MsgspecError):
        text = f"the fetch from {request.url.authority} ended without a response; it may have exceeded its memory limit"
        return FetchFailed(code=codes.FETCH_LIMIT, text=text)
    finally:
        await _end(child)


async def _exchange(child: asyncio.subprocess.Process, request: FetchRequest) -> FetchResponse:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(encode_frame(msgspec.msgpack.encode(request)))
    await child.stdin.drain()
    # The input stays open: its end tells the child that the daemon no longer waits.
    size = LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))[0]
    if size > RESPONSE_BYTES_MAX:
        raise EOFError("the response is too large")
    return _responses.decode(await child.stdout.readexactly(size))


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ends the child and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    assert child.stdin is not None
    child.stdin.close()
    await child.wait()
    with contextlib.suppress(OSError):
        await child.stdin.wait_closed()
