"""One file on its way: what passes by is counted, hashed and shown, and its end is held back until all of it is right.

The end is held back because some targets take a file as complete when its last byte arrives. So a checksum that does not
match, or a file that changed, stops the transfer while the target still has too little.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import time
from collections.abc import AsyncIterator, Callable

from waterflow_agent.nodes.node import Context, NodeFailure

#: What is read at a time.
CHUNK_BYTES = 2 << 20
#: Between two lines about how far it is; in a long transfer a tenth of the time so far, so that lines stay few.
PROGRESS_S = 5.0
#: Options of glibc's `mallopt`, from its malloc.h, and what this process has: one arena for all threads, which gives back
#: what is free at its end beyond so much, and takes chunks of the size that is read from there and not from the system.
_ALLOCATOR = {"M_ARENA_MAX": (-8, 1), "M_TRIM_THRESHOLD": (-1, 64 << 20), "M_MMAP_THRESHOLD": (-3, 32 << 20)}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def share_memory() -> None:
    """Has all threads of this process use the same few chunks over and over.

    By itself the allocator asks the system for each chunk anew, which costs as much as hashing it, until it learns to keep
    them, and then in one arena for each thread, which is half as much again.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _ALLOCATOR.values():
            mallopt(option, value)


class Progress:
    """How far the whole transfer is, as lines in the log."""

    def __init__(self, context: Context, total_bytes: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._total = total_bytes
        self._clock = clock
        self._began = clock()
        self._next_at = self._began + PROGRESS_S
        self.bytes = 0

    def advance(self, count: int, name: str) -> None:
        """`count` more bytes have gone to the target."""
        self.bytes += count
        now = self._clock()
        if now < self._next_at:
            return
        elapsed = now - self._began
        self._next_at = now + max(PROGRESS_S, elapsed / 10)
        of = f" of {amount(self._total)} ({100 * self.bytes // self._total} %)" if self._total else ""
        self._context.log(f"{name}: {amount(self.bytes)}{of}, {amount(round(self.bytes / elapsed))}/s")


def amount(count: int) -> str:
    """A number of bytes for people."""
    number, unit = float(count), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{number:.1f} {_UNITS[unit]}"


class Content:
    """The bytes of one file, to be gone through once."""

    def __init__(
        self, name: str, chunks: AsyncIterator[bytes], *, size: int | None, wanted: str | None, progress: Progress
    ) -> None:
        self.name = name
        #: None: known at the end only.
        self.size = size
        self._chunks = chunks
        self._wanted = wanted
        self._progress = progress
        self._hash = hashlib.sha256()
        self._read = 0

    @property
    def checksum(self) -> str:
        """`sha256:...` of what has passed by."""
        return f"sha256:{self._hash.hexdigest()}"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks. Raises `NodeFailure` in place of the last one when something is wrong."""
        loop = asyncio.get_running_loop()
        held = b""
        hashed: asyncio.Future[None] | None = None
        async for chunk in self._chunks:
            if hashed is not None:
                await hashed
            self._read += len(chunk)
            # Beside the sending of the chunk before.
            hashed = loop.run_in_executor(None, self._hash.update, chunk)
            if held:
                yield held
                self._progress.advance(len(held), self.name)
            held = chunk
        if hashed is not None:
            await hashed
        self._verify()
        if held:
            yield held
            self._progress.advance(len(held), self.name)

    def _verify(self) -> None:
        if self.size is not None and self._read != self.size:
            text = f"{self.name}: {self._read} bytes came in place of {self.size}: it was cut off, or it changed"
            raise NodeFailure(text, may_retry=True)
        if self._wanted is not None and self.checksum != self._wanted:
            raise NodeFailure(f"{self.name}: its checksum is {self.checksum}, not the wanted {self._wanted}")
