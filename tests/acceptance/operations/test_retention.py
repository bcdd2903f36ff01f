"""Retention in a real daemon: what `waterflowctl prune` shows and removes, and what is said of removed runs and output."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until
from waterflowd.app.bootstrap import UNIONS
from waterflowd.store.opening import open_store
from waterflowd.testing.old_runs import EVENTS, fill, old_run

pytestmark = pytest.mark.log_engine("runs are kept in Temporal")

DAY_MS = 86_400_000
RUNS, WORKFLOWS = 60, 3
REMOVED = RUNS - WORKFLOWS
RULES = """[retention]
run-max-age = "30d"
"""


def filled(cluster: Cluster, rules: str) -> int:
    """Starts a daemon with runs of 40 days ago; returns when the first of them began."""
    first_at = time.time_ns() // 1_000_000 - 40 * DAY_MS
    with open_store(cluster.folder / "daemon", UNIONS) as store:
        fill(store.log, RUNS, first_at=first_at, every_ms=60_000, workflows=WORKFLOWS, fails_every=1_000)
    cluster.write_config(repositories=rules)
    cluster.start_daemon()
    return first_at


def prune(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(cluster.ctl("prune", "--json", *arguments).stdout)


def test_prune_shows_removes_and_remembers(empty_cluster: Cluster) -> None:
    """A dry run changes nothing; the audit trail has the removal; what asks for a removed run is told when and why."""
    cluster = empty_cluster
    first_at = filled(cluster, RULES)
    shown = prune(cluster, "--dry-run")
    assert shown["rules"] == {"run-max-age": 30 * DAY_MS}
    assert sum(row["runs"] for row in shown["would_remove"]) == REMOVED
    assert sum(row["events"] for row in shown["would_remove"]) == REMOVED * EVENTS
    text = cluster.ctl("prune", "--dry-run").stdout
    assert "run-max-age" in text
    assert f"{REMOVED} runs, or their output: about" in text
    assert len(cluster.api("GET", "/v1/runs?limit=100").json()["runs"]) == RUNS

    assert prune(cluster)["would_remove"] == shown["would_remove"]
    left = wait_until(lambda: _left(cluster) == WORKFLOWS and [WORKFLOWS], "the old runs to be removed")
    assert left == [WORKFLOWS]

    removed = old_run(0, first_at)
    answer = cluster.api("GET", f"/v1/runs/{removed}")
    assert answer.status_code == 410
    assert f"run {removed} (w0.yml #1) was removed at 2" in answer.json()["detail"]
    assert answer.json()["detail"].endswith("by the retention rule run-max-age")
    for command in (["show", removed], ["rerun", removed], ["logs", removed], ["show", "w0.yml#1"]):
        said = cluster.ctl(*command)
        assert said.returncode != 0
        assert "by the retention rule run-max-age" in said.stderr, command
    entries = json.loads(cluster.ctl("audit", "--json", "--what", "remove-runs", "--limit", "100").stdout)
    assert sum(entry["facts"]["runs"] for entry in entries) == REMOVED
    assert all(entry["facts"]["rules"][0].startswith("run-max-age=") for entry in entries)
    assert cluster.api("GET", "/v1/runs?name=w0.yml").json()["runs"][0]["number"] == RUNS // WORKFLOWS

    cluster.stop_daemon()
    with open_store(cluster.folder / "daemon", UNIONS) as store:
        store.verify()


def _left(cluster: Cluster) -> int:
    return len(cluster.api("GET", "/v1/runs?limit=100").json()["runs"])


def test_without_rules_nothing_is_removed(empty_cluster: Cluster) -> None:
    """The command says so, and what to set."""
    filled(empty_cluster, "")
    said = empty_cluster.ctl("prune")
    assert said.returncode != 0
    assert "no rule is set" in said.stderr
    assert "[retention]" in empty_cluster.ctl("prune", "--dry-run").stdout
    assert _left(empty_cluster) == RUNS
