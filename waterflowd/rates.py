"""Rate limits: token buckets, one in total or one per name.

Rules of this file: no clock; times are monotonic milliseconds and come as arguments. Memory is bounded for any number of names,
because strangers choose some of them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable


class TokenBucket:
    """Allows `burst` events at once and `per_s` per second on average."""

    __slots__ = ("_at", "_burst", "_per_ms", "_tokens")

    def __init__(self, per_s: float, burst: float, now: int) -> None:
        self._per_ms = per_s / 1000
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: int) -> bool:
        """Whether one more event is allowed now; if so, it is counted."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def is_spent(self, now: int) -> bool:
        """Whether the bucket is empty now; for costs that are only known afterwards."""
        self._refill(now)
        return self._tokens <= 0

    def wait_ms(self, now: int) -> int:
        """Time until one more event is allowed; 0 when it is allowed now."""
        self._refill(now)
        return 0 if self._tokens >= 1 else math.ceil((1 - self._tokens) / self._per_ms)

    def spend(self, cost: float) -> None:
        """Subtracts a cost that has already been incurred, even below zero."""
        self._tokens -= cost

    def _refill(self, now: int) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_ms)
        self._at = now


class BucketPerName:
    """A bucket for each of at most `names_max` names; a new name replaces the least recently used one."""

    def __init__(self, per_s: float, burst: float, names_max: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._names_max = names_max
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def take(self, name: Hashable, now: int) -> bool:
        """Whether one more event of `name` is allowed now; if so, it is counted."""
        return self.bucket(name, now).take(now)

    def bucket(self, name: Hashable, now: int) -> TokenBucket:
        """The bucket of `name`; a new one is full."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._per_s, self._burst, now)
            if len(self._buckets) > self._names_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        return bucket
