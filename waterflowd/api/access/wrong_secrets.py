"""Limits how often an address may send a wrong token or code. A valid token from the same address is not affected."""

from __future__ import annotations

from waterflow_agent.errors import Rejected
from waterflowd.rates import BucketPerName

#: Enough for a mistake in a script, too few for a brute-force search.
_PER_S, _BURST = 1.0, 20
_SOURCES_MAX = 4_096


class WrongSecrets:
    """Counts the wrong secrets of each address."""

    def __init__(self) -> None:
        self._rates = BucketPerName(_PER_S, _BURST, _SOURCES_MAX)

    def count(self, source: str, now: int) -> None:
        """Counts one more; raises `Rejected` WF611 (429) beyond the limit."""
        if not self._rates.take(source, now):
            raise Rejected("WF611", "too many wrong tokens from this address; wait a minute", status=429)
