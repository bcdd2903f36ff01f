"""Programs that a node starts: never through a shell, their output goes to the log as it comes, and they end with the step."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from waterflow_agent.nodes.node import NodeFailure

#: What is kept of a program's standard output for the step's outputs.
KEPT_BYTES_MAX = 256 << 10
#: And of its standard error, for the sentence about its failure.
TAIL_BYTES_MAX = 4 << 10
_CHUNK = 64 << 10


class CompletedProgram(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended; `stdout` is its beginning, `KEPT_BYTES_MAX` at most, `stderr` its end, `TAIL_BYTES_MAX` at most."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """The last line of what it said on its error stream, or nothing."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else ""


async def run(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, is_shown: bool = True
) -> CompletedProgram:
    """Runs a program to its end; a cancel ends it first. Raises `NodeFailure` when it cannot be started."""
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
        raise NodeFailure(f"there is no program {argv[0]} on this server") from error
    except OSError as error:
        raise NodeFailure(f"{argv[0]} cannot be started: {error.strerror}") from error
    kept, tail = bytearray(), bytearray()

    async def listen() -> None:
        async for chunk in _chunks(process.stdout, sys.stdout.buffer if is_shown else None):
            kept.extend(chunk[: max(0, KEPT_BYTES_MAX - len(kept))])

    async def listen_to_errors() -> None:
        async for chunk in _chunks(process.stderr, sys.stderr.buffer if is_shown else None):
            tail.extend(chunk)
            del tail[:-TAIL_BYTES_MAX]

    try:
        await asyncio.gather(listen(), listen_to_errors())
        code = await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    return CompletedProgram(
        exit_code=code, stdout=kept.decode("utf-8", "replace"), stderr=tail.decode("utf-8", "replace")
    )


async def _chunks(stream: asyncio.StreamReader | None, shown: BinaryIO | None) -> AsyncIterator[bytes]:
    """What comes, shown at once."""
    assert stream is not None
    while chunk := await stream.read(_CHUNK):
        if shown is not None:
            shown.write(chunk)
            shown.flush()
        yield chunk
