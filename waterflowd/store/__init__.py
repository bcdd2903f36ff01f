"""The store: the event log and the output logs in one data directory, on LMDB.

Rules of this package: it knows bytes, streams and positions, never what an event means; the caller brings the event
unions. One thread writes (`writer`), everything else reads what is durable. Nothing is authoritative but the records:
every other database is an index over them. Start at `opening.open_store`, then `log`, `staging`, `writer`.

This module imports nothing, so that `codec` can be used where LMDB is absent.
"""
