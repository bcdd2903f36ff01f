"""Run programs for nodes: without a shell, with their output in the log as it arrives, ending with the step."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from waterflow_agent.nodes.node import NodeFailure

#: The part of a program's standard output that is kept for the step's outputs.
KEPT_BYTES_MAX = 256 << 10
#: The part of its standard error that is kept for the reason of a failure.
TAIL_BYTES_MAX = 4 << 10
_CHUNK = 64 << 10


class CompletedProgram(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a program: the first `KEPT_BYTES_MAX` bytes of its output, the last `TAIL_BYTES_MAX` of its errors."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def last_error(self) -> str:
        """The last line of its error stream, or an empty string."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else ""


async def run(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, is_echoed: bool = True
) -> CompletedProgram:
    """Run a program until it ends; a cancel terminates it. Raises `NodeFailure` if it cannot be started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=dict(env) if env is not None else None,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise NodeFailure(f"program {argv[0]} not found on this server") from error
    except OSError as error:
        raise NodeFailure(f"cannot start {argv[0]}: {error.strerror}") from error
    kept, tail = bytearray(), bytearray()

    async def read_output() -> None:
        async for chunk in _chunks(process.stdout, sys.stdout.buffer if is_echoed else None):
            kept.extend(chunk[: max(0, KEPT_BYTES_MAX - len(kept))])

    async def read_errors() -> None:
        async for chunk in _chunks(process.stderr, sys.stderr.buffer if is_echoed else None):
            tail.extend(chunk)
            del tail[:-TAIL_BYTES_MAX]

    try:
        await asyncio.gather(read_output(), read_errors())
        code = await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    return CompletedProgram(
        exit_code=code, stdout=kept.decode("utf-8", "replace"), stderr=tail.decode("utf-8", "replace")
    )


async def _chunks(stream: asyncio.StreamReader | None, copy: BinaryIO | None) -> AsyncIterator[bytes]:
    """Yield chunks as they arrive, and write each to `copy` at once, unless it is None."""
    assert stream is not None
    while chunk := await stream.read(_CHUNK):
        if copy is not None:
            copy.write(chunk)
            copy.flush()
        yield chunk
