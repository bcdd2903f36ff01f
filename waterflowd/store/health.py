"""Classifies disk errors, and stops the store once the disk cannot be trusted.

After a failed flush the kernel may have dropped the pages that it could not write, and report the next flush as a success:
continuing would acknowledge lost data. So the first such error is remembered and every later call fails, until the daemon
restarts and reads what is really on disk. A full disk is different: LMDB aborts the transaction before its last step,
durable data stays intact, and the next try may succeed.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb

from waterflow_agent.errors import Retryable, Stalled

#: With less than this free, LMDB's "Input/output error" means a short write on a full disk.
FULL_BELOW_BYTES = 1 << 20
#: Space does not free itself; an immediate retry is useless.
RETRY_AFTER_S = 5.0


class FailureLatch:
    """Remembers the first error after which the store must stop. Thread-safe."""

    def __init__(self, on_poison: Callable[[Stalled], None] | None = None) -> None:
        self._on_poison = on_poison
        self._lock = threading.Lock()
        self._error: Stalled | None = None

    @property
    def error(self) -> Stalled | None:
        """The error that every call raises from now on, if any."""
        return self._error

    def check(self) -> None:
        """Raises `Stalled` WF303 (or WF301 when another daemon has opened the directory) once the latch is set."""
        if self._error is not None:
            raise Stalled(self._error.code, self._error.text)

    def set(self, error: Stalled) -> Stalled:
        """Stops the store and calls the callback once, on the thread that found the error. Returns the first error."""
        with self._lock:
            if self._error is not None:
                return self._error
            self._error = error
        if self._on_poison is not None:
            self._on_poison(error)
        return error


def is_disk_full(error: lmdb.Error | OSError, directory: Path) -> bool:
    """Whether the error means a full disk, not a broken one."""
    code = error.errno if isinstance(error, OSError) else error.code
    if code == errno.ENOSPC:
        return True
    if code != errno.EIO or isinstance(error, OSError):
        return False
    disk = os.statvfs(directory)
    return min(disk.f_bavail, disk.f_bfree) * disk.f_frsize < FULL_BELOW_BYTES


def disk_full(directory: Path) -> Retryable:
    """The error for a full disk."""
    return Retryable(
        "WF302",
        f"the disk of {directory} is full; nothing was written, and work continues by itself once there is space",
        after_s=RETRY_AFTER_S,
    )


def poisoned(error: BaseException) -> Stalled:
    """The error after a write with an unknown outcome."""
    return Stalled(
        "WF303",
        f"the log could not be written ({error}); no more work is accepted: check the disk and restart waterflowd",
    )
