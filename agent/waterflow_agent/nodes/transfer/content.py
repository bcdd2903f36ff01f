"""The content of one file during a transfer: counted, hashed, and checked before the last chunk is released.

Some targets consider a file complete when its last byte arrives. So the last chunk is held back, and a wrong checksum or a file
that changed stops the transfer while the target is still incomplete.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import time
from collections.abc import AsyncIterator, Callable

from waterflow_agent.display import size_text
from waterflow_agent.nodes.node import Context, NodeFailure

#: Bytes that are read at a time.
CHUNK_BYTES = 2 << 20
#: Interval of progress lines; a tenth of the elapsed time in a long transfer, so that there are few.
PROGRESS_S = 5.0
#: Options of glibc's `mallopt` (malloc.h) and their values: one arena for all threads, which keeps free memory up to a
#: threshold and serves chunks of the size that is read.
_ALLOCATOR = {"M_ARENA_MAX": (-8, 1), "M_TRIM_THRESHOLD": (-1, 64 << 20), "M_MMAP_THRESHOLD": (-3, 32 << 20)}


def share_memory() -> None:
    """Make all threads of this process reuse the same few chunks of memory.

    By default the allocator maps each chunk anew, which costs as much as hashing it. Later it caches chunks in one arena per
    thread, which needs half as much memory again.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _ALLOCATOR.values():
            mallopt(option, value)


class Progress:
    """Prints the progress of the whole transfer."""

    def __init__(self, context: Context, total_bytes: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._total = total_bytes
        self._clock = clock
        self._began = clock()
        self._next_at = self._began + PROGRESS_S
        self.bytes = 0

    def advance(self, count: int, name: str) -> None:
        """Count bytes that were written to the target."""
        self.bytes += count
        now = self._clock()
        if now < self._next_at:
            return
        elapsed = now - self._began
        self._next_at = now + max(PROGRESS_S, elapsed / 10)
        of = f" of {size_text(self._total)} ({100 * self.bytes // self._total} %)" if self._total else ""
        self._context.log(f"{name}: {size_text(self.bytes)}{of}, {size_text(round(self.bytes / elapsed))}/s")


class Content:
    """The bytes of one file; can be iterated once."""

    def __init__(
        self, name: str, chunks: AsyncIterator[bytes], *, size: int | None, checksum: str | None, progress: Progress
    ) -> None:
        self.name = name
        #: None if it is only known at the end.
        self.size = size
        self._chunks = chunks
        self._expected = checksum
        self._progress = progress
        self._hash = hashlib.sha256()
        self._read = 0

    @property
    def checksum(self) -> str:
        """`sha256:...` of the bytes so far."""
        return f"sha256:{self._hash.hexdigest()}"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks. Raises `NodeFailure` instead of the last one if size or checksum is wrong."""
        loop = asyncio.get_running_loop()
        held = b""
        hashed: asyncio.Future[None] | None = None
        async for chunk in self._chunks:
            if hashed is not None:
                await hashed
            self._read += len(chunk)
            # While the previous chunk is being sent.
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
            text = f"{self.name}: received {self._read} of {self.size} bytes: the connection broke, or the file changed"
            raise NodeFailure(text, may_retry=True)
        if self._expected is not None and self.checksum != self._expected:
            raise NodeFailure(f"{self.name}: checksum mismatch: expected {self._expected}, got {self.checksum}")
