"""Steps that start child runs, with real processes, with the daemon killed in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import World, wait_until

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


def runs(world: World, name: str) -> list[dict[str, Any]]:
    """Returns the runs of a workflow, oldest first."""
    rows: list[dict[str, Any]] = world.api("GET", "/v1/runs").json()["runs"]
    return [row for row in reversed(rows) if row["name"] == name]


def begin(world: World, folder: Path, more: str = "") -> str:
    """Pushes a repository that starts the parent; returns the parent run."""
    clone = world.make_repository()
    world.start_daemon()
    world.add_agent("web-1", "web")
    world.push(clone, {"README.md": "nothing yet"})
    world.api("POST", "/v1/repositories/ops/sync", params={"wait": "true"})
    world.push(
        clone, {"workflows/all.yml": PARENT.format(more=more), "workflows/other.yml": OTHER.format(folder=folder)}
    )
    (row,) = wait_until(lambda: runs(world, "all"), "the run of the push", 60)
    return str(row["id"])


def kill_and_start(world: World) -> None:
    world.kill_daemon()
    world.start_daemon()


def test_g6_a_step_starts_one_run_and_ends_with_it_over_kills(empty_world: World, tmp_path: Path) -> None:
    """The daemon is killed as soon as the child run exists, while the step waits, and when the child run may end."""
    world = empty_world
    run = begin(world, tmp_path)
    kill_and_start(world)
    wait_until(lambda: (tmp_path / "begun").exists(), "the other run's step", 60)
    (other,) = runs(world, "other")
    kill_and_start(world)
    reason = wait_until(
        lambda: next(
            (step["reason"] for step in world.run(run)["jobs"][0]["steps"] if step["status"] == "waiting"), None
        ),
        "the step that waits",
        60,
    )
    assert reason["code"] == "waiting-child-run"
    assert reason["run"] == other["id"]
    assert other["id"] in world.ctl("show", run).stdout
    (tmp_path / "gate").touch()
    kill_and_start(world)

    ended = world.wait_for(run, 60)

    assert ended["conclusion"] == "success", ended
    (other,) = runs(world, "other")
    assert (tmp_path / "begun").read_text() == "begun\n"
    assert ended["jobs"][0]["outputs"] == {"answer": "for main"}
    assert world.lines(run, 1) == [f"run {other['id']} says for main"]
    created = world.events(other["id"])[0]
    assert created["trigger"]["kind"] == "parent_run"
    shown = world.run(other["id"])
    assert shown["parent_run"] == {"run": run, "job": "all", "step": "other", "attempt": 1}
    assert shown["outputs"] == {"answer": "for main"}
    assert ended["jobs"][0]["steps"][0]["attempts"][0]["child_run"] == other["id"]
    assert f"run {other['id']}" in world.ctl("show", run).stdout
    assert f"child run of step all/other of run {run}" in world.ctl("show", other["id"]).stdout


def test_a_cancel_takes_the_run_of_the_step_along_over_a_kill(empty_world: World, tmp_path: Path) -> None:
    """The daemon is killed right after it has answered the cancel; both runs are cancelled, the parent last."""
    world = empty_world
    run = begin(world, tmp_path)
    wait_until(lambda: (tmp_path / "begun").exists(), "the other run's step", 60)
    answered = world.api("POST", f"/v1/runs/{run}/cancel", json={})
    assert answered.status_code < 300, answered.text
    kill_and_start(world)

    ended = world.wait_for(run, 60)

    (other,) = runs(world, "other")
    assert (ended["conclusion"], other["conclusion"]) == ("cancelled", "cancelled")
    assert ended["completed_at"] >= other["completed_at"]


def test_a_step_that_waits_for_no_run_ends_at_once(empty_world: World, tmp_path: Path) -> None:
    """The parent completes while its child run continues; a file that is sent without a repository cannot start any."""
    world = empty_world
    run = begin(world, tmp_path, ", wait: false")
    assert world.wait_for(run, 60)["conclusion"] == "success"
    (other,) = runs(world, "other")
    assert other["conclusion"] is None
    refused = world.api(
        "POST", "/v1/runs", content=PARENT.format(more=""), headers={"content-type": "application/yaml"}
    )
    assert refused.status_code == 422, refused.text
    assert "WF135" in refused.text
    (tmp_path / "gate").touch()
    assert world.wait_for(other["id"], 60)["conclusion"] == "success"
