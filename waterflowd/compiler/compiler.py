"""Compiles workflow files in a warm child process, so that the loop stays free and a hostile file can stop nothing.

Rules of this file: one child, one file at a time, in the order of the calls; a file takes a millisecond, so one is
enough. The child is started by exec, never forked on, and inherits no descriptor but its pipes. Whatever becomes of
it, the caller gets a `Compiled`: a child that dies under a file is replaced and the file tried once more (an idle
child may have been killed by somebody else), one that takes too long is killed, and then a diagnostic says so. A
caller that goes away changes nothing for the next one.

The child has no files. When a workflow uses others, it says which, and the caller's task (never the worker, so that a slow
reader holds up nobody) reads them and asks again; each round names files that the one before did not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Self

import msgspec

from waterflowd.compiler.child import LENGTH, MEMORY_BYTES_MAX, Answer, Request, encode_frame
from waterflowd.dsl.reading.size_limit import CONTENT_BYTES_MAX, oversized
from waterflowd.dsl.reporting.diagnostics import Compiled, Diagnostic
from waterflowd.ports import FileReader

#: Far above what a file within the bounds takes, far below what a person waits for.
FILE_TIMEOUT_S = 10.0

#: A cold start takes half a second; a machine that is busy booting may take many times that.
START_TIMEOUT_S = 60.0

#: Other files that one workflow may bring along; the language allows no more.
_FILES_MAX = 200

#: Files that wait for their turn; further callers wait before they are queued.
_WAITING_MAX = 64

#: A plan and a hundred diagnostics stay far below; a longer answer is no answer.
_ANSWER_BYTES_MAX = 64 * 1024 * 1024

#: The child sees the packages that the parent sees, and nothing of its environment that could lead elsewhere.
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from waterflowd.compiler import child as c; c.main({}, {})"

#: What a Python that is not installed in the usual places needs; the daemon's secrets stay out.
_KEPT_ENVIRONMENT = frozenset(["LD_LIBRARY_PATH"])

_STOPPED = "WF130"


class _ChildFailed(Exception):
    """The child is gone, or was ended because it was of no use; the text is one sentence."""


class _ChildTooSlow(_ChildFailed):
    """A file took longer than it may; another try would take as long."""


class CompilerProcess:
    """The compiler port over a child process. `async with`, or `start` and `close`; safe for any number of callers."""

    def __init__(self, *, file_timeout_s: float = FILE_TIMEOUT_S, memory_bytes: int = MEMORY_BYTES_MAX) -> None:
        self._file_timeout_s = file_timeout_s
        self._memory_bytes = memory_bytes
        self._child: asyncio.subprocess.Process | None = None
        self._waiting: asyncio.Queue[tuple[Request, asyncio.Future[Answer]]] = asyncio.Queue(_WAITING_MAX)
        self._worker: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id while there is a warm one."""
        child = self._child
        return child.pid if child is not None and child.returncode is None else None

    async def start(self) -> None:
        """Begins to start the child and returns; files may be given at once and wait for it."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="compiler")

    async def close(self) -> None:
        """Ends the child; files that still wait get a diagnostic."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None
        await self._end_child()
        while not self._waiting.empty():
            request, answer = self._waiting.get_nowait()
            _resolve(answer, Answer(_stopped(request.path, "the compiler was closed before this file's turn came")))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def compile(self, path: str, content: bytes, files: FileReader | None = None) -> Compiled:
        """Compiles one file; see the port."""
        if len(content) > CONTENT_BYTES_MAX:
            return Compiled(plan=None, diagnostics=[oversized(path, len(content))])
        if files is None:
            return _outcome(path, await self._ask(Request(path=path, content=content)))
        known: dict[str, bytes | None] = {}
        while True:
            answer = await self._ask(Request(path=path, content=content, files=dict(known)))
            wanted = [other for other in answer.wanted if other not in known]
            if not wanted or len(known) >= _FILES_MAX:
                return _outcome(path, answer)
            for other in wanted:
                found = await files(other)
                # One byte too many is enough to be refused.
                known[other] = found if found is None else found[: CONTENT_BYTES_MAX + 1]

    async def _ask(self, request: Request) -> Answer:
        if self._worker is None:
            return Answer(_stopped(request.path, "the compiler is not running"))
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        await self._waiting.put((request, answer))
        return await answer

    async def _work(self) -> None:
        with contextlib.suppress(_ChildFailed):
            await self._warm_child()
        while True:
            request, answer = await self._waiting.get()
            if answer.done():
                continue
            try:
                _resolve(answer, await self._compiled(request))
            except asyncio.CancelledError:
                _resolve(answer, Answer(_stopped(request.path, "the compiler was closed while it worked on this file")))
                raise

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
            raise _ChildFailed("the compiler ended while it worked on this file") from None
        return msgspec.msgpack.decode(payload, type=Answer)

    async def _warm_child(self) -> asyncio.subprocess.Process:
        """The running child, or a new one once it has said that it is ready."""
        if self._child is not None and self._child.returncode is None:
            return self._child
        await self._end_child()
        # The child's own alarm comes a little later than ours, for the time when nobody is left to end it.
        boot = _BOOT.format(self._memory_bytes, self._file_timeout_s * 1.5)
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
            raise _ChildFailed(f"the compiler could not be started: {error or 'it ended at once'}") from None
        return child

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        child.stdin.close()
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await child.wait()
        with contextlib.suppress(OSError):
            await child.stdin.wait_closed()


async def _read_frame(child: asyncio.subprocess.Process) -> bytes:
    """The payload of the next frame; raises EOFError when the child ends before or sends nonsense."""
    assert child.stdout is not None
    size = LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))[0]
    if size > _ANSWER_BYTES_MAX:
        raise EOFError("an answer without end")
    return await child.stdout.readexactly(size)


def _resolve(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)


def _outcome(path: str, answer: Answer) -> Compiled:
    return answer.compiled or _stopped(path, "this file uses too many others")


def _stopped(path: str, text: str) -> Compiled:
    suggestion = "try again; if it happens again, make the file smaller and report it"
    stopped = Diagnostic(code=_STOPPED, path=path, line=1, column=1, message=text, suggestion=suggestion)
    return Compiled(plan=None, diagnostics=[stopped])
