"""Reports of real agents: a row for each server, whatever becomes of it, kept with the run on both engines."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.language.test_examples import EXAMPLES
from tests.patience import wait_until

WORKFLOW = """\
name: inspect
jobs:
  inspect:
    runs-on: {group: web, target: each}
    report:
      title: Servers
      columns:
        Kernel: ${{ steps.kernel.outputs.content }}
        Disk: ${{ steps.disk.outputs.free }} GB
        Name: ${{ agent.name }}
    steps:
      - id: kernel
        uses: file/read
        with: {path: /proc/sys/kernel/osrelease}
      - if: agent.name == 'web-2'
        run: test -e "FLAG"
      - id: disk
        run: echo "free=12" >> "$WATERFLOW_OUTPUT"
"""


def _rows(cluster: Cluster, run: str) -> dict[str, tuple[str, dict[str, Any] | None]]:
    """Result and values of each row, by its name."""
    answer = cluster.api("GET", f"/v1/runs/{run}/report")
    assert answer.status_code == 200, answer.text
    return {row["name"]: (row["conclusion"], row["values"]) for row in answer.json()["rows"]}


@pytest.mark.both_engines
def test_each_server_has_a_row_that_is_kept_with_the_run(empty_cluster: Cluster) -> None:
    """One fails and one cannot be reached; the report survives `kill -9` of the daemon, and a re-run completes it."""
    cluster = empty_cluster
    cluster.start_daemon()
    for number in (1, 2, 3):
        cluster.add_agent(f"web-{number}", "web")
    cluster.stop_agent("web-3")
    wait_until(lambda: cluster.connected() == {"web-1", "web-2"}, "the daemon to notice that web-3 is away")
    flag = cluster.folder / "flag"
    run = cluster.start(WORKFLOW.replace("FLAG", str(flag)))
    assert cluster.wait_for(run)["conclusion"] == "failure"

    rows = _rows(cluster, run)
    kernel = (rows["web-1"][1] or {})["Kernel"]
    assert rows == {
        "web-1": ("success", {"Kernel": kernel, "Disk": "12 GB", "Name": "web-1"}),
        "web-2": ("failure", {"Kernel": kernel, "Name": "web-2"}),
        "web-3": ("failure", None),
    }
    cluster.kill_daemon()
    cluster.start_daemon()
    assert _rows(cluster, run) == rows

    shown = cluster.ctl("report", run)
    assert shown.returncode == 0, shown.stderr
    assert "report of inspect: Servers (1 success, 2 failure)" in shown.stdout
    assert "web-3 is not connected" in shown.stdout
    target = cluster.folder / "report.csv"
    assert cluster.ctl("report", run, "--format", "csv", "-o", str(target)).returncode == 0
    with target.open(newline="") as file:
        assert [row[:5] for row in csv.reader(file)] == [
            ["Server", "Result", "Kernel", "Disk", "Name"],
            ["web-1", "success", kernel, "12 GB", "web-1"],
            ["web-2", "failure", kernel, "", "web-2"],
            ["web-3", "failure", "", "", ""],
        ]

    flag.touch()
    cluster.start_agent("web-3")
    wait_until(lambda: cluster.connected() == {"web-1", "web-2", "web-3"}, "all agents to be connected")
    again = cluster.ctl("rerun", run, "--failed", "--json")
    assert again.returncode == 0, again.stdout + again.stderr
    newest = cluster.api("GET", "/v1/runs", params={"limit": 1}).json()["runs"][0]["id"]
    assert newest != run
    assert _rows(cluster, newest) == {
        f"web-{number}": ("success", {"Kernel": kernel, "Disk": "12 GB", "Name": f"web-{number}"})
        for number in (1, 2, 3)
    }


def test_the_example_inspects_all_servers(empty_cluster: Cluster) -> None:
    """Every column but that of the certificate, which is not given, has a value on each server of any group."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.add_agent("db-1", "db")
    ended = cluster.ctl("run", str(EXAMPLES / "inspect-servers.yml"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "report of inspect: Servers (2 success)" in ended.stdout
    (report,) = json.loads(cluster.ctl("report", "inspect-servers", "--json").stdout)
    assert sorted(row["name"] for row in report["rows"]) == ["db-1", "web-1"]
    assert [row["note"] for row in report["rows"]] == ["", ""]
    *columns, certificate = report["columns"]
    assert all(set(row["values"]) == set(columns) for row in report["rows"])
    assert certificate == "Certificate until"
