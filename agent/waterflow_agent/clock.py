"""The machine's clocks. Whatever depends on time gets a `Clock`; tests and the simulator pass a different one.

The boot clock counts suspended time and is not affected when the wall clock is set, so it measures durations. The wall clock
is only for times that people read. This module imports only the standard library, because the step runner uses it too.
"""

from __future__ import annotations

import time


class Clock:
    """The clocks of this machine, in milliseconds."""

    def boot_ms(self) -> int:
        """Returns the time since boot, including suspended time."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms(self) -> int:
        """Returns the time since 1970."""
        return time.time_ns() // 1_000_000


def utc_time(at_ms: float) -> str:
    """Returns a time in ms as text, to the second: `2026-11-30 17:32:39Z`."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at_ms / 1000))
