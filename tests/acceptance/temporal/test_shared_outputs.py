"""Several daemons with one object store: each shows what the steps of all runs print."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.temporal_cluster import TemporalCluster

#: 200 kB, more than an agent sends before it waits for an acknowledgement.
WORKFLOW = """\
name: print
jobs:
  print:
    runs-on: web
    steps:
      - run: for i in $(seq 20000); do echo "line $i"; done
      - run: echo last
"""


@pytest.mark.slow
def test_each_daemon_shows_the_output_of_every_run(temporal_cluster: TemporalCluster, tmp_path: Path) -> None:
    """The agent is connected to one daemon, which is killed then; the other one shows all output, and it has no copy."""
    first = temporal_cluster
    (tmp_path / "second").mkdir()
    second = TemporalCluster(tmp_path / "second", first.server, first)
    try:
        second.start_daemon()
        run = first.start(WORKFLOW)
        assert second.wait_for(run)["conclusion"] == "success"
        lines = second.lines(run, 20_001)
        assert lines == [*(f"line {number}" for number in range(1, 20_001)), "last"]
        first.kill_daemon()
        assert second.lines(run) == lines
        assert len(list((first.objects / "output" / run).rglob("*-*"))) > 1
        for cluster in (first, second):
            assert not list((cluster.folder / "daemon" / "output").rglob("*.log"))
    finally:
        second.close()
