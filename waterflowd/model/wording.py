"""Wording shared by messages: descriptions of values, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
import heapq
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from waterflow_agent.display import quote


def describe(value: object) -> str:
    """A JSON value in a few words."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return quote(value)
        case list():
            return "a list"
    return "a mapping"


#: Names that a message lists.
_LISTED_MAX = 10
#: Names that a suggestion is looked for among, and those of them that are compared exactly: each costs time, and an author may
#: declare many.
_CONSIDERED_MAX = 1_000
_COMPARED_MAX = 20
_CUTOFF = 0.6


def listed(names: Iterable[str]) -> str:
    """The first names, separated by commas."""
    shown = list(islice(names, _LISTED_MAX + 1))
    return ", ".join(shown[:_LISTED_MAX]) + (", ..." if len(shown) > _LISTED_MAX else "")


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely means, or None. Considers the first 1,000 names."""
    found = _similar(name, known, 1, _CUTOFF)
    return found[0] if found else None


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The known names that are most like a name, however different they are, separated by commas."""
    return ", ".join(_similar(name, known, count, 0.0))


def _similar(name: str, known: Iterable[str], count: int, cutoff: float) -> list[str]:
    spelled = {candidate.lower(): candidate for candidate in islice(known, _CONSIDERED_MAX)}
    lowered = name.lower()[:64]
    characters = Counter(lowered)
    likely = heapq.nlargest(
        _COMPARED_MAX, spelled, key=lambda candidate: _similarity_max(characters, candidate, cutoff)
    )
    return [spelled[found] for found in difflib.get_close_matches(lowered, likely, n=count, cutoff=cutoff)]


def _similarity_max(characters: Counter[str], candidate: str, cutoff: float) -> float:
    """An upper limit of difflib's ratio, which is much faster: the share of characters that both names have."""
    length = characters.total() + len(candidate)
    if 2 * min(characters.total(), len(candidate)) < cutoff * length:
        return 0.0
    return 2 * sum(min(count, candidate.count(character)) for character, count in characters.items()) / (length or 1)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The suggestion for a misspelt name: `did you mean "build"?`, or empty when nothing is close."""
    found = closest(name, known)
    return f'did you mean "{found}"?' if found is not None else ""
