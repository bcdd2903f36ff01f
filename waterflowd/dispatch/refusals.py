"""What the link refuses: counted in full, told at a bounded rate.

Whoever can reach a port can make as many refusals as there are packets, so a line of the log is a budget: a burst, then one
a second; what was left out is said in the next line. Text that a peer chose is made printable before it is shown.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

#: Lines at once, and lines a second after that.
LINES_BURST = 20
LINES_PER_S = 1.0
_TEXT_LENGTH_MAX = 300


class TokenBucket:
    """Allows `burst` events at once and `per_s` a second on average. Times are milliseconds that never go back."""

    __slots__ = ("_at", "_burst", "_per_ms", "_tokens")

    def __init__(self, per_s: float, burst: float, now: int) -> None:
        self._per_ms = per_s / 1000
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: int) -> bool:
        """Whether one more event fits now; if so it is counted."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def is_spent(self, now: int) -> bool:
        """Whether nothing is left now; for costs that are known only afterwards."""
        self._refill(now)
        return self._tokens <= 0

    def spend(self, cost: float) -> None:
        """Takes a cost that has arisen already, even below zero: the debt is paid by time."""
        self._tokens -= cost

    def _refill(self, now: int) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_ms)
        self._at = now


class BucketPerName:
    """A bucket for each of at most `names_max` names; the one not seen for longest makes room for a new one."""

    def __init__(self, per_s: float, burst: float, names_max: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._names_max = names_max
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def take(self, name: Hashable, now: int) -> bool:
        """Whether one more event of `name` fits now; if so it is counted."""
        return self.bucket(name, now).take(now)

    def bucket(self, name: Hashable, now: int) -> TokenBucket:
        """The bucket of `name`, a full one if it has none yet."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._per_s, self._burst, now)
            if len(self._buckets) > self._names_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        return bucket


class Refusals:
    """Counts refusals by code and logs some of them."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], int]) -> None:
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._clock = clock
        self._bucket = TokenBucket(LINES_PER_S, LINES_BURST, clock())
        self._left_out = 0

    @property
    def total(self) -> int:
        """All refusals so far."""
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
            printable(who),
            printable(text),
            code,
            f" ({left_out} more refusals since the last line)" if left_out else "",
        )


def printable(text: str) -> str:
    """One bounded line of printable characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:_TEXT_LENGTH_MAX])
