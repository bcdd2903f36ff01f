"""Rejected messages and connections: all are counted, and logged at a bounded rate.

Anybody who can reach a port can cause a rejection per packet, so log lines have a budget: a burst, then one per second; and a
smaller one per peer, so that one peer does not hide what the others do. The next line says how many were left out. Text from a
peer is escaped before it is logged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from waterflow_agent.display import escape_for_display
from waterflowd.rates import BucketPerName, TokenBucket

#: Lines at once, and lines per second after that.
LINES_BURST = 20
LINES_PER_S = 1.0
#: The same for one peer.
PEER_LINES_BURST = 5
PEER_LINES_PER_S = 0.1
_PEERS_MAX = 4_096


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
        self._per_peer = BucketPerName(PEER_LINES_PER_S, PEER_LINES_BURST, _PEERS_MAX)
        self._left_out = 0

    @property
    def total(self) -> int:
        """Number of all rejections."""
        return self.counts.total()

    def record(self, code: str, text: str, peer: str, count: int = 1) -> None:
        """Counts one rejection, or several for the same reason; `peer` is a fingerprint or an address."""
        self.counts[code] += count
        now = self._clock()
        # The narrow limit first: lines beyond it must not use up the shared one.
        if not (self._per_peer.take(peer, now) and self._bucket.take(now)):
            self._left_out += count
            return
        left_out, self._left_out = self._left_out + count - 1, 0
        self._logger.warning(
            "rejected %s: %s [%s]%s",
            escape_for_display(peer),
            escape_for_display(text),
            code,
            f" ({left_out} more rejections since the last line)" if left_out else "",
            extra={"code": code, "left_out": left_out},
        )
        self._on_logged(code, escape_for_display(text), escape_for_display(peer))
