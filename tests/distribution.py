"""The order of the tests for several test processes (pytest-xdist): slow ones first, and nothing expensive is set up twice.

pytest-xdist gives each process a part of the list, all parts of the same size. A process that has finished takes half of what
another one has left, from the end. In the order of the folders, nearly all slow tests are in one part: their modules are torn
apart, so that several processes set up what a module shares, and the last tests to run are slow, so that processors are idle.
So each part begins with its share of the slow tests, and ends with quick ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby

import pytest

#: Roughly how many seconds a test of a folder takes. Those of other folders take milliseconds.
COSTS = {
    "acceptance": 6.0,
    "attack": 15.0,
    "booted": 8.0,
    "compat": 0.5,
    "contract": 0.3,
    "editors": 5.0,
    "integration": 0.7,
    "oracle": 15.0,
    "property": 1.5,
    "simulation": 5.0,
    "web": 4.0,
}
#: Folders whose tests share what a process sets up once.
TOGETHER = frozenset(("web",))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A hook of pytest. Every test process arranges the tests in the same way."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = [items[at] for at in arranged([item.nodeid for item in items], processes)]


def arranged(names: Sequence[str], processes: int) -> list[int]:
    """The order of tests, by their node ids, for so many processes. Tests of one module stay in their order."""
    groups = [list(group) for _, group in groupby(range(len(names)), key=lambda at: _group(names[at]))]
    slow = sorted((group for group in groups if _cost(names, group)), key=lambda group: -_cost(names, group))
    quick = [at for group in groups if not _cost(names, group) for at in group]
    if processes == 1 or not slow or not quick:
        return list(range(len(names)))
    parts: list[list[list[int]]] = [[] for _ in range(processes)]
    for group in slow:
        min(parts, key=lambda part: sum(_cost(names, each) for each in part)).append(group)
    order: list[int] = []
    for number, part in enumerate(parts):
        # As pytest-xdist divides the list.
        size = (len(names) - len(order)) // (processes - number)
        chosen = [at for group in part for at in group]
        filling = max(0, size - len(chosen))
        order += [*chosen, *quick[:filling]]
        del quick[:filling]
    return [*order, *quick]


def _group(name: str) -> str:
    """The module of a test, or its folder if that has to stay together."""
    module = name.partition("::")[0]
    return _folder(module) if _folder(module) in TOGETHER else module


def _folder(module: str) -> str:
    return module.removeprefix("tests/").partition("/")[0]


def _cost(names: Sequence[str], group: Sequence[int]) -> float:
    return COSTS.get(_folder(names[group[0]]), 0.0) * len(group)
