"""Re-running a run from its failure on, with the corrected file, on real agents and across a crash of the daemon."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert "deploy continues on web-1, in the directory of the earlier run, with that run's files" in done.stdout
    assert "will run: deploy/put" in done.stdout
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


FILES = """name: make
on: workflow_dispatch
jobs:
  build:
    runs-on: web
    steps:
      - id: one
        run: echo from the first step > out.txt; mkdir -p deep/er; echo x > deep/er/file
      - id: two
        run: test -e {marker}
      - id: three
        run: cat out.txt deep/er/file; echo "in $PWD"
"""


def failed_run(cluster: Cluster) -> tuple[str, Path]:
    """A run whose second step has failed; what the step lacks is the path that is returned."""
    marker, file = cluster.folder / "repaired", cluster.folder / "make.yml"
    file.write_text(FILES.format(marker=marker))
    assert cluster.ctl("run", str(file)).returncode == 1
    return cluster.api("GET", "/v1/runs").json()["runs"][0]["id"], marker


def is_kept(cluster: Cluster, name: str, run: str) -> bool:
    """Whether an agent keeps a directory of the run."""
    return any((cluster.agent_dir(name) / "work" / ".kept").glob(f"{run}/build@*"))


@pytest.mark.both_engines
def test_a_rerun_from_a_step_finds_what_the_steps_before_it_have_written(empty_cluster: Cluster) -> None:
    """On the server of the failed job, although another one is free, and across restarts of the agent and the daemon."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    old, marker = failed_run(cluster)
    wait_until(lambda: is_kept(cluster, "web-1", old), "the directory to be kept")
    cluster.add_agent("web-2", "web")
    cluster.kill_agent("web-1")
    cluster.kill_daemon()
    cluster.start_daemon()
    cluster.start_agent("web-1")
    wait_until(lambda: cluster.connected() == {"web-1", "web-2"}, "the agents to be back")
    marker.touch()

    done = cluster.ctl("rerun", old, "--from", "build/two")

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "build continues on web-1, in the directory of the earlier run\n" in done.stdout
    assert "will run: build/two, build/three\n" in done.stdout
    new = cluster.api("GET", "/v1/runs").json()["runs"][0]["id"]
    lines = cluster.lines(new, 3)
    assert lines[:2] == ["from the first step", "x"]
    assert lines[2].endswith(f"{new}/build")
    assert not is_kept(cluster, "web-1", old)
    # The directory belongs to the second run, and was removed with it: a third one cannot have it.
    refused = cluster.ctl("rerun", old, "--from", "build/two")
    assert refused.returncode == 1, (refused.stdout, refused.stderr)
    third = cluster.api("GET", "/v1/runs").json()["runs"][0]["id"]
    text = jobs_of(cluster.run(third))["build"]["reason"]["text"]
    assert f"the directory of job build of run {old} is not on this server any longer" in text
    assert f"waterflowctl rerun {old} --from build" in text


@pytest.mark.both_engines
def test_a_rerun_from_a_step_is_refused_while_its_server_is_away(empty_cluster: Cluster) -> None:
    """The reason and the command that runs the whole job are one sentence; that command works, as it needs no directory."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.add_agent("web-2", "web")
    old, marker = failed_run(cluster)
    server = jobs_of(cluster.run(old))["build"]["agent"]
    cluster.kill_agent(server)
    wait_until(lambda: server not in cluster.connected(), "the server to be away")
    marker.touch()

    refused = cluster.ctl("rerun", old, "--from", "build/two")

    command = f"waterflowctl rerun {old} --from build"
    assert refused.returncode == 5, (refused.stdout, refused.stderr)
    assert (
        f"its directory is on server {server}, which is not connected; run the whole job: {command}" in refused.stderr
    )
    assert cluster.ctl(*command.split()[1:]).returncode == 0
    new = cluster.api("GET", "/v1/runs").json()["runs"][0]["id"]
    assert cluster.lines(new, 3)[:2] == ["from the first step", "x"]
