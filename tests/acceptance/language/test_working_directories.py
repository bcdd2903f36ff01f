"""A job keeps its working directory on its server until it has ended, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

from tests import living
from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

WORKFLOW = """jobs:
  a:
    runs-on: web
    steps:
      - run: echo precious > file
      - uses: sleep
        with: {duration: 3s}
      - run: cat file
"""


def _directories(cluster: Cluster, run: str) -> list[Path]:
    return [path for name in ("web-1", "web-2") for path in living.found(cluster.agent_dir(name), f"work/{run}/*")]


def test_a_job_directory_survives_its_agent_and_is_removed_with_the_job(shared_cluster: Cluster) -> None:
    """The agent is killed and restarted while the job sleeps, and the next step still finds its file."""
    run = shared_cluster.start(WORKFLOW)
    wait_until(lambda: "step-sleeping" in [event["type"] for event in shared_cluster.events(run)], "the sleep")
    name = shared_cluster.run(run)["jobs"][0]["agent"]
    shared_cluster.kill_agent(name)
    shared_cluster.start_agent(name)

    assert shared_cluster.wait_for(run)["conclusion"] == "success"

    assert shared_cluster.lines(run, 1) == ["precious"]
    wait_until(lambda: not _directories(shared_cluster, run), "the directory to go")


def test_a_job_directory_is_removed_when_the_agent_reconnects_after_the_job_ended(shared_cluster: Cluster) -> None:
    """The message that the job has ended was lost with the connection; it is sent again when the agent reconnects."""
    run = shared_cluster.start("jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: sleep 600\n")
    wait_until(lambda: shared_cluster.run(run)["jobs"][0]["status"] == "running", "the job to run")
    name = shared_cluster.run(run)["jobs"][0]["agent"]
    wait_until(lambda: _directories(shared_cluster, run), "the directory")
    shared_cluster.kill_agent(name)
    assert shared_cluster.api("POST", f"/v1/runs/{run}/cancel", json={"force": True}).status_code in (200, 202)
    assert shared_cluster.wait_for(run)["conclusion"] == "cancelled"
    assert _directories(shared_cluster, run)

    shared_cluster.start_agent(name)

    wait_until(lambda: not _directories(shared_cluster, run), "the directory to go")
