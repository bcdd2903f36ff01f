"""Starts fetch children: one for each fetch, started by exec and killable with everything that it has started.

Rules of this file: the child gets its request on its input and nothing else, neither in arguments nor in its environment; it
inherits no descriptor but its pipes. Whatever becomes of it, the caller gets an answer or an error within the time of the
request and a few seconds. A few children begin at once and the others wait for their turn, so that a daemon with many
repositories does not start a hundred of them together; a child that takes long gives its turn away, so remotes that hang
hold up no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys

import msgspec

from waterflow_agent.errors import Retryable, Stalled, WaterflowError
from waterflowd.gitsource.remote.fetch_protocol import (
    ANSWER_BYTES_MAX,
    LENGTH,
    Answer,
    Fetched,
    FetchFailed,
    FetchRequest,
    encode_frame,
)
from waterflowd.reconcile import codes

_AT_ONCE = 8
_TURN_S = 5.0
#: The child ends itself in time; this is for one that cannot.
_GRACE_S = 5.0
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from waterflowd.gitsource.remote import fetch_child as c; c.main()"
)
#: What programs and libraries need to be found. Neither proxies nor settings of Git or ssh, and no secrets.
_KEPT_ENVIRONMENT = frozenset(["PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"])
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class Fetches:
    """The fetch children of all repositories."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, request: FetchRequest) -> Fetched:
        """Does one fetch. `Retryable` or `Stalled` with a sentence when nothing came of it; cancelling ends the child."""
        async with self._turns:
            work = asyncio.create_task(_fetch(request))
            try:
                await asyncio.wait((work,), timeout=_TURN_S)
            except asyncio.CancelledError:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                raise
        given = await work
        if isinstance(given, FetchFailed):
            raise _error(given)
        return given


def _error(refused: FetchFailed) -> WaterflowError:
    return (Retryable if refused.is_retryable else Stalled)(refused.code, refused.text)


async def _fetch(request: FetchRequest) -> Answer:
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
        return FetchFailed(code=codes.NOT_THERE, text=f"a fetch could not be started: {error.strerror}")
    try:
        async with asyncio.timeout(request.limits.time_s + _GRACE_S):
            return await _exchange(child, request)
    except TimeoutError:
        text = (
            f"{request.url.authority} did not finish in {request.limits.time_s:g} s: it hangs, or raise fetch-timeout"
        )
        return FetchFailed(code=codes.TOO_SLOW, text=text)
    except (OSError, EOFError, msgspec.MsgspecError):
        text = f"the fetch from {request.url.authority} ended without an answer; it may have taken too much memory"
        return FetchFailed(code=codes.FETCH_LIMIT, text=text)
    finally:
        await _end(child)


async def _exchange(child: asyncio.subprocess.Process, request: FetchRequest) -> Answer:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(encode_frame(msgspec.msgpack.encode(request)))
    await child.stdin.drain()
    # The input stays open: its end tells the child that nobody waits for it any more.
    size = LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))[0]
    if size > ANSWER_BYTES_MAX:
        raise EOFError("an answer without end")
    return _answers.decode(await child.stdout.readexactly(size))


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ends the child and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    assert child.stdin is not None
    child.stdin.close()
    await child.wait()
    with contextlib.suppress(OSError):
        await child.stdin.wait_closed()
