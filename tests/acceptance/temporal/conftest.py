"""A cluster, or two of them, whose runs are on a server of Temporal that the test may kill."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.temporal_cluster import TemporalCluster
from tests.integration.temporal.server import Server
from tests.patience import wait_until

#: The agents that know two daemons, in the group `both`, with the label `zone`.
AGENTS = ("both-1", "both-2", "both-3")
Pair = tuple[TemporalCluster, TemporalCluster]


@pytest.fixture
def temporal_cluster(tmp_path: Path) -> Iterator[TemporalCluster]:
    """A cluster with a daemon and two agents of the group `web`, and its own server of Temporal."""
    (tmp_path / "temporal").mkdir()
    server = Server(tmp_path / "temporal")
    try:
        made = TemporalCluster(tmp_path, server)
        try:
            made.start_with_two_agents()
            yield made
        finally:
            made.close()
    finally:
        server.close()


@pytest.fixture
def daemon_pair(temporal_cluster: TemporalCluster, tmp_path: Path) -> Iterator[Pair]:
    """Two daemons, which are running, and three agents with both addresses that are connected to the first one."""
    one = temporal_cluster
    folder = tmp_path / "two"
    folder.mkdir()
    two = TemporalCluster(folder, one.server, one)
    try:
        addresses = ", ".join(f'"tcp://127.0.0.1:{each.work_port}"' for each in (one, two))
        for name in AGENTS:
            one.add_agent(name, "both", labels={"zone": "a"}, settings=f"server = [{addresses}]")
        one.stop_daemon()
        # All daemons have one key.
        shutil.copytree(one.folder / "daemon", two.folder / "daemon")
        one.start_daemon()
        wait_until(lambda: one.connected() >= set(AGENTS), "the agents to be connected")
        two.start_daemon()
        yield one, two
    finally:
        two.close()
