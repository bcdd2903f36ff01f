"""Numbered behaviour flags, by which an old log is replayed under the rules in force when it was written.

Rules of this file: when a change of `decide` or `moves` would make an open run of an older version continue differently,
the new behaviour gets a number here and applies only to runs that carry it. A run records `CURRENT` when it is created. A
number is never reused, and one that this version does not know stalls the run: guessing would be worse than waiting.
"""

from __future__ import annotations

from collections.abc import Iterable

from waterflow_agent.errors import Stalled

#: The flags that new runs record. No flags exist yet, because no behaviour has changed since the first version.
CURRENT: tuple[int, ...] = ()

KNOWN: frozenset[int] = frozenset()


def check(flags: Iterable[int]) -> None:
    """Raises `Stalled` WF402 when a run carries a flag that this version does not know."""
    unknown = sorted(set(flags) - KNOWN)
    if unknown:
        numbers = ", ".join(map(str, unknown))
        raise Stalled(
            "WF402", f"the run was written by a newer version (behaviour flags {numbers}); upgrade waterflowd"
        )
