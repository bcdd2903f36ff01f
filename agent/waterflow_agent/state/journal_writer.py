"""Writes the ledger's records to the journal: one write per turn, a flush shortly after, and recovery from a full disk.

Rules of this file: a flush starts at most `FLUSH_S` after a write and runs in a thread, so no step waits for it. While the disk
is full nothing new is started, but results are still sent: the runner has them on disk too, or the daemon will have them soon.
As soon as there is space, a new segment makes the journal complete.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence

from waterflow_agent.errors import Retryable
from waterflow_agent.state.journal import Journal
from waterflow_agent.state.ledger import Ledger, records

logger = logging.getLogger(__name__)

#: From a journal's write to its flush.
FLUSH_S = 0.05


class JournalWriter:
    """The only writer of the journal. Its methods raise `Stalled` when the disk fails."""

    def __init__(
        self, journal: Journal, ledger: Ledger, spawn: Callable[[Coroutine[None, None, None], str], object]
    ) -> None:
        """`spawn` runs a coroutine in the background and stops the agent when it fails."""
        self._journal = journal
        self._ledger = ledger
        self._spawn = spawn
        self._flush: asyncio.TimerHandle | None = None
        #: Records are missing because the disk was full.
        self._is_behind = False

    def begin(self) -> None:
        """Begins a segment with everything that the ledger holds. Raises `Retryable` when the disk is full."""
        self._journal.begin(self._ledger.boot_id, self._ledger.snapshot())
        self._flush_soon()

    def write(self, written: Sequence[records.LedgerRecord | records.ReleasedRecord]) -> bool:
        """Writes records. Returns False when the disk is full, so that nothing may be started."""
        try:
            if self._is_behind or self._journal.is_large:
                self.begin()
                if self._is_behind:
                    logger.warning("the journal is complete again")
                self._is_behind = False
            elif written:
                self._journal.append(written)
                self._flush_soon()
        except Retryable as error:
            if not self._is_behind:
                logger.error("%s: nothing new is started until there is space", error)
            self._is_behind = True
        return not self._is_behind

    def close(self) -> None:
        """Cancels the next flush; closing the journal flushes it."""
        if self._flush is not None:
            self._flush.cancel()

    def _flush_soon(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._begin_flush)

    def _begin_flush(self) -> None:
        self._spawn(self._flush_now(), "journal-flush")

    async def _flush_now(self) -> None:
        # The journal allows one flush at a time; records written from now on need another one.
        try:
            await asyncio.to_thread(self._journal.flush)
        finally:
            self._flush = None
