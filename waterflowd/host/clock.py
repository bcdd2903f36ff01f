"""The log's clock: milliseconds that never go back, not even over restarts and wall clock jumps.

Within one boot of the machine it is the boot clock (which includes suspend) plus an offset stored in a file, so a restart of
the daemon or a step of the wall clock changes nothing. After a reboot it continues with the later of the last logged time
and the wall clock. So a sleep of 30 days survives reboots, and a jump of the clock never triggers a timeout.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from waterflow_agent.clock import Clock

logger = logging.getLogger("waterflow.host")

#: Run ids have 48 bits for milliseconds (until the year 10889); a later time comes from a damaged file.
AT_MAX = (1 << 48) - 1

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LogClock:
    """See the module's docstring. `last_at` is the newest logged time; `path` stores the offset of this boot."""

    def __init__(self, path: Path, last_at: int, machine: Clock | None = None) -> None:
        self._machine = machine or Clock()
        boot_id = _BOOT_ID.read_text().strip()
        offset = _stored_offset(path, boot_id)
        boot_now = self._machine.boot_ms()
        if offset is None or not last_at <= boot_now + offset <= AT_MAX:
            offset = max(last_at, self._machine.wall_ms()) - boot_now
            _store_offset(path, boot_id, offset)
        self._offset = offset

    def now(self) -> int:
        """Milliseconds of the log's clock."""
        return self._machine.boot_ms() + self._offset


def _stored_offset(path: Path, boot_id: str) -> int | None:
    try:
        stored = json.loads(path.read_text())
        return int(stored["offset_ms"]) if stored["boot_id"] == boot_id else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        # Missing or damaged: the last logged time still bounds the clock from below.
        return None


def _store_offset(path: Path, boot_id: str, offset: int) -> None:
    temporary = path.with_suffix(".new")
    try:
        temporary.write_text(json.dumps({"boot_id": boot_id, "offset_ms": offset}))
        os.replace(temporary, path)
    except OSError as error:
        # A full disk must not prevent the start: a restart in this boot then uses the wall clock.
        logger.warning("cannot store the clock in %s: %s", path, error.strerror)
