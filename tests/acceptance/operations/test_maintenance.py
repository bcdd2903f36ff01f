"""Servers are taken out of service while they work, with real processes and a daemon that is killed meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S, wait_until

#: Both steps are on one server; the first one waits for a file.
LONG = """
jobs:
  a:
    runs-on: web
    steps:
      - run: until [ -e "{file}" ]; do sleep 0.05; done
      - run: echo second
"""
QUICK = "jobs: {a: {runs-on: web, steps: [{run: echo quick}]}}"


@pytest.mark.log_engine("on Temporal, a daemon does not know the jobs of an agent that are between two steps")
def test_a_server_is_drained_and_removed_while_the_daemon_is_killed(empty_cluster: Cluster) -> None:
    """Its job ends there, the next one waits with a reason, and only then the server is forgotten, with its key."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    file = cluster.folder / "go"
    long = cluster.start(LONG.format(file=file))
    wait_until(lambda: cluster.run(long)["jobs"][0]["status"] == "running", "the job to run")

    drained = cluster.ctl("agents", "drain", "web-1")
    assert drained.stdout == f"web-1 is draining, 1 job left: {long} a\n"
    quick = cluster.start(QUICK)
    cluster.kill_daemon()
    cluster.start_daemon()
    wait_until(lambda: "web-1" in cluster.connected(), "the agent to be back")
    refused = cluster.ctl("agents", "remove", "web-1")
    assert (refused.returncode, f"job a of run {long}" in refused.stderr) == (5, True), refused.stderr
    why = cluster.ctl("why", quick)
    assert 'every server in group "web" that is connected is draining' in why.stdout, why.stdout
    assert "draining, 1 job left" in cluster.ctl("status").stdout

    waiting = subprocess.Popen(
        [sys.executable, "-m", "waterflowd.ctl", "agents", "drain", "web-1", "--wait"],
        cwd=cluster.folder,
        env=cluster.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == f"web-1 is draining, 1 job left: {long} a\n"
    file.touch()
    assert cluster.wait_for(long)["conclusion"] == "success"
    assert waiting.communicate(timeout=PATIENCE_S)[0] == "web-1 is drained: nothing runs there, and no new jobs start\n"
    assert waiting.returncode == 0
    assert cluster.run(quick)["status"] != "completed"

    removed = cluster.ctl("agents", "remove", "web-1")
    assert removed.returncode == 0, removed.stderr
    assert cluster.agent_process("web-1").wait(PATIENCE_S) == 5
    assert json.loads(cluster.ctl("agents", "list", "--all", "--json").stdout) == []
    (cluster.agent_dir("web-1") / "server.json").unlink()
    (cluster.folder / "web-1.token").write_text(cluster.token("web"))
    cluster.start_agent("web-1")
    assert cluster.wait_for(quick)["conclusion"] == "success"


def test_an_agent_that_drains_by_itself_starts_nothing_until_it_is_restarted(empty_cluster: Cluster) -> None:
    """As during an upgrade of its package: the running step continues, and the next ones wait for the restart."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    file = cluster.folder / "go"
    long = cluster.start(LONG.format(file=file))
    wait_until(lambda: cluster.run(long)["jobs"][0]["steps"][0]["status"] == "running", "the step to run")
    wait_until(lambda: "1 held" in cluster.agent_status("web-1"), "the agent's status")

    drained = cluster.agent("drain", "--data-dir", str(cluster.agent_dir("web-1")))

    assert drained.stdout == "web-1 is draining until it is restarted; 1 attempt left\n", drained.stderr
    assert "starts nothing new until it is restarted" in cluster.agent_status("web-1")
    [row] = cluster.api("GET", "/v1/agents").json()["agents"]
    assert (row["text"], row["slots"]) == ("connected, but draining until it is restarted", 0)
    quick = cluster.start(QUICK)
    # Where several daemons share the agents, the reason also names the daemon of this one.
    reason = "starts anything now: draining until it is restarted"
    wait_until(lambda: reason in cluster.ctl("why", quick).stdout, "the reason")
    file.touch()
    wait_until(lambda: cluster.run(long)["jobs"][0]["steps"][0]["status"] == "completed", "the step to end")
    assert cluster.agent("drain", "--wait", "--data-dir", str(cluster.agent_dir("web-1"))).returncode == 0
    assert cluster.run(long)["status"] == cluster.run(quick)["status"] == "running"
    cluster.stop_agent("web-1")
    assert cluster.agent("drain", "--data-dir", str(cluster.agent_dir("web-1"))).returncode == 4
    cluster.start_agent("web-1")
    assert [cluster.wait_for(run)["conclusion"] for run in (long, quick)] == ["success", "success"]


@pytest.mark.both_engines
def test_groups_and_draining_decide_about_waiting_jobs(empty_cluster: Cluster) -> None:
    """A job waits for a server of its group that is not draining, and starts as soon as there is one."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("one", "db")
    assert cluster.ctl("agents", "drain", "one", "--wait").returncode == 0
    assert cluster.ctl("groups", "set", "one", "web").stdout == "one is in web\n"
    run = cluster.start(QUICK)
    wait_until(lambda: "is draining" in cluster.ctl("why", run).stdout, "the reason")
    assert cluster.ctl("agents", "undrain", "one").stdout == "one starts new jobs again\n"
    assert cluster.wait_for(run)["conclusion"] == "success"
    cluster.kill_daemon()
    cluster.start_daemon()
    wait_until(lambda: "one" in cluster.connected(), "the agent to be back")
    [row] = cluster.api("GET", "/v1/agents").json()["agents"]
    assert row["groups"] == ["web"]
