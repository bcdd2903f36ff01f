"""The open connections of one listener, and which of them is closed when there are too many.

Rules of this file:

- A connection that is idle never keeps out another one. At a limit, an idle one is closed for the new one: one that has never
  sent a request before one that has, an older one before a newer one; at the limit for all, one of the source with the most.
- A connection whose next request has arrived, but has not been read yet, is as good as busy: it is not closed.
- Only when all connections are busy, the new one is refused: it may send one request, which is answered with a 429.
- The number of file descriptors is bounded: `limit` connections, and a few refused ones for a moment.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Protocol

#: Refused connections that may wait for their answer; further ones are closed without it.
REFUSED_MAX = 32
#: Idle connections that are examined for a new one. Each costs a system call; it is rare that even the first has unread input.
_EXAMINED_MAX = 32


class Connection(Protocol):
    """A connection that can be closed."""

    def abort(self) -> None:
        """Closes the connection at once."""
        ...

    def has_unread_input(self) -> bool:
        """Whether bytes have arrived that have not been read yet."""
        ...


@dataclass(slots=True)
class _Source:
    #: Busy and idle ones.
    count: int = 0
    #: Idle ones in the order in which they became idle: without a request so far, and after one.
    silent: OrderedDict[Connection, None] = field(default_factory=OrderedDict)
    kept: OrderedDict[Connection, None] = field(default_factory=OrderedDict)

    def idle(self) -> int:
        """The number of idle ones."""
        return len(self.silent) + len(self.kept)


class ConnectionTable:
    """The connections of one listener by their source: an address or a uid."""

    def __init__(self, limit: int, per_source: int) -> None:
        self._limit = limit
        self._per_source = per_source
        self._sources: dict[str, _Source] = {}
        self._open: dict[Connection, str] = {}
        self._refused: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection, name: str) -> str | None:
        """Adds a new connection of a source, or returns why it is refused; an empty text if it cannot even be answered."""
        source = self._sources.get(name)
        if source is not None and source.count >= self._per_source:
            reason = f"{source.count} connections from your address are busy, which is the limit; close some of them"
            is_free = self._close_idle(source)
        elif len(self._open) >= self._limit:
            reason = f"all {len(self._open)} connections are busy; try again later"
            is_free = self._close_idle(max(self._sources.values(), key=_Source.idle))
        else:
            reason, is_free = "", True
        if not is_free:
            if len(self._refused) >= REFUSED_MAX:
                return ""
            self._refused.add(connection)
            return reason
        source = self._sources.setdefault(name, _Source())
        source.count += 1
        source.silent[connection] = None
        self._open[connection] = name
        return None

    def set_busy(self, connection: Connection) -> None:
        """The connection has sent a request."""
        if connection in self._open:
            source = self._sources[self._open[connection]]
            source.silent.pop(connection, None)
            source.kept.pop(connection, None)

    def set_idle(self, connection: Connection) -> None:
        """The response is complete."""
        if connection in self._open:
            self._sources[self._open[connection]].kept[connection] = None

    def remove(self, connection: Connection) -> None:
        """The connection is closed. Idempotent."""
        self._refused.discard(connection)
        name = self._open.get(connection)
        if name is None:
            return
        self.set_busy(connection)
        del self._open[connection]
        source = self._sources[name]
        source.count -= 1
        if not source.count:
            del self._sources[name]

    def _close_idle(self, source: _Source) -> bool:
        """Closes an idle connection of the source; false if there is none."""
        for connection in islice(chain(source.silent, source.kept), _EXAMINED_MAX):
            if not connection.has_unread_input():
                self.remove(connection)
                connection.abort()
                return True
        return False
