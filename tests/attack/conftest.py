"""Fixtures of the attack tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.arena import Arena
from tests.chance import IS_FULL


@pytest.fixture
def empty_arena(tmp_path: Path) -> Iterator[Arena]:
    """An arena with nothing started."""
    made = Arena(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def arena(empty_arena: Arena) -> Arena:
    """An arena with a daemon and two agents of the group `web`."""
    empty_arena.start_with_two_agents()
    return empty_arena


@pytest.fixture(scope="module")
def shared_arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Such an arena for tests that leave its processes running, and none of their own."""
    made = Arena(tmp_path_factory.mktemp("arena"))
    try:
        made.start_with_two_agents()
        yield made
    finally:
        made.close()


@pytest.fixture
def nightly() -> None:
    """Skips tests that take too long for a daily run."""
    if not IS_FULL:
        pytest.skip("part of `make nightly` (WATERFLOW_SWEEP=full)")


@pytest.fixture
def root() -> None:
    """Skips the test unless it runs as root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
