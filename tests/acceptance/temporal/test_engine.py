"""The daemon with the engine on Temporal: real processes, from the API to the steps."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.temporal_cluster import TemporalCluster
from tests.integration.temporal.server import new_namespace
from tests.patience import wait_until

WORKFLOW = """\
name: Deploy
jobs:
  build:
    runs-on: web
    outputs:
      version: ${{ steps.make.outputs.version }}
    steps:
      - id: make
        run: |
          echo building
          echo "version=1.2.3" >> "$WATERFLOW_OUTPUT"
      - run: echo tested
  release:
    needs: build
    runs-on: web
    steps:
      - run: echo "released ${{ needs.build.outputs.version }}"
"""

GATE = """\
name: gate
on: {push: {}, workflow_dispatch: {}}
jobs:
  gate:
    runs-on: web
    steps:
      - uses: approval
        with: {approvers: []}
      - run: echo "the answer is $(cat data/answer)"
"""


def _has_ended(cluster: TemporalCluster, run: str) -> bool:
    return bool(cluster.run(run)["status"] == "completed")


def test_a_workflow_runs_on_temporal(temporal_cluster: TemporalCluster) -> None:
    """Jobs, outputs, needs, events and output are as with the log engine."""
    run = temporal_cluster.start(WORKFLOW)
    found = temporal_cluster.wait_for(run)
    assert found["conclusion"] == "success"
    assert temporal_cluster.lines(run, 3) == ["building", "tested", "released 1.2.3"]


@pytest.mark.slow
def test_a_push_starts_a_run_that_people_approve_and_cancel(temporal_cluster: TemporalCluster) -> None:
    """The repository, the commands and the daemon's own log work as with the log engine."""
    cluster = temporal_cluster
    clone = cluster.make_repository()
    assert cluster.stop_daemon() == 0
    cluster.start_daemon()
    cluster.push(clone, {"workflows/gate.yml": GATE, "data/answer": "42\n"})

    def started() -> dict[str, Any] | None:
        rows = cluster.api("GET", "/v1/runs").json()["runs"]
        return rows[0] if rows else None

    first = wait_until(started, "the push to start a run")["id"]
    # A command fails while Temporal does not answer in time; it may have had its effect.
    wait_until(lambda: cluster.ctl("approve", first, "gate").returncode == 0 or _has_ended(cluster, first), "approval")
    wait_until(lambda: cluster.ctl("watch", first).returncode == 0, "the run to succeed")
    assert cluster.lines(first, 1) == ["the answer is 42"]
    assert cluster.api("GET", f"/v1/runs/{first}").json()["trigger"]["kind"] == "push"

    detached = wait_until(lambda: cluster.ctl("run", "gate", "--detach", "--json").stdout, "the second run")
    second = json.loads(detached)["id"]
    wait_until(lambda: cluster.ctl("cancel", second).returncode == 0 or _has_ended(cluster, second), "the cancel")
    assert cluster.wait_for(second)["conclusion"] == "cancelled"
    wait_until(lambda: first in cluster.ctl("runs").stdout, "the list of runs")
    assert cluster.stop_daemon() == 0
    examined = cluster.waterflowd("fsck")
    assert examined.returncode == 0, examined.stdout + examined.stderr


@pytest.mark.slow
def test_open_runs_of_the_log_engine_are_not_left_behind(temporal_cluster: TemporalCluster) -> None:
    """A daemon does not start with another engine before they have ended; it says what to do."""
    cluster = temporal_cluster
    assert cluster.stop_daemon() == 0
    engine, cluster.engine = cluster.engine, ("", "")
    cluster.write_config()
    cluster.start_daemon()
    run = cluster.start("jobs: {a: {runs-on: nowhere, steps: [{run: x}]}}")
    assert cluster.stop_daemon() == 0

    cluster.engine = engine
    cluster.write_config()
    refused = cluster.waterflowd("run")
    assert refused.returncode == 1
    assert "the data directory has an open run of the log engine" in refused.stderr
    assert "[WF800]" in refused.stderr

    cluster.engine = ("", "")
    cluster.write_config()
    cluster.start_daemon()
    assert cluster.api("POST", f"/v1/runs/{run}/cancel").status_code == 202
    cluster.wait_for(run)
    assert cluster.stop_daemon() == 0
    cluster.engine = engine
    cluster.write_config()
    cluster.start_daemon()


@pytest.mark.slow
def test_open_runs_on_temporal_are_not_left_behind(temporal_cluster: TemporalCluster) -> None:
    """The log engine does not start before they have ended, nor while nobody can say whether they have; it says what to do."""
    cluster = temporal_cluster
    run = cluster.start("jobs: {a: {runs-on: nowhere, steps: [{run: x}]}}")
    wait_until(lambda: run in cluster.ctl("runs").stdout, "the run to be listed")
    assert cluster.stop_daemon() == 0
    engine, cluster.engine = cluster.engine, ("", "")
    cluster.write_config()
    refused = cluster.waterflowd("run")
    assert refused.returncode == 1
    assert f"an open run there would not continue: {run}; next: " in refused.stderr
    assert "[WF815]" in refused.stderr

    cluster.server.kill()
    refused = cluster.waterflowd("run")
    assert refused.returncode == 1
    assert "which cannot be asked whether some are open" in refused.stderr
    assert "`waterflowd forget-cluster`" in refused.stderr
    cluster.server.start()

    cluster.engine = engine
    cluster.write_config()
    cluster.start_daemon()
    assert "[WF310]" in cluster.waterflowd("forget-cluster").stderr
    wait_until(lambda: cluster.ctl("cancel", run).returncode == 0 or _has_ended(cluster, run), "the cancel")
    cluster.wait_for(run)
    wait_until(lambda: not cluster.api("GET", "/v1/runs?status=queued").json()["runs"], "the end to be listed")
    assert cluster.stop_daemon() == 0
    known = cluster.folder / "daemon" / "cluster.json"
    assert cluster.namespace.name in known.read_text()
    cluster.engine = ("", "")
    cluster.write_config()
    Cluster.start_daemon(cluster)
    assert not known.exists()


@pytest.mark.slow
def test_a_cluster_that_is_gone_for_ever_can_be_given_up(temporal_cluster: TemporalCluster) -> None:
    """Also by a daemon that is to use another namespace, whose runs are still open in the former one."""
    cluster = temporal_cluster
    run = cluster.start("jobs: {a: {runs-on: nowhere, steps: [{run: x}]}}")
    wait_until(lambda: run in cluster.ctl("runs").stdout, "the run to be listed")
    assert cluster.stop_daemon() == 0
    keys, table = cluster.engine
    other = asyncio.run(new_namespace(cluster.server)).name
    cluster.engine = keys, table.replace(cluster.namespace.name, other)
    cluster.write_config()
    refused = cluster.waterflowd("run")
    assert refused.returncode == 1
    assert f"runs are in the namespace {cluster.namespace.name}" in refused.stderr
    assert f"an open run there would not continue: {run}; next: " in refused.stderr

    forgotten = cluster.waterflowd("forget-cluster")
    assert forgotten.returncode == 0
    assert f"no longer belongs to the namespace {cluster.namespace.name}" in forgotten.stdout
    cluster.start_daemon()
    assert cluster.api("GET", "/v1/runs").json()["runs"] == []
