"""What the link refuses: counted in full, told at a bounded rate.

Whoever can reach a port can make as many rejections as there are packets, so a line of the log is a budget: a burst, then one
a second; what was left out is said in the next line. Text that a peer chose is made printable before it is shown.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from waterflow_agent.display import escape_for_display
from waterflowd.rates import TokenBucket

#: Lines at once, and lines a second after that.
LINES_BURST = 20
LINES_PER_S = 1.0


def tell_nobody(code: str, text: str, who: str) -> None:
    """For whoever keeps no audit trail; the line in the log is written anyway."""


class Rejections:
    """Counts rejections by code and logs some of them."""

    def __init__(
        self,
        logger: logging.Logger,
        clock: Callable[[], int],
        told: Callable[[str, str, str], None] = tell_nobody,
    ) -> None:
        """`told` hears code, sentence and who of each refusal that gets a line: at the same bounded rate, and printable."""
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._clock = clock
        self._told = told
        self._bucket = TokenBucket(LINES_PER_S, LINES_BURST, clock())
        self._left_out = 0

    @property
    def total(self) -> int:
        """All rejections so far."""
        return self.counts.total()

    def note(self, code: str, text: str, who: str) -> None:
        """Counts one refusal; `who` is a fingerprint or an address."""
        self.counts[code] += 1
        if not self._bucket.take(self._clock()):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        self._logger.warning(
            "refused %s: %s [%s]%s",
            escape_for_display(who),
            escape_for_display(text),
            code,
            f" ({left_out} more rejections since the last line)" if left_out else "",
            extra={"code": code, "left_out": left_out},
        )
        self._told(code, escape_for_display(text), escape_for_display(who))
