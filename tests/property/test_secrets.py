"""Filling in secrets: exactly the names that a step has, once, wherever they stand."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from waterflowd.engine.rules import secrets

_NAMES = st.sampled_from(["TOKEN", "KEY", "other-name", "A_1"])
#: Texts from elsewhere, among them some that look like references or like parts of one.
_TEXTS = st.lists(
    st.one_of(st.text(max_size=6), _NAMES.map(secrets.reference), st.sampled_from(["\ue0f0", "\ue0f1", "TOKEN"])),
    max_size=5,
).map("".join)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=8,
)
_GIVEN = st.frozensets(_NAMES)


def value(name: str) -> str:
    return f"value of {name} {secrets.reference('KEY')}"


def by_hand(found: Any, names: frozenset[str]) -> Any:
    """A text is cut at what opens a reference; a piece that begins with a name and its end is one."""
    if isinstance(found, dict):
        return {key: by_hand(item, names) for key, item in found.items()}
    if isinstance(found, list):
        return [by_hand(item, names) for item in found]
    if not isinstance(found, str):
        return found
    first, *pieces = found.split("\ue0f0")
    for piece in pieces:
        name, end, rest = piece.partition("\ue0f1")
        first += value(name) + rest if end and name in names else "\ue0f0" + piece
    return first


@given(content=_JSON, names=_GIVEN)
def test_references_of_the_given_names_are_filled_in_and_nothing_else(content: Any, names: frozenset[str]) -> None:
    """Keys stay, other types stay, and what a secret's own value looks like is not filled in again."""
    assert secrets.fill(content, names, value) == by_hand(content, names)


@given(content=_JSON)
def test_without_names_nothing_changes(content: Any) -> None:
    """A text that looks like a reference gives nothing to a step without secrets."""

    def never(name: str) -> str:
        raise AssertionError(name)

    assert secrets.fill(content, frozenset(), never) == content
