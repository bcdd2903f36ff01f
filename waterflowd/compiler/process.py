"""Compiles workflow files in a child process, so that the event loop stays free and hostile files cannot harm the daemon.

Rules of this file: one child compiles one file at a time. A file takes a millisecond, so one child is enough. Every client gets
the same share of its time (fair_queue.py); a client is what should not delay the others, such as a repository or a principal.
The child is started with exec and inherits only its pipes. When it dies, it is replaced and the file is tried once more
(something else may have killed an idle child); when a file takes too long, the child is killed and the result is a diagnostic.
The work of a caller that is cancelled is dropped, unless it has begun.

The child cannot read files. When a workflow uses other files, the child names them, and the task of the caller (not the worker,
so that a slow reader delays only its caller) reads them and tries again. Each round names new files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import Self

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.compiler.child import LENGTH, MEMORY_BYTES_MAX, Answer, Request, encode_frame
from waterflowd.compiler.fair_queue import FairQueue, QueueFull
from waterflowd.dsl.reading.size_limit import CONTENT_BYTES_MAX, oversized
from waterflowd.dsl.reporting.diagnostics import Compiled, Diagnostic
from waterflowd.ports import FileReader

#: Processor time for one file: ten times what the largest files that people write take. A busy machine makes no difference.
FILE_CPU_S = 2.0
#: The same in real time, for a child that hangs.
FILE_TIMEOUT_S = 10.0

#: A cold start takes half a second, and many times that while a machine boots.
START_TIMEOUT_S = 60.0

#: Other files that one workflow may use; the language allows no more.
_FILES_MAX = 200

#: Files of one client that may wait; further ones are refused.
WAITING_MAX = 16

#: A plan and a hundred diagnostics are far smaller; a longer answer is invalid.
_ANSWER_BYTES_MAX = 64 * 1024 * 1024

#: The child uses the packages of the parent, and nothing of the environment that could change them.
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from waterflowd.compiler import child; child.main({}, {}, {})"

#: Needed by a Python outside the usual places. The environment may contain secrets, so nothing else is passed on.
_KEPT_ENVIRONMENT = frozenset(["LD_LIBRARY_PATH"])

_STOPPED = "WF130"


class _ChildFailed(Exception):
    """The child ended, or was killed because it did not work; the text says why."""


class _ChildTooSlow(_ChildFailed):
    """A file exceeded a time limit; another try would take as long."""


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    request: Request
    answer: asyncio.Future[Answer]


class CompilerProcess:
    """The compiler port over a child process. `async with`, or `start` and `close`; safe for any number of callers."""

    def __init__(
        self,
        *,
        file_cpu_s: float = FILE_CPU_S,
        file_timeout_s: float = FILE_TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES_MAX,
        starts_early: bool = True,
    ) -> None:
        self._file_cpu_s = file_cpu_s
        self._file_timeout_s = file_timeout_s
        self._memory_bytes = memory_bytes
        #: Whether the child starts before the first file.
        self._starts_early = starts_early
        self._child: asyncio.subprocess.Process | None = None
        self._queue: FairQueue[_Work] = FairQueue(WAITING_MAX)
        self._worker: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the child, or None when none is running."""
        child = self._child
        return child.pid if child is not None and child.returncode is None else None

    async def start(self) -> None:
        """Starts working in the background; calls of `compile` wait for the child."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="compiler")

    async def close(self) -> None:
        """Ends the child; queued files get a diagnostic."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None
        await self._end_child()
        while (taken := self._queue.take_nowait()) is not None:
            _resolve(taken[1], _stopped(taken[1].request.path, "the daemon stopped before this file was compiled"))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def compile(self, path: str, content: bytes, files: FileReader | None = None, *, client: str) -> Compiled:
        """Compiles one file; see the port."""
        if len(content) > CONTENT_BYTES_MAX:
            return Compiled(plan=None, diagnostics=[oversized(path, len(content))])
        if files is None:
            return _outcome(path, await self._ask(client, Request(path=path, content=content)))
        known: dict[str, bytes | None] = {}
        while True:
            answer = await self._ask(client, Request(path=path, content=content, files=dict(known)))
            missing = [other for other in answer.missing if other not in known]
            if not missing or len(known) >= _FILES_MAX:
                return _outcome(path, answer)
            for other in missing:
                found = await files(other)
                # One byte beyond the limit is enough for the error.
                known[other] = found if found is None else found[: CONTENT_BYTES_MAX + 1]

    async def _ask(self, client: str, request: Request) -> Answer:
        if self._worker is None:
            return Answer(_stopped(request.path, "the compiler is not running"))
        work = _Work(request, asyncio.get_running_loop().create_future())
        try:
            self._queue.put(client, work)
        except QueueFull:
            text = f"{WAITING_MAX} files of yours are already waiting to be compiled; try again when one is done"
            raise Rejected("WF609", text, status=429) from None
        try:
            return await work.answer
        finally:
            self._queue.discard(client, work)

    async def _work(self) -> None:
        if self._starts_early:
            with contextlib.suppress(_ChildFailed):
                await self._warm_child()
        loop = asyncio.get_running_loop()
        while True:
            client, work = await self._queue.take()
            began = loop.time()
            try:
                _resolve(work, (await self._compiled(work.request)))
            except asyncio.CancelledError:
                _resolve(work, _stopped(work.request.path, "the daemon stopped while this file was compiled"))
                raise
            self._queue.charge(client, loop.time() - began)

    async def _compiled(self, request: Request) -> Answer:
        for is_last in (False, True):
            try:
                return await self._exchange(request)
            except _ChildFailed as error:
                await self._end_child()
                if is_last or isinstance(error, _ChildTooSlow):
                    return Answer(_stopped(request.path, str(error)))
        raise AssertionError("the last try returns")

    async def _exchange(self, request: Request) -> Answer:
        child = await self._warm_child()
        assert child.stdin is not None
        try:
            async with asyncio.timeout(self._file_timeout_s):
                child.stdin.write(encode_frame(msgspec.msgpack.encode(request)))
                await child.stdin.drain()
                payload = await _read_frame(child)
        except TimeoutError:
            raise _ChildTooSlow(f"compiling this file took longer than {self._file_timeout_s:g} s") from None
        except (OSError, EOFError):
            if await self._end_child() == -signal.SIGPROF:
                text = (
                    f"compiling this file took more than {self._file_cpu_s:g} s of processor time, which is the limit"
                )
                raise _ChildTooSlow(text) from None
            raise _ChildFailed("the compiler crashed while it compiled this file") from None
        return msgspec.msgpack.decode(payload, type=Answer)

    async def _warm_child(self) -> asyncio.subprocess.Process:
        """The running child, or a new one after it has reported that it is ready."""
        if self._child is not None and self._child.returncode is None:
            return self._child
        await self._end_child()
        # The alarm of the child comes later than our own timeout, for the case that the daemon is gone.
        boot = _BOOT.format(self._memory_bytes, self._file_cpu_s, self._file_timeout_s * 1.5)
        try:
            self._child = child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-c",
                boot,
                json.dumps(sys.path),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                close_fds=True,
                cwd="/",
                env={name: value for name, value in os.environ.items() if name in _KEPT_ENVIRONMENT},
            )
            async with asyncio.timeout(START_TIMEOUT_S):
                await _read_frame(child)
        except (OSError, EOFError, TimeoutError) as error:
            raise _ChildFailed(f"cannot start the compiler: {error or 'it ended immediately'}") from None
        return child

    async def _end_child(self) -> int | None:
        """Ends the child, if there is one, and returns its exit status. One that has ended by itself keeps its own."""
        child, self._child = self._child, None
        if child is None:
            return None
        assert child.stdin is not None
        child.stdin.close()
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        status = await child.wait()
        with contextlib.suppress(OSError):
            await child.stdin.wait_closed()
        return status


async def _read_frame(child: asyncio.subprocess.Process) -> bytes:
    """The payload of the next frame; raises EOFError when the child ends first or sends an invalid length."""
    assert child.stdout is not None
    size = LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))[0]
    if size > _ANSWER_BYTES_MAX:
        raise EOFError("the answer is too long")
    return await child.stdout.readexactly(size)


def _resolve(work: _Work, answer: Answer | Compiled) -> None:
    if not work.answer.done():
        work.answer.set_result(answer if isinstance(answer, Answer) else Answer(answer))


def _outcome(path: str, answer: Answer) -> Compiled:
    return answer.compiled or _stopped(path, "this file uses too many other files")


def _stopped(path: str, text: str) -> Compiled:
    suggestion = "split the workflow, or move long scripts into files; if the file is small, report this as a bug"
    stopped = Diagnostic(code=_STOPPED, path=path, line=1, column=1, message=text, suggestion=suggestion)
    return Compiled(plan=None, diagnostics=[stopped])
