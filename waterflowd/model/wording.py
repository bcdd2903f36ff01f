"""Wording shared by messages: descriptions of values, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely means, or None."""
    spelled = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower()[:64], spelled, n=1, cutoff=0.6)
    return spelled[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The suggestion for a misspelt name: `did you mean "build"?`, or empty when nothing is close."""
    found = closest(name, known)
    return f'did you mean "{found}"?' if found is not None else ""
