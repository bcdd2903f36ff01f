"""The blocks in the bucket: `blocks/<scope>/<SHA-256>`, one object each.

Rules of this file:

- Blocks are removed only if no commit in their scope was in progress since the cleaner began to look at it (`watch`). So a
  commit that has found its blocks keeps them. This needs one daemon per prefix, which the mark of `checking.py` ensures.
- Requests are bounded in total (`REQUESTS_MAX`). Large commits ask for a few blocks at a time, so others come in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from waterflow_agent.errors import Stalled
from waterflow_agent.wire.messages import BlockAddress
from waterflowd import ports
from waterflowd.artifacts.bucket.settings import BucketSettings
from waterflowd.artifacts.bucket.signing import content_headers, sign
from waterflowd.model.records import StoredObject

#: How long an address is valid: enough for what a step asks for at a time, on a slow line. It asks again for an expired one.
ADDRESS_S = 300
#: Requests of the daemon in progress.
REQUESTS_MAX = 64
_FOLDER = "blocks"


class StoredBlock(NamedTuple):
    """A block in the bucket; the digest is empty for an object that is none."""

    key: str
    digest: bytes
    size: int
    stored_at: datetime


class BucketBlocks:
    """See the file's docstring. For the loop's thread, but for `get_now`."""

    def __init__(self, objects: ports.BucketObjects, settings: BucketSettings, wall_s: Callable[[], float]) -> None:
        """`objects` are those of the bucket that the settings name, below its prefix."""
        self.objects = objects
        self.settings = settings
        self.wall_s = wall_s
        self._requests = asyncio.Semaphore(REQUESTS_MAX)
        self._removal = asyncio.Lock()
        self._committing: Counter[str] = Counter()
        #: Scopes in which something was committed since the cleaner began to look at them.
        self._changed: set[str] = set()

    async def sizes(self, scope: str, digests: Sequence[bytes]) -> list[int | None]:
        """The size of each block; None for one that is not stored. Raises `Retryable` WF322."""
        found: list[int | None] = []
        for begin in range(0, len(digests), REQUESTS_MAX):
            some = digests[begin : begin + REQUESTS_MAX]
            found += await asyncio.gather(*(self._size(scope, digest) for digest in some))
        return found

    async def put(self, scope: str, digest: bytes, data: bytes) -> None:
        """Stores a block, durably. Raises `Retryable` WF322."""
        async with self._requests:
            await self.objects.put(key_of(scope, digest), data)

    async def get(self, scope: str, digest: bytes) -> bytes:
        """The content of a block. Raises `Stalled` WF304 if it is missing or damaged, and `Retryable` WF322."""
        async with self._requests:
            return self._checked(scope, digest, await self.objects.get(key_of(scope, digest)))

    def get_now(self, scope: str, digest: bytes) -> bytes:
        """As `get`. Blocks; for threads."""
        return self._checked(scope, digest, self.objects.get_now(key_of(scope, digest)))

    def read_address(self, scope: str, digest: bytes) -> BlockAddress:
        """Where a block can be read."""
        return BlockAddress(self._sign("GET", scope, digest, {}))

    def store_address(self, scope: str, digest: bytes, size: int) -> BlockAddress:
        """Where a block, and nothing else, can be stored."""
        headers = content_headers(digest, size)
        return BlockAddress(self._sign("PUT", scope, digest, headers), headers)

    @contextlib.asynccontextmanager
    async def committing(self, scope: str) -> AsyncIterator[None]:
        """Inside the block nothing of a scope is removed."""
        async with self._removal:
            self._committing[scope] += 1
            self._changed.add(scope)
        try:
            yield
        finally:
            self._committing[scope] -= 1
            if not self._committing[scope]:
                del self._committing[scope]

    def watch(self, scope: str | None = None) -> None:
        """Before the cleaner finds out which blocks of a scope, or of all, are used."""
        seen = set(self._changed) if scope is None else {scope}
        self._changed -= seen - set(self._committing)

    async def remove(self, scope: str, keys: Sequence[str]) -> bool:
        """Removes blocks; False, without doing so, if something was committed in the scope since `watch`."""
        async with self._removal:
            if scope in self._changed:
                return False
            await self.objects.delete(keys)
        return True

    async def scopes(self) -> list[str]:
        """All scopes that have blocks."""
        return await self.objects.folders(_FOLDER)

    async def pages(self, scope: str) -> AsyncIterator[list[StoredBlock]]:
        """The blocks of a scope, a thousand at a time."""
        async for page in self.objects.pages(f"{_FOLDER}/{scope}"):
            yield [_stored(scope, item) for item in page]

    async def _size(self, scope: str, digest: bytes) -> int | None:
        async with self._requests:
            return await self.objects.size(key_of(scope, digest))

    def _sign(self, method: str, scope: str, digest: bytes, headers: dict[str, str]) -> str:
        key = key_of(scope, digest)
        return sign(self.settings, method, key, headers, now_s=self.wall_s(), valid_s=ADDRESS_S)

    def _checked(self, scope: str, digest: bytes, data: bytes | None) -> bytes:
        if data is None or hashlib.sha256(data).digest() != digest:
            what = "missing" if data is None else "damaged"
            raise Stalled(
                "WF304",
                f"block {digest.hex()[:16]} of an artifact is {what} in {self.settings.address}/{_FOLDER}/{scope}",
            )
        return data


def key_of(scope: str, digest: bytes) -> str:
    """The key of a block, below the prefix."""
    return f"{_FOLDER}/{scope}/{digest.hex()}"


def _stored(scope: str, item: StoredObject) -> StoredBlock:
    try:
        digest = bytes.fromhex(item.name)
    except ValueError:
        digest = b""
    return StoredBlock(f"{_FOLDER}/{scope}/{item.name}", digest, item.size, item.stored_at)
