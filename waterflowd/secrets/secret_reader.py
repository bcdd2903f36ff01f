"""SecretReader: sources that take time to answer, read beside the loop, once for all who ask.

Rules of this file:

- `get` never waits. It gives what is held, or starts a reading and says `Retryable`; `changed` is called when that has come
  to something, or when there is news of what keeps it.
- What was read is held for as long as the source allows, so a burst of steps is one question; then it is forgotten.
- A source that may recover is asked again, with a growing pause, until the patience is over. Then, and at once when asking
  again is useless, the failure is held for a moment, so that each who asks learns of it, and the next one asks anew.
- How much is held and read at a time is bounded. There is no lock: all of this happens on the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from waterflow_agent.errors import Rejected, Retryable, Stalled

logger = logging.getLogger("waterflow.secrets")

#: Source and what of it is read, such as a path in Vault or a revision of a repository.
Key = tuple[str, ...]
#: Gives values by name, and for how many seconds they may be held. Raises `Retryable`, `Rejected` or `Stalled`.
Read = Callable[[], Awaitable[tuple[dict[str, str], float]]]

#: What was read is held at least this long, so that who asked for it finds it even on a busy machine.
HELD_S_MIN = 5.0
FAILURE_HELD_S = 5.0
#: Between two tries; doubled each time.
PAUSE_S_MIN = 0.5
PAUSE_S_MAX = 30.0
#: Keys that are held or read: a path of Vault each, and a revision with open runs. Beyond it one waits for a place.
KEYS_MAX = 2_000
#: Questions at a time; the others wait for their turn.
AT_A_TIME = 8


class _CachedRead:
    """One key. It is being read until it has `values` or a `failure`."""

    __slots__ = ("failure", "task", "trouble", "values")

    def __init__(self) -> None:
        self.values: dict[str, str] | None = None
        self.failure: Rejected | None = None
        self.trouble = "it is being read"
        self.task: asyncio.Task[None] | None = None


class SecretReader:
    """See the file's docstring. `changed` asks again for what got a `Retryable`; set it before the first `get`."""

    def __init__(self, patience_s: float) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._patience_s = patience_s
        self._readings: dict[Key, _CachedRead] = {}
        self._turns = asyncio.Semaphore(AT_A_TIME)
        self._timers: set[asyncio.TimerHandle] = set()
        #: Somebody found no place since one came free last.
        self._is_short = False

    def get(self, key: Key, read: Read) -> dict[str, str]:
        """What was read. Raises `Retryable` WF626 while it is being read, `Rejected` when it cannot be."""
        reading = self._readings.get(key)
        if reading is None:
            if len(self._readings) >= KEYS_MAX:
                self._is_short = True
                raise Retryable("WF626", "too many secrets are being read at a time")
            reading = self._readings[key] = _CachedRead()
            reading.task = asyncio.get_running_loop().create_task(self._read(key, reading, read), name="secrets")
        if reading.values is not None:
            return reading.values
        if reading.failure is not None:
            raise reading.failure
        raise Retryable("WF626", reading.trouble)

    async def close(self) -> None:
        """Forgets everything and ends what is being read."""
        tasks = [reading.task for reading in self._readings.values() if reading.task is not None]
        self._readings.clear()
        for timer in self._timers:
            timer.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, key: Key, reading: _CachedRead, read: Read) -> None:
        held_s = FAILURE_HELD_S
        try:
            reading.values, held_s = await self._tried(key, reading, read)
        except (Rejected, Stalled) as error:
            logger.error("secrets of %s cannot be read: %s", " ".join(key), error)
            reading.failure = error if isinstance(error, Rejected) else Rejected(error.code, error.text)
        except Exception as error:
            # Supervision point: what waits for it must not wait for ever.
            logger.error("secrets of %s cannot be read", " ".join(key), exc_info=error)
            reading.failure = Rejected("WF626", "a fault of the daemon; its log says more")
        reading.task = None
        self._later(max(held_s, HELD_S_MIN), lambda: self._forget(key))
        self.changed()

    async def _tried(self, key: Key, reading: _CachedRead, read: Read) -> tuple[dict[str, str], float]:
        loop = asyncio.get_running_loop()
        end, pause_s = loop.time() + self._patience_s, PAUSE_S_MIN
        while True:
            try:
                async with self._turns:
                    return await read()
            except Retryable as error:
                if loop.time() >= end:
                    text = f"{error.text}; it was tried for {self._patience_s:g} s"
                    raise Rejected(error.code, text) from error
                if reading.trouble != error.text:
                    logger.warning("secrets of %s are read again: %s", " ".join(key), error)
                    reading.trouble = error.text
                    self.changed()
            await asyncio.sleep(min(pause_s, max(0.0, end - loop.time())))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _forget(self, key: Key) -> None:
        self._readings.pop(key, None)
        if self._is_short:
            self._is_short = False
            self.changed()

    def _later(self, delay_s: float, call: Callable[[], object]) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            call()

        handle = asyncio.get_running_loop().call_later(delay_s, fire)
        self._timers.add(handle)
