"""What has arrived from a port process and has not been handled yet. Pure.

Rules of this file: records of one connection stay in their order. The connections take turns, so that a peer waits for one
message of each of the others, and not for everything that they have sent before.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from waterflowd.dispatch.port import records
from waterflowd.dispatch.port.records import Kind, Record


class Inbox:
    """Records by connection."""

    def __init__(self) -> None:
        #: The connection whose turn is next comes first.
        self._waiting: OrderedDict[int, deque[Record]] = OrderedDict()
        #: What the waiting records cost together.
        self.cost = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, found: Iterable[Record]) -> None:
        """Adds records in the order of their arrival."""
        waiting = self._waiting
        for record in found:
            self.cost += records.cost(record[2])
            queue = waiting.get(record[1])
            if queue is None:
                waiting[record[1]] = deque((record,))
            else:
                queue.append(record)

    def take(self) -> Record:
        """Removes the next record."""
        connection, queue = next(iter(self._waiting.items()))
        record = queue.popleft()
        self.cost -= records.cost(record[2])
        if queue:
            self._waiting.move_to_end(connection)
        else:
            del self._waiting[connection]
        return record

    def count(self, kind: Kind) -> int:
        """Counts the waiting records of a kind, by looking at each of them."""
        return sum(record[0] == kind for queue in self._waiting.values() for record in queue)

    def clear(self) -> None:
        """Removes everything."""
        self._waiting.clear()
        self.cost = 0
