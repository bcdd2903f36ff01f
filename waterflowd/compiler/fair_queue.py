"""A queue in which every client gets the same share of time, however much work it has waiting.

Rules of this file: no clock; the worker says how long each piece of work took. The client that has used the least time goes
first. A client without waiting work gets no credit: when it comes back, it continues at the level of the client that is being
served, so it waits for one piece of work of another client at most, and cannot hold the others up later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Work = TypeVar("Work")


class QueueFull(Exception):
    """The client has too much work waiting."""


@dataclass(slots=True)
class _Client(Generic[Work]):
    #: Time that its work has taken, in seconds, on the scale of the queue.
    used_s: float
    waiting: deque[Work] = field(default_factory=deque)


class FairQueue(Generic[Work]):
    """Work of any number of clients, at most `per_client_max` waiting for each."""

    def __init__(self, per_client_max: int) -> None:
        self._per_client_max = per_client_max
        self._clients: dict[Hashable, _Client[Work]] = {}
        #: The level of the client that was served last.
        self._level_s = 0.0
        self._is_filled = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(client.waiting) for client in self._clients.values())

    def put(self, name: Hashable, work: Work) -> None:
        """Adds work of a client; raises `QueueFull` when it has too much waiting."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(self._level_s)
        if len(client.waiting) >= self._per_client_max:
            raise QueueFull
        client.waiting.append(work)
        self._is_filled.set()

    def discard(self, name: Hashable, work: Work) -> None:
        """Removes work whose client has left, unless it has already been taken."""
        client = self._clients.get(name)
        if client is not None and work in client.waiting:
            client.waiting.remove(work)

    def take_nowait(self) -> tuple[Hashable, Work] | None:
        """The next work and its client; None when nothing is waiting."""
        waiting = ((client.used_s, name) for name, client in self._clients.items() if client.waiting)
        first = min(waiting, key=lambda item: item[0], default=None)
        if first is None:
            return None
        self._level_s, name = first
        return name, self._clients[name].waiting.popleft()

    async def take(self) -> tuple[Hashable, Work]:
        """Waits for work and removes it."""
        while (found := self.take_nowait()) is None:
            self._is_filled.clear()
            await self._is_filled.wait()
        return found

    def charge(self, name: Hashable, seconds: float) -> None:
        """Records the time that work of a client took."""
        client = self._clients.get(name)
        if client is not None:
            client.used_s += seconds
            if not len(self):
                # Nobody waits, so nobody is behind.
                self._level_s = client.used_s
        # A client without work is forgotten once it has no more than the others: a new one starts at the same level.
        idle = [name for name, client in self._clients.items() if not client.waiting and client.used_s <= self._level_s]
        for forgotten in idle:
            del self._clients[forgotten]
