"""Tests of several processes are arranged so that all processes have something to do until the end."""

from __future__ import annotations

import pytest

from tests.distribution import arranged

NAMES = [
    *(f"tests/acceptance/test_{module}.py::test_{number}" for module in range(5) for number in range(4)),
    *(f"tests/unit/test_{module}.py::test_{number}" for module in range(10) for number in range(20)),
    *(f"tests/web/test_{module}.py::test_{number}" for module in range(6) for number in range(5)),
]


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_test_is_arranged_once(processes: int) -> None:
    """Also where the parts cannot have the same size."""
    assert sorted(arranged(NAMES, processes)) == list(range(len(NAMES)))


def test_each_part_begins_with_slow_tests_and_ends_with_quick_ones() -> None:
    """The parts are those that pytest-xdist makes of the list."""
    order = [NAMES[at].split("/")[1] for at in arranged(NAMES, 2)]
    for part in (order[:125], order[125:]):
        slow = [folder != "unit" for folder in part]
        assert 15 <= sum(slow) <= 35
        assert slow == sorted(slow, reverse=True)


def test_what_is_set_up_once_is_used_by_one_process() -> None:
    """The tests of the pages share a daemon and a browser."""
    pages = [place for place, at in enumerate(arranged(NAMES, 3)) if NAMES[at].startswith("tests/web/")]
    assert pages == list(range(pages[0], pages[0] + len(pages)))


@pytest.mark.parametrize("names", [NAMES[:20], NAMES[20:220], []], ids=["slow", "quick", "none"])
def test_tests_of_one_kind_stay_in_their_order(names: list[str]) -> None:
    """There is nothing to balance."""
    assert arranged(names, 3) == list(range(len(names)))
