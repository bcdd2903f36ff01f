"""A cluster whose runs are on a server of Temporal that the test may kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.temporal_cluster import TemporalCluster
from tests.integration.temporal.server import Server


@pytest.fixture
def temporal_cluster(tmp_path: Path) -> Iterator[TemporalCluster]:
    """A cluster with a daemon and two agents of the group `web`, and its own server of Temporal."""
    (tmp_path / "temporal").mkdir()
    server = Server(tmp_path / "temporal")
    try:
        made = TemporalCluster(tmp_path, server)
        try:
            made.start_daemon()
            made.add_agent("web-1", "web")
            made.add_agent("web-2", "web")
            yield made
        finally:
            made.close()
    finally:
        server.close()
