"""Programs that a node starts: never through a shell, their output goes to the log as it comes, and they end with the step."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from waterflow_agent.nodes.node import NodeFailure

#: What is kept of a program's standard output for the step's outputs.
KEPT_BYTES_MAX = 256 << 10
_CHUNK = 64 << 10


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended; `stdout` is its beginning, `KEPT_BYTES_MAX` at most."""

    exit_code: int
    stdout: str


async def run(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, is_shown: bool = True
) -> Finished:
    """Runs a program to its end; a cancel ends it first. Raises `NodeFailure` when it cannot be started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=dict(env) if env is not None else None,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise NodeFailure(f"there is no program {argv[0]} on this server") from error
    except OSError as error:
        raise NodeFailure(f"{argv[0]} cannot be started: {error.strerror}") from error
    assert process.stdout is not None
    kept = bytearray()
    try:
        while chunk := await process.stdout.read(_CHUNK):
            if is_shown:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            kept += chunk[: max(0, KEPT_BYTES_MAX - len(kept))]
        code = await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    return Finished(exit_code=code, stdout=kept.decode("utf-8", "replace"))
