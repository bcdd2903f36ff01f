"""A changed configuration is applied while the daemon runs, as far as that is possible."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

NAP = (
    "on: {push: {}, workflow_dispatch: {}}\njobs: {j: {runs-on: web, steps: [{uses: sleep, with: {duration: 1ms}}]}}\n"
)

pytestmark = pytest.mark.log_engine("with several daemons, repositories need a restart")


def repository(cluster: Cluster, more: str = "") -> str:
    return f'[[repositories]]\nname = "ops"\nurl = "{cluster.repository}"\n{more}\n'


def effects(cluster: Cluster) -> dict[str, bool]:
    """The keys that `waterflowctl reload` reports, and whether each was applied."""
    done = cluster.ctl("reload", "--json")
    assert done.returncode == 0, done.stderr
    return {row["key"]: row["applied"] for row in json.loads(done.stdout)["changes"]}


def rows(cluster: Cluster, path: str, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.api("GET", path).json()[key]
    return found


def test_a_reload_applies_what_it_can_and_says_what_needs_a_restart(empty_cluster: Cluster) -> None:
    """A repository is watched, its rights change, and it is gone again; the port needs a restart."""
    cluster = empty_cluster
    clone = cluster.make_repository()
    cluster.push(clone, {"workflows/nap.yml": NAP})
    cluster.write_config()
    cluster.start_daemon()
    assert rows(cluster, "/v1/repositories", "repositories") == []

    cluster.write_config(repository(cluster), agents='lost-after = "5m"')
    assert effects(cluster) == {"agents.lost-after": False, "repositories.ops": True}
    assert cluster.ctl("sync", "ops", "--wait").returncode == 0
    assert cluster.ctl("run", "nap").returncode == 0
    assert "needs a restart" in cluster.ctl("reload").stdout

    cluster.write_config(repository(cluster, 'groups = ["db"]') + "[retention]\nruns-per-workflow = 5\n")
    assert effects(cluster) == {"repositories.ops": True, "retention.runs-per-workflow": True}
    wait_until(
        lambda: [row for row in rows(cluster, "/v1/definitions", "definitions") if row["status"] == "broken"],
        "the file to be refused for its group",
    )
    assert cluster.api("GET", "/v1/retention").json()["rules"] == {"runs-per-workflow": 5}

    cluster.write_config()
    assert effects(cluster)["repositories.ops"]
    assert rows(cluster, "/v1/repositories", "repositories") == []
    assert [row["path"] for row in rows(cluster, "/v1/runs", "runs")] == ["workflows/nap.yml"]
    audit = json.loads(cluster.ctl("audit", "--json", "--what", "reload").stdout)
    assert audit[0]["facts"]["applied"] == ["repositories.ops", "retention.runs-per-workflow"]


def test_a_broken_configuration_is_reported_with_its_place_and_changes_nothing(empty_cluster: Cluster) -> None:
    """The daemon continues with what it has; the signal says the same in the log."""
    cluster = empty_cluster
    cluster.make_repository()
    cluster.start_daemon()
    cluster.config.write_text(cluster.config.read_text() + "[logs]\n")
    line = len(cluster.config.read_text().splitlines())

    done = cluster.ctl("reload")
    assert done.returncode == 5
    assert f'{cluster.config}:{line}: unknown key "logs"' in done.stderr
    assert "nothing was changed" in done.stderr

    os.kill(cluster.daemon_pid, signal.SIGHUP)
    wait_until(lambda: "nothing was changed: " in cluster.log.read_text(), "the log to say so")
    assert [row["name"] for row in rows(cluster, "/v1/repositories", "repositories")] == ["ops"]


def test_a_signal_reloads_as_the_command_does(empty_cluster: Cluster) -> None:
    """It is in the log and in the audit trail."""
    cluster = empty_cluster
    cluster.make_repository()
    cluster.start_daemon()
    cluster.write_config(repository(cluster) + '[log]\nlevel = "debug"\n')
    os.kill(cluster.daemon_pid, signal.SIGHUP)
    entry = wait_until(
        lambda: next(iter(json.loads(cluster.ctl("audit", "--json", "--what", "reload").stdout)), None), "the reload"
    )
    assert (entry["by"], entry["facts"]["applied"]) == ("SIGHUP", ["log.level"])
    assert "configuration read again: applied log.level" in cluster.log.read_text()
