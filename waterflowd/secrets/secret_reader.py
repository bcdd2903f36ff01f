"""Reads secrets from slow sources in the background and caches them.

Rules of this file:

- `get` never waits. It returns the cached values, or starts a read and raises `Retryable`; `changed` is called when the read
  has ended, or when the reason for the delay has changed.
- Values are cached for as long as the source allows, so that a burst of steps causes one request; then they are dropped.
- A source that may recover is asked again, with growing pauses, until the time limit. A permanent failure, and a temporary one
  after the limit, is cached for a moment, so that everything that waits gets it; the next `get` starts a new read.
- The number of keys and of concurrent reads is bounded. There is no lock: everything happens on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import Rejected, Retryable, Stalled

logger = logging.getLogger("waterflow.secrets")

#: The source and the part of it that is read, such as a path in Vault or a revision of a repository.
Key = tuple[str, ...]
#: Gives values by name, and how many seconds they may be cached. Raises `Retryable`, `Rejected` or `Stalled`.
Read = Callable[[], Awaitable[tuple[dict[str, str], float]]]

#: Values are cached at least this long, so that what waits for them finds them even on a busy machine.
CACHE_S_MIN = 5.0
FAILURE_CACHE_S = 5.0
#: Delays between two attempts.
BACKOFF = Backoff(first_s=0.5, max_s=30.0)
#: Cached keys and keys being read: one for each path in Vault and each revision with open runs. More have to wait.
KEYS_MAX = 2_000
#: Concurrent reads.
READS_AT_ONCE = 8


class _CachedRead:
    """The entry of one key. It is being read until it has `values` or a `failure`."""

    __slots__ = ("delay_text", "failure", "task", "values")

    def __init__(self) -> None:
        self.values: dict[str, str] | None = None
        self.failure: Rejected | None = None
        self.delay_text = "it is being read"
        self.task: asyncio.Task[None] | None = None


class SecretReader:
    """See the module's docstring. `changed` repeats the requests that got a `Retryable`; set it before the first `get`."""

    def __init__(self, give_up_after_s: float) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._give_up_after_s = give_up_after_s
        self._entries: dict[Key, _CachedRead] = {}
        self._slots = asyncio.Semaphore(READS_AT_ONCE)
        self._timers: set[asyncio.TimerHandle] = set()
        #: A request was turned away because there were too many keys.
        self._is_over_limit = False

    def get(self, key: Key, read: Read) -> dict[str, str]:
        """The values. Raises `Retryable` WF626 while they are being read, `Rejected` if that failed."""
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= KEYS_MAX:
                self._is_over_limit = True
                raise Retryable("WF626", "too many secrets are being read at once")
            entry = self._entries[key] = _CachedRead()
            entry.task = asyncio.get_running_loop().create_task(self._read(key, entry, read), name="secrets")
        if entry.values is not None:
            return entry.values
        if entry.failure is not None:
            raise entry.failure
        raise Retryable("WF626", entry.delay_text)

    async def close(self) -> None:
        """Clears the cache and cancels reads."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        self._entries.clear()
        for timer in self._timers:
            timer.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, key: Key, entry: _CachedRead, read: Read) -> None:
        cache_s = FAILURE_CACHE_S
        try:
            entry.values, cache_s = await self._read_with_retries(key, entry, read)
        except (Rejected, Stalled) as error:
            logger.error("cannot read secrets of %s: %s", " ".join(key), error)
            entry.failure = error if isinstance(error, Rejected) else Rejected(error.code, error.text)
        except Exception as error:
            # A supervision point: steps that need the secret must not wait forever.
            logger.error("cannot read secrets of %s", " ".join(key), exc_info=error)
            entry.failure = Rejected("WF626", "internal error; see the daemon's log")
        entry.task = None
        self._call_later(max(cache_s, CACHE_S_MIN), lambda: self._forget(key))
        self.changed()

    async def _read_with_retries(self, key: Key, entry: _CachedRead, read: Read) -> tuple[dict[str, str], float]:
        loop = asyncio.get_running_loop()
        deadline, attempts = loop.time() + self._give_up_after_s, 0
        while True:
            try:
                async with self._slots:
                    return await read()
            except Retryable as error:
                if loop.time() >= deadline:
                    text = f"{error.text}; gave up after {self._give_up_after_s:g} s"
                    raise Rejected(error.code, text) from error
                if entry.delay_text != error.text:
                    logger.warning("cannot read secrets of %s yet, will retry: %s", " ".join(key), error)
                    entry.delay_text = error.text
                    self.changed()
            attempts += 1
            await asyncio.sleep(min(BACKOFF.delay_s(attempts), max(0.0, deadline - loop.time())))

    def _forget(self, key: Key) -> None:
        self._entries.pop(key, None)
        if self._is_over_limit:
            self._is_over_limit = False
            self.changed()

    def _call_later(self, delay_s: float, call: Callable[[], object]) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            call()

        handle = asyncio.get_running_loop().call_later(delay_s, fire)
        self._timers.add(handle)
