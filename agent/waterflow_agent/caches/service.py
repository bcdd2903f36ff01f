"""Answers the steps of this server that keep caches on it, as the daemon answers those of shared ones.

Rules of this file: the daemon says once for each attempt from which repository and which branch its run comes, so a step cannot
choose that. Everything else stays on the server. One thread reads and writes, one request at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from waterflow_agent import logs
from waterflow_agent.caches.server_entries import ServerEntries
from waterflow_agent.clock import Clock
from waterflow_agent.errors import WaterflowError
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import CacheOrigin, TaskId

logger = logging.getLogger(__name__)

#: Asks the daemon something for an attempt.
AskDaemon = Callable[[TaskId, messages.ArtifactAction], Awaitable[messages.ArtifactResponse]]
_EXPIRY_MS = 3_600_000


class ServerCaches:
    """The entries of this server. For the loop's thread."""

    def __init__(self, entries: ServerEntries, clock: Clock) -> None:
        self._entries = entries
        self._clock = clock
        self._origins: dict[TaskId, CacheOrigin] = {}
        self._thread = ThreadPoolExecutor(1, "caches")
        self._expire_at = 0
        self._is_closed = False

    async def answer(
        self, key: TaskId, action: messages.ArtifactAction, ask_daemon: AskDaemon
    ) -> messages.ArtifactResponse:
        """Answers a request of an attempt."""
        origin = self._origins.get(key)
        if origin is None:
            response = await ask_daemon(key, messages.FindCacheOrigin())
            if not isinstance(response.result, CacheOrigin):
                return response
            origin = self._origins[key] = response.result
        now = self._clock.wall_ms()
        try:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._thread, self._carry_out, key, origin, action, now)
            return messages.ArtifactResponse(key, 0, result)
        except WaterflowError as error:
            return messages.ArtifactResponse(key, 0, None, error.code, error.text)
        except OSError as error:
            text = f"this server cannot use its caches: {error.strerror}"
            logger.error("%s", text, extra=logs.subject(key.attempt))
            return messages.ArtifactResponse(key, 0, None, "WF304", text)

    def ended(self, key: TaskId) -> None:
        """The attempt has ended: what it has not committed is removed."""
        # What an agent that stops leaves behind, its next process removes.
        if self._origins.pop(key, None) is not None and not self._is_closed:
            self._thread.submit(self._entries.discard, _maker(key))

    def close(self) -> None:
        """Waits for what is being written."""
        self._is_closed = True
        self._thread.shutdown()

    def _carry_out(
        self, key: TaskId, origin: CacheOrigin, action: messages.ArtifactAction, now: int
    ) -> messages.ArtifactResult:
        entries, maker = self._entries, _maker(key)
        if now >= self._expire_at:
            self._expire_at = now + _EXPIRY_MS
            entries.expire(now)
        match action:
            case messages.BeginCache():
                return messages.CacheAccepted(entries.begin(origin, action))
            case messages.FindBlocks():
                return messages.MissingBlocks(entries.missing(maker, action.blocks))
            case messages.StoreBlock():
                entries.store(maker, action.block, action.data)
                return messages.ArtifactAccepted()
            case messages.CommitCache():
                return messages.CacheAccepted(entries.commit(origin, maker, action, now))
            case messages.FindCache():
                return messages.CacheFound(entries.find(origin, action, now))
            case messages.ReadCacheBlock():
                return messages.BlockRead(entries.read(origin, action))
            case _:
                raise WaterflowError("WF762", "the caches of a server have no artifacts")


def _maker(key: TaskId) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(key)).hexdigest()[:32]
