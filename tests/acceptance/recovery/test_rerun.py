"""Re-running a run from its failure on, with the corrected file, on real agents and across a crash of the daemon."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.cluster import Cluster, jobs_of
from tests.patience import wait_until

WORKFLOW = """name: release
on: workflow_dispatch
vars: {who: nobody}
jobs:
  build:
    runs-on: web
    outputs: {stamp: "${{ steps.make.outputs.stamp }}"}
    steps:
      - id: make
        run: |
          echo "stamp=$(date +%s%N)" >>"$WATERFLOW_OUTPUT"
          echo built
  deploy:
    runs-on: web
    needs: build
    steps:
      - id: prepare
        run: echo prepared ${{ needs.build.outputs.stamp }}
      - id: put
        run: BROKEN
"""
PATH = "workflows/release.yml"


@pytest.mark.both_engines
def test_a_rerun_starts_at_the_failed_step_with_the_corrected_file(empty_cluster: Cluster) -> None:
    """Reused steps are announced first, the other steps see their outputs, and the new run names the old one."""
    cluster = empty_cluster
    clone = cluster.make_repository()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.push(clone, {PATH: WORKFLOW.replace("BROKEN", "exit 3")})
    wait_until(lambda: cluster.api("GET", "/v1/definitions").json()["definitions"], "the workflow to be known")
    assert cluster.ctl("run", "release", "--var", "who=me").returncode == 1
    old = cluster.api("GET", "/v1/runs").json()["runs"][0]["id"]
    stamp = jobs_of(cluster.run(old))["build"]["outputs"]["stamp"]
    cluster.kill_daemon()
    cluster.start_daemon()
    wait_until(lambda: cluster.connected() == {"web-1"}, "the agent to be back")
    fixed = cluster.push(clone, {PATH: WORKFLOW.replace("BROKEN", "echo put by ${{ vars.who }}")})
    assert cluster.ctl("sync", "--wait").returncode == 0

    dry = cluster.ctl("rerun", old[:20], "--from", "put", "--at", fixed, "--dry-run", "--json")
    assert json.loads(dry.stdout)["reused"] == ["build", "deploy/prepare"], dry.stderr
    done = cluster.ctl("rerun", old, "--from", "put", "--at", fixed[:12])

    assert done.returncode == 0, (done.stdout, done.stderr)
    # What its reused steps wrote to the job's directory is missing, and the command that runs all of it is offered.
    assert f"next: waterflowctl rerun {old} --from deploy\n" in done.stdout
    assert done.stdout.index("reused: build, deploy/prepare") < done.stdout.index("started release #2")
    row = cluster.api("GET", "/v1/runs").json()["runs"][0]
    assert (row["rerun_of"], row["revision"], row["trigger"]["kind"]) == (old, fixed, "rerun")
    jobs = jobs_of(cluster.run(row["id"]))
    assert (jobs["build"]["reused"], jobs["build"]["outputs"]) == (True, {"stamp": stamp})
    assert [step["reused"] for step in jobs["deploy"]["steps"]] == [True, False]
    assert cluster.lines(row["id"], 1) == ["put by me"]
    again = cluster.ctl("rerun", row["id"], "--detach")
    assert again.returncode == 0, again.stderr
    third = cluster.wait_for(cluster.api("GET", "/v1/runs").json()["runs"][0]["id"])
    assert (third["conclusion"], third["rerun_of"], third["reused"]) == ("success", row["id"], None)
