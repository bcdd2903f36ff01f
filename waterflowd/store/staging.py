"""The changes of one transaction: the work items of a group write here first, and LMDB sees only the sum.

Rules of this file:

- A work item checks everything before it stages anything, so a rejected item leaves no trace and does not affect the others
  of its group. Later items see what earlier ones staged.
- Staging is plain data over a read view. When the commit fails it is discarded, and nothing has changed.
- Records arrive in ascending order and are added with LMDB's append; the other databases get one sorted put each.
"""

from __future__ import annotations

from typing import Any, Protocol

import lmdb

from waterflowd.store import layout
from waterflowd.store.environment import Environment
from waterflowd.store.rows import find


class Work(Protocol):
    """Something to make durable: a batch of the log, or pieces of output."""

    #: Approximate number of bytes that it adds; bounds the size of a group.
    size_bytes: int

    def stage(self, staging: Staging) -> Any:
        """Checks, then stages. Returns the result for the caller, delivered once it is durable.

        Raises a `WaterflowError` only before anything is staged: then only this item fails.
        """
        ...


class Staging:
    """The changes of one transaction, over the durable data."""

    def __init__(
        self, environment: Environment, transaction: lmdb.Transaction[bytes], last_seq: int, last_at: int
    ) -> None:
        self._environment = environment
        self._transaction = transaction
        self._rows: dict[str, dict[bytes, bytes | None]] = {}
        self._records: list[tuple[bytes, bytes]] = []
        #: Sequence and time of the newest record, including staged ones.
        self.last_seq = last_seq
        self.last_at = last_at

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to commit."""
        return not (self._records or self._rows)

    def get(self, database: str, key: bytes) -> bytes | None:
        """The checked value of a row as this transaction would leave it."""
        rows = self._rows.get(database)
        if rows is None or key not in rows:
            return find(self._environment, self._transaction, database, key)
        sealed = rows[key]
        return None if sealed is None else layout.unseal(database, key, sealed)

    def put(self, database: str, key: bytes, value: bytes) -> None:
        """Stages a row, sealed."""
        self._rows.setdefault(database, {})[key] = layout.seal(key, value)

    def delete(self, database: str, key: bytes) -> None:
        """Stages the deletion of a row, which may be absent."""
        self._rows.setdefault(database, {})[key] = None

    def drop_oldest(self, database: str, count_max: int) -> None:
        """Stages the deletion of the row with the least key if the database would have more than `count_max` rows."""
        staged = self._rows.get(database, {})
        handle = self._environment.database(database)
        if self._transaction.stat(handle)["entries"] + len(staged) <= count_max:
            return
        cursor = self._transaction.cursor(handle)
        more = cursor.first()
        while more and cursor.key() in staged:
            more = cursor.next()
        if more:
            self.delete(database, cursor.key())

    def add_records(self, records: list[tuple[bytes, bytes]], last_seq: int, last_at: int) -> None:
        """Stages records that continue the log."""
        self._records += records
        self.last_seq, self.last_at = last_seq, last_at

    def flush(self) -> None:
        """Writes everything into the transaction. After an `lmdb.Error` the transaction must be aborted."""
        if self._records:
            cursor = self._transaction.cursor(self._environment.database("records"))
            cursor.putmulti(self._records, append=True)
        for name, rows in self._rows.items():
            database = self._environment.database(name)
            cursor = self._transaction.cursor(database)
            cursor.putmulti(sorted((key, sealed) for key, sealed in rows.items() if sealed is not None))
            for key, sealed in rows.items():
                if sealed is None:
                    self._transaction.delete(key, db=database)
