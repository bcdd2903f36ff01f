"""Looks up rows by key, so that damage is reported and never mistaken for absence.

A row's checksum covers its key. But LMDB finds no row under a key that a flipped bit has changed, or behind a branch that
points elsewhere. Keys are sorted, so a hidden row is next to its proper position, or breaks the order there. A row counts
as absent only when both neighbours of its position are intact and on the correct side.
"""

from __future__ import annotations

import lmdb

from waterflow_agent.errors import Stalled
from waterflowd.store import layout
from waterflowd.store.environment import Environment

Row = tuple[bytes, bytes]


def find(environment: Environment, transaction: lmdb.Transaction[bytes], database: str, key: bytes) -> bytes | None:
    """The checked value of a row; None if it is absent. Raises `Stalled` WF304 when damage makes that unknowable."""
    handle = environment.database(database)
    sealed = transaction.get(key, db=handle)
    if sealed is not None:
        return layout.unseal(database, key, sealed)
    _, following = _around(transaction.cursor(handle), database, key)
    # A damaged branch may have led to the page before; from its end the row is still found.
    return following[1] if following is not None and following[0] == key else None


def seek_before(cursor: lmdb.Cursor[bytes], database: str, key: bytes) -> Row | None:
    """Moves the cursor to the row with the greatest key below `key` and returns it, checked; None if there is none.

    Raises `Stalled` WF304 when that row or the next one is damaged, or is on the wrong side.
    """
    return _around(cursor, database, key)[0]


def seek_from(cursor: lmdb.Cursor[bytes], database: str, key: bytes) -> bool:
    """Moves to the row with the least key not below `key`; False if there is none. Raises as `seek_before` does."""
    return cursor.first() if seek_before(cursor, database, key) is None else cursor.next()


def _around(cursor: lmdb.Cursor[bytes], database: str, key: bytes) -> tuple[Row | None, Row | None]:
    """The rows around a key's position; the second may be the key's own row. The cursor is left at the first."""
    following: Row | None = None
    if cursor.set_range(key):
        following = _checked(cursor, database)
        if following[0] < key:
            raise hidden(database, key)
        is_some_before = cursor.prev()
    else:
        is_some_before = cursor.last()
    before = _checked(cursor, database) if is_some_before else None
    if before is not None and before[0] >= key:
        raise hidden(database, key)
    return before, following


def _checked(cursor: lmdb.Cursor[bytes], database: str) -> Row:
    key, sealed = cursor.item()
    return key, layout.unseal(database, key, sealed)


def hidden(database: str, key: bytes) -> Stalled:
    """The error for a missing row, or for one in the wrong position."""
    return Stalled(
        "WF304",
        f'the rows of the index "{database}" around {key!r} are damaged; restore a backup of the data directory',
    )
