"""Rejected messages and connections: all are counted, and logged at a bounded rate.

Anybody who can reach a port can cause a rejection per packet, so log lines have a budget: a burst, then one per second. The
next line says how many were left out. Text from a peer is escaped before it is logged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from waterflow_agent.display import escape_for_display
from waterflowd.rates import TokenBucket

#: Lines at once, and lines per second after that.
LINES_BURST = 20
LINES_PER_S = 1.0


class Rejections:
    """Counts rejections by code and logs some of them."""

    def __init__(
        self,
        logger: logging.Logger,
        clock: Callable[[], int],
        on_logged: Callable[[str, str, str], None] = lambda code, text, peer: None,
    ) -> None:
        """`on_logged` is called with code, text and peer of each rejection that is logged, escaped."""
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._clock = clock
        self._on_logged = on_logged
        self._bucket = TokenBucket(LINES_PER_S, LINES_BURST, clock())
        self._left_out = 0

    @property
    def total(self) -> int:
        """Number of all rejections."""
        return self.counts.total()

    def record(self, code: str, text: str, peer: str) -> None:
        """Counts one rejection; `peer` is a fingerprint or an address."""
        self.counts[code] += 1
        if not self._bucket.take(self._clock()):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        self._logger.warning(
            "rejected %s: %s [%s]%s",
            escape_for_display(peer),
            escape_for_display(text),
            code,
            f" ({left_out} more rejections since the last line)" if left_out else "",
            extra={"code": code, "left_out": left_out},
        )
        self._on_logged(code, escape_for_display(text), escape_for_display(peer))
