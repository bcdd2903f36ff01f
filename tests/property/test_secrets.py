"""Filling in secrets: exactly the names that a step has, once, in any position."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from waterflowd.engine.rules import secrets

_NAMES = st.sampled_from(["TOKEN", "KEY", "other-name", "A_1"])
#: Texts from other sources, some of which resemble references or parts of them.
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
    """Splits the text at each opening of a reference; a piece that starts with a name and its end is a reference."""
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
def test_only_references_of_the_listed_names_are_filled_in(content: Any, names: frozenset[str]) -> None:
    """Keys and other types stay unchanged, and a reference within a secret's value is not filled in."""
    assert secrets.fill(content, names, value) == by_hand(content, names)


@given(content=_JSON)
def test_without_names_nothing_changes(content: Any) -> None:
    """For a step without secrets, text that resembles a reference stays unchanged."""

    def never(name: str) -> str:
        raise AssertionError(name)

    assert secrets.fill(content, frozenset(), never) == content
