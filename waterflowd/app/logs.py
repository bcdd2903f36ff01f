"""The daemon's own log. Its format is that of the agent, in `waterflow_agent.logs`; here is what concerns its libraries."""

from __future__ import annotations

import logging
import time

from waterflow_agent import logs
from waterflowd.rates import TokenBucket


def configure(level: str, style: str = "text") -> None:
    """Writes log entries to standard error from now on; `style` is `text` or `json`."""
    logs.configure(level, style)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").filters[:] = [RateLimit()]
    # These log every request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)


class RateLimit(logging.Filter):
    """Lets a burst of entries pass, then one per second: strangers can cause an entry with each packet they send."""

    def __init__(self, per_s: float = 1.0, burst: float = 20) -> None:
        super().__init__()
        self._bucket = TokenBucket(per_s, burst, _monotonic_ms())

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the entry is written; errors always are."""
        return record.levelno >= logging.ERROR or self._bucket.take(_monotonic_ms())


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
