"""What went wrong with the disk, and the latch that stops everything once it cannot be trusted.

After a failed flush the kernel may have dropped the pages it could not write and call the next flush a success: going on
would acknowledge what is not there. So the first such error is remembered, and from then on every call fails until the
daemon has started again and has read what really is on the disk. A full disk is different: LMDB gives up the transaction
before its last step, what was durable stays so, and the next try may succeed.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb

from waterflow_agent.errors import Retryable, Stalled

#: With less than this free, an "Input/output error" is LMDB's word for a write cut short by a full disk.
FULL_BELOW_BYTES = 1 << 20
#: Space does not come back by itself; there is no use in asking again at once.
RETRY_AFTER_S = 5.0


class FailureLatch:
    """Remembers the first error after which nothing may be trusted. Safe on every thread."""

    def __init__(self, on_poison: Callable[[Stalled], None] | None = None) -> None:
        self._on_poison = on_poison
        self._lock = threading.Lock()
        self._error: Stalled | None = None

    @property
    def error(self) -> Stalled | None:
        """The error that every call raises from now on, if there is one."""
        return self._error

    def check(self) -> None:
        """Raises `Stalled` WF303 (or WF301 when another daemon has taken the directory) once the latch is set."""
        if self._error is not None:
            raise Stalled(self._error.code, self._error.text)

    def set(self, error: Stalled) -> Stalled:
        """Stops everything; the callback is told once, on the thread that found the error. Gives the error that counts."""
        with self._lock:
            if self._error is not None:
                return self._error
            self._error = error
        if self._on_poison is not None:
            self._on_poison(error)
        return error


def is_disk_full(error: lmdb.Error | OSError, directory: Path) -> bool:
    """Tells a full disk from a broken one."""
    code = error.errno if isinstance(error, OSError) else error.code
    if code == errno.ENOSPC:
        return True
    if code != errno.EIO or isinstance(error, OSError):
        return False
    disk = os.statvfs(directory)
    return min(disk.f_bavail, disk.f_bfree) * disk.f_frsize < FULL_BELOW_BYTES


def disk_full(directory: Path) -> Retryable:
    """The error while there is no space."""
    return Retryable(
        "WF302",
        f"the disk of {directory} is full; nothing was written, and work goes on by itself once there is space",
        after_s=RETRY_AFTER_S,
    )


def poisoned(error: BaseException) -> Stalled:
    """The error after a write whose fate is unknown."""
    return Stalled(
        "WF303",
        f"the log could not be written ({error}); nothing is accepted any more, restart waterflowd and check the disk",
    )
