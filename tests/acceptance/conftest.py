"""Fixtures of the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.temporal_cluster import TemporalCluster


@pytest.fixture
def empty_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with nothing started, of the engine that `--engine` names."""
    if request.config.getoption("--engine") == "temporal":
        made: Cluster = TemporalCluster(tmp_path, request.getfixturevalue("temporal_server"))
    else:
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
