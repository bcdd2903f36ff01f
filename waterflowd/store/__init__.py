"""The store: the event log and the output logs of one data directory, on LMDB.

Rules of this package: it knows bytes, streams and positions, never what an event means; the caller passes in the event
unions. One thread writes (`writer`); everything else reads durable data. Only the records are authoritative: every other
database is an index over them. Start reading at `opening.open_store`, then `log`, `staging`, `writer`.

This module imports nothing, so that `codec` can be used without LMDB.
"""
