"""Running totals of what agents and people did with artifacts, since the daemon started."""

from __future__ import annotations

from collections import Counter


class ArtifactMetrics:
    """Read them at any time."""

    def __init__(self) -> None:
        #: Content in bytes: `received` from agents, `sent` to agents, and `downloaded` through the API.
        self.transferred: Counter[str] = Counter()
        #: Requests of agents that ended with an error, by its code.
        self.rejected: Counter[str] = Counter()
        #: Artifacts that were removed: `expired`, `deleted`, or with their `run`.
        self.removed: Counter[str] = Counter()
        #: Size of the blocks that were removed.
        self.freed = 0
