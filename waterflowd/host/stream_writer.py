"""Appends facts to a stream of the daemon's own log, which nobody else writes. Implements `ports.StreamWriter`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from waterflowd.host.driver import Driver
from waterflowd.model.ids import StreamName


class LogStreamWriter:
    """See the port. A fact is folded as soon as it is durable; one of the daemon itself at once, and recorded soon after."""

    def __init__(self, driver: Driver, stream: StreamName, fold: Callable[[Any], None]) -> None:
        self._driver = driver
        self._stream = stream
        self._fold = fold
        self._one_at_a_time = asyncio.Lock()

    async def append(self, decide: Callable[[], Sequence[Any]]) -> None:
        """See the port."""
        # A cancelled caller must not separate the durable facts from what is folded.
        await asyncio.shield(asyncio.create_task(self._append(decide)))

    async def _append(self, decide: Callable[[], Sequence[Any]]) -> None:
        async with self._one_at_a_time:
            facts = decide()
            if facts:
                await self._driver.record(self._stream, facts)
            for fact in facts:
                self._fold(fact)

    def keep(self, decide: Callable[[], Sequence[Any]]) -> None:
        """See the port. What is folded at once decides about what follows, for example about a second server with a key."""
        facts = decide()
        for fact in facts:
            self._fold(fact)
        if facts:
            self._driver.keep(self._stream, facts)
