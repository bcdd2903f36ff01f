"""Fixtures of the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster


@pytest.fixture
def empty_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with nothing started."""
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def cluster(empty_cluster: Cluster) -> Cluster:
    """A cluster with a daemon and two agents of the group `web`."""
    empty_cluster.start_daemon()
    empty_cluster.add_agent("web-1", "web")
    empty_cluster.add_agent("web-2", "web")
    return empty_cluster
