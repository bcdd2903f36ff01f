"""Fixtures of the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cluster import World


@pytest.fixture
def empty_world(tmp_path: Path) -> Iterator[World]:
    """A world with nothing started."""
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def world(empty_world: World) -> World:
    """A world with a daemon and two agents of the group `web`."""
    empty_world.start_daemon()
    empty_world.add_agent("web-1", "web")
    empty_world.add_agent("web-2", "web")
    return empty_world
