"""Looking up rows by their keys, so that damage is told and never taken for absence.

A row's checksum covers its key; but LMDB finds no row under a key that a flipped bit has changed, or behind a branch that
leads elsewhere. Keys are in order, so what hides a row stands next to where it should be, or breaks the order there: a row
counts as absent only when both neighbours of its place are whole and on the right side.
"""

from __future__ import annotations

import lmdb

from waterflow_agent.errors import Stalled
from waterflowd.store import layout
from waterflowd.store.environment import Environment

Row = tuple[bytes, bytes]


def find(environment: Environment, transaction: lmdb.Transaction[bytes], database: str, key: bytes) -> bytes | None:
    """The checked value of a row; None when there is none. Raises `Stalled` WF304 when nobody can know."""
    handle = environment.database(database)
    sealed = transaction.get(key, db=handle)
    if sealed is not None:
        return layout.unseal(database, key, sealed)
    _, following = _around(transaction.cursor(handle), database, key)
    # A branch may have led to the page before, at whose end the row is found all the same.
    return following[1] if following is not None and following[0] == key else None


def seek_before(cursor: lmdb.Cursor[bytes], database: str, key: bytes) -> Row | None:
    """Goes to the row with the greatest key below `key` and gives it, checked; None, and the cursor nowhere, without one.

    Raises `Stalled` WF304 when that row or the next one is damaged, or stands on the wrong side.
    """
    return _around(cursor, database, key)[0]


def seek_from(cursor: lmdb.Cursor[bytes], database: str, key: bytes) -> bool:
    """Goes to the row with the least key that is not below `key`; False without one. Raises as `seek_before` does."""
    return cursor.first() if seek_before(cursor, database, key) is None else cursor.next()


def _around(cursor: lmdb.Cursor[bytes], database: str, key: bytes) -> tuple[Row | None, Row | None]:
    """The rows on both sides of a key's place, the second one perhaps its own; the cursor is at the first one."""
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
    """What to raise about a place at which a row is missing, or at which there is one that belongs elsewhere."""
    return Stalled(
        "WF304",
        f'the rows of the index "{database}" around {key!r} are damaged; restore a backup of the data directory',
    )
