"""Exponential backoff: how long to wait before the next try. Pure; randomness is an argument."""

from __future__ import annotations

from dataclasses import dataclass

#: Maximum number of doublings: keeps the power small however long something fails.
_DOUBLINGS_MAX = 20


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubles the delay with each failure, from `first_s` up to `max_s`."""

    first_s: float
    max_s: float

    def delay_s(self, failures: int, jitter: float = 1.0) -> float:
        """Returns the delay after this many failures in a row; 0 without failures.

        `jitter`, from 0 to 1, picks a point between `first_s` and the full delay: pass a random number where many clients
        could otherwise return at the same moment.
        """
        if failures <= 0:
            return 0.0
        full_s = min(self.max_s, self.first_s * float(2 ** min(failures - 1, _DOUBLINGS_MAX)))
        return self.first_s + (full_s - self.first_s) * jitter
