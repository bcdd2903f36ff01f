"""Steps that start child runs, with real processes, with the daemon killed in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

pytestmark = pytest.mark.slow

PARENT = """name: all
on: {{push: }}
jobs:
  all:
    runs-on: web
    outputs: {{answer: "${{{{ steps.other.outputs.answer }}}}"}}
    steps:
      - id: other
        uses: workflow/run
        with: {{workflow: other.yml, inputs: {{who: "${{{{ git.branch }}}}"}}{more}}}
      - run: echo "run ${{{{ steps.other.outputs.run-id }}}} says ${{{{ steps.other.outputs.answer }}}}"
"""
OTHER = """name: other
on:
  workflow_call:
    inputs: {{who: {{required: true}}}}
    outputs: {{answer: {{value: "${{{{ jobs.say.outputs.answer }}}}"}}}}
jobs:
  say:
    runs-on: web
    outputs: {{answer: "${{{{ steps.s.outputs.answer }}}}"}}
    steps:
      - id: s
        run: |
          echo begun >> {folder}/begun
          while [ ! -e {folder}/gate ]; do sleep 0.1; done
          echo "answer=for ${{{{ inputs.who }}}}" >> "$WATERFLOW_OUTPUT"
"""


def runs(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """Returns the runs of a workflow, oldest first."""
    rows: list[dict[str, Any]] = cluster.api("GET", "/v1/runs").json()["runs"]
    return [row for row in reversed(rows) if row["name"] == name]


def begin(cluster: Cluster, folder: Path, more: str = "") -> str:
    """Pushes a repository that starts the parent; returns the parent run."""
    clone = cluster.make_repository()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.push(clone, {"README.md": "nothing yet"})
    cluster.api("POST", "/v1/repositories/ops/sync", params={"wait": "true"})
    cluster.push(
        clone, {"workflows/all.yml": PARENT.format(more=more), "workflows/other.yml": OTHER.format(folder=folder)}
    )
    (row,) = wait_until(lambda: runs(cluster, "all"), "the run of the push", 60)
    return str(row["id"])


def child(cluster: Cluster) -> str:
    """Returns the only run of the other workflow, once it is listed."""
    (row,) = wait_until(lambda: runs(cluster, "other"), "the other run to be listed")
    return str(row["id"])


def kill_and_start(cluster: Cluster) -> None:
    cluster.kill_daemon()
    cluster.start_daemon()


def test_g6_a_step_starts_one_child_run_and_ends_with_it_despite_kills(empty_cluster: Cluster, tmp_path: Path) -> None:
    """The daemon is killed as soon as the child run exists, while the step waits, and when the child run may end."""
    cluster = empty_cluster
    run = begin(cluster, tmp_path)
    kill_and_start(cluster)
    wait_until(lambda: (tmp_path / "begun").exists(), "the other run's step", 60)
    other = child(cluster)
    kill_and_start(cluster)
    reason = wait_until(
        lambda: next(
            (step["reason"] for step in cluster.run(run)["jobs"][0]["steps"] if step["status"] == "waiting"), None
        ),
        "the step that waits",
        60,
    )
    assert reason["code"] == "waiting-child-run"
    assert reason["run"] == other
    assert other in cluster.ctl("show", run).stdout
    (tmp_path / "gate").touch()
    kill_and_start(cluster)

    ended = cluster.wait_for(run, 60)

    assert ended["conclusion"] == "success", ended
    assert child(cluster) == other
    assert (tmp_path / "begun").read_text() == "begun\n"
    assert ended["jobs"][0]["outputs"] == {"answer": "for main"}
    assert cluster.lines(run, 1) == [f"run {other} says for main"]
    created = cluster.events(other)[0]
    assert created["trigger"]["kind"] == "parent_run"
    displayed = cluster.run(other)
    assert displayed["parent_run"] == {"run": run, "job": "all", "step": "other", "attempt": 1}
    assert displayed["outputs"] == {"answer": "for main"}
    assert ended["jobs"][0]["steps"][0]["attempts"][0]["child_run"] == other
    assert f"run {other}" in cluster.ctl("show", run).stdout
    assert f"child run of step all/other of run {run}" in cluster.ctl("show", other).stdout


@pytest.mark.both_engines
def test_a_cancel_reaches_the_child_run_despite_a_kill(empty_cluster: Cluster, tmp_path: Path) -> None:
    """The daemon is killed right after it has answered the cancel; both runs are cancelled, the parent last."""
    cluster = empty_cluster
    run = begin(cluster, tmp_path)
    wait_until(lambda: (tmp_path / "begun").exists(), "the other run's step", 60)
    answered = cluster.api("POST", f"/v1/runs/{run}/cancel", json={})
    assert answered.status_code < 300, answered.text
    kill_and_start(cluster)

    ended = cluster.wait_for(run, 60)

    other = cluster.wait_for(child(cluster))
    assert (ended["conclusion"], other["conclusion"]) == ("cancelled", "cancelled")
    assert ended["completed_at"] >= other["completed_at"]


def test_a_step_that_does_not_wait_for_its_child_run_ends_at_once(empty_cluster: Cluster, tmp_path: Path) -> None:
    """The parent completes while its child run continues; a file that is sent without a repository cannot start any."""
    cluster = empty_cluster
    run = begin(cluster, tmp_path, ", wait: false")
    assert cluster.wait_for(run, 60)["conclusion"] == "success"
    other = child(cluster)
    assert cluster.run(other)["conclusion"] is None
    refused = cluster.api(
        "POST", "/v1/runs", content=PARENT.format(more=""), headers={"content-type": "application/yaml"}
    )
    assert refused.status_code == 422, refused.text
    assert "WF135" in refused.text
    (tmp_path / "gate").touch()
    assert cluster.wait_for(other, 60)["conclusion"] == "success"
