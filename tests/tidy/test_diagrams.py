"""The state diagrams of ARCHITECTURE.md against the transition tables of the code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

from waterflowd.model.statuses import ATTEMPT_TRANSITIONS, TRANSITIONS, Conclusion

PAGE = Path(__file__).parents[2] / "ARCHITECTURE.md"
#: Mermaid's notation for the initial and the final state.
_OUTSIDE = "[*]"


def _diagrams() -> list[set[tuple[str, str]]]:
    blocks = re.findall(r"^```mermaid\n(stateDiagram-v2\n.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [set(re.findall(r"^\s*(\S+) --> (\S+)\s*$", block, re.MULTILINE)) for block in blocks]


def _moves(table: Mapping[Enum, frozenset[Enum]]) -> set[tuple[str, str]]:
    moves = {(before.value, after.value) for before, allowed in table.items() for after in allowed}
    first = next(iter(table)).value
    ends = {(before.value, _OUTSIDE) for before, allowed in table.items() if not allowed}
    return moves | ends | {(_OUTSIDE, first)}


@pytest.mark.parametrize(("number", "table"), [(0, TRANSITIONS), (1, ATTEMPT_TRANSITIONS)], ids=["runs", "attempts"])
def test_a_diagram_has_exactly_the_transitions_of_its_table(number: int, table: Mapping[Enum, frozenset[Enum]]) -> None:
    """The diagram shows exactly what `evolve` allows."""
    assert _diagrams()[number] == _moves(table)


def test_each_table_has_one_diagram() -> None:
    """A diagram without a test would become outdated."""
    assert len(_diagrams()) == 2


def test_every_conclusion_is_explained() -> None:
    """The page has a row for each conclusion."""
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE))
    assert {conclusion.value for conclusion in Conclusion} <= rows
