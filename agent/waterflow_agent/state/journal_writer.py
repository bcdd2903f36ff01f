"""Writes the ledger's records to the journal: one write per turn, a flush shortly after, and recovery from a full disk.

Rules of this file: a flush starts at most `FLUSH_S` after a write and runs in a thread, so no step waits for it. While the disk
is full nothing new is started, but results are still sent: the runner has them on disk too, or the daemon will have them soon.
As soon as there is space, a new segment makes the journal complete; that is tried every `RETRY_S`. An agent that starts on a
full disk is in the same state.
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
#: Between attempts to write to a full disk.
RETRY_S = 2.0
#: What people read about this state.
DISK_FULL = "its disk is full: running steps continue, nothing new starts until there is space"


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
        self._retry: asyncio.TimerHandle | None = None

    @property
    def problem(self) -> str:
        """One sentence if nothing can be started now, or ""."""
        return DISK_FULL if self._is_behind else ""

    def begin(self) -> bool:
        """Begins a segment with everything that the ledger holds. Returns False when the disk is full."""
        self._is_behind = True
        return self.write(())

    def write(self, written: Sequence[records.LedgerRecord | records.ReleasedRecord]) -> bool:
        """Writes records. Returns False when the disk is full, so that nothing may be started."""
        try:
            if self._is_behind or self._journal.is_large:
                self._journal.begin(self._ledger.boot_id, self._ledger.snapshot())
                self._flush_soon()
                if self._retry is not None:
                    logger.warning("the journal is complete again")
                    self._retry.cancel()
                    self._retry = None
                self._is_behind = False
            elif written:
                self._journal.append(written)
                self._flush_soon()
        except Retryable as error:
            if self._retry is None:
                logger.error("%s: nothing new is started until there is space", error)
            else:
                self._retry.cancel()
            self._is_behind = True
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._begin_retry)
        return not self._is_behind

    def close(self) -> None:
        """Cancels the next flush; closing the journal flushes it."""
        for timer in (self._flush, self._retry):
            if timer is not None:
                timer.cancel()

    def _flush_soon(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._begin_flush)

    def _begin_retry(self) -> None:
        # In the background, so that a disk that fails now stops the agent.
        self._spawn(self._write_again(), "journal-retry")

    async def _write_again(self) -> None:
        self.write(())

    def _begin_flush(self) -> None:
        self._spawn(self._flush_now(), "journal-flush")

    async def _flush_now(self) -> None:
        # The journal allows one flush at a time; records written from now on need another one.
        try:
            await asyncio.to_thread(self._journal.flush)
        finally:
            self._flush = None
