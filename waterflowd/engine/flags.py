"""Numbered behaviour flags: how an old log is replayed under the rules that it was written by.

Rules of this file: when a change of `decide` or `moves` would make an open run of an older version go on differently, the
new behaviour gets a number here and is taken only by runs that carry it. A run records `CURRENT` when it is created. A number
is never used again, and one that this version does not know stalls the run: guessing would be worse than waiting.
"""

from __future__ import annotations

from collections.abc import Iterable

from waterflow_agent.errors import Stalled

#: What a run of this version records. No behaviour has changed since the first version, so there is no flag yet.
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
