"""The main job: a push runs a workflow on real agents, and the command line shows everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S, wait_until

DEPLOY = """name: deploy
jobs:
  database:
    runs-on: db-servers
    outputs: {version: "${{ steps.migrate.outputs.version }}"}
    steps:
      - id: migrate
        run: echo "version=7" >> "$WATERFLOW_OUTPUT"
  frontend:
    runs-on: web-servers
    needs: database
    steps:
      - run: echo "on schema ${{ needs.database.outputs.version }}"
"""


@pytest.fixture
def fleet(empty_cluster: Cluster) -> Cluster:
    """A repository, a daemon, one web server and one database server."""
    empty_cluster.make_repository()
    empty_cluster.start_daemon()
    empty_cluster.add_agent("web-1", "web-servers")
    empty_cluster.add_agent("db-1", "db-servers")
    return empty_cluster


def _runs(cluster: Cluster) -> list[dict[str, object]]:
    found: list[dict[str, object]] = cluster.api("GET", "/v1/runs").json()["runs"]
    return found


def _push_and_wait(cluster: Cluster, files: dict[str, str]) -> dict[str, object]:
    before = len(_runs(cluster))
    cluster.push(cluster.clone, files)
    wait_until(lambda: len(_runs(cluster)) > before, "the push to start a run")
    return cluster.wait_for(str(_runs(cluster)[0]["id"]))


def test_a_push_runs_the_workflow_and_every_command_shows_it(fleet: Cluster) -> None:
    """`git push` alone starts the run; the commands of the first five minutes show what happened."""
    run = _push_and_wait(fleet, {"workflows/deploy.yml": DEPLOY})

    assert run["conclusion"] == "success"
    assert run["repository"] == "ops"
    assert [job["agent"] for job in run["jobs"]] == ["db-1", "web-1"]  # type: ignore[attr-defined]
    short = str(run["id"])[:16]
    assert "healthy" in fleet.ctl("status").stdout
    assert short in fleet.ctl("runs").stdout
    assert "frontend" in fleet.ctl("show", short).stdout
    assert json.loads(fleet.ctl("show", short, "--at", "1", "--json").stdout)["status"] == "queued"
    assert "on schema 7" in fleet.ctl("logs", short).stdout
    assert "run-completed" in fleet.ctl("events", short).stdout
    assert fleet.ctl("watch", short).returncode == 0
    assert fleet.ctl("why", short).returncode == 0
    assert {"web-1", "db-1"} <= set(fleet.ctl("agents").stdout.split())
    synced = fleet.ctl("sync", "ops", "--wait")
    assert synced.returncode == 0, synced.stderr
    assert "deploy" in fleet.ctl("workflows").stdout


def test_a_file_runs_by_hand_and_its_result_is_the_exit_code(fleet: Cluster) -> None:
    """`run FILE` waits and exits with the run's result: 0, 1, or 3 after a cancel."""
    good, bad = fleet.folder / "good.yml", fleet.folder / "bad.yml"
    good.write_text("jobs:\n  a:\n    runs-on: web-servers\n    steps:\n      - run: echo fine\n")
    bad.write_text("jobs:\n  a:\n    runs-on: web-servers\n    steps:\n      - run: exit 3\n")

    assert fleet.ctl("run", str(good)).returncode == 0
    failed = fleet.ctl("run", str(bad))
    assert failed.returncode == 1
    assert "exit code 3" in failed.stdout + failed.stderr

    slow = fleet.folder / "slow.yml"
    slow.write_text("jobs:\n  a:\n    runs-on: web-servers\n    steps:\n      - run: sleep 600\n")
    detached = json.loads(fleet.ctl("run", str(slow), "--detach", "--json").stdout)
    wait_until(lambda: fleet.run(detached["id"])["jobs"][0]["status"] == "running", "the job to run")
    assert fleet.ctl("cancel", detached["id"]).returncode == 0
    assert fleet.wait_for(detached["id"])["conclusion"] == "cancelled"
    assert fleet.ctl("watch", detached["id"]).returncode == 3


def test_a_waiting_run_gives_its_reason_and_continues_when_a_server_connects(fleet: Cluster) -> None:
    """The reason has a code and a message that names the next command."""
    run = fleet.start("jobs:\n  a:\n    runs-on: gpu-servers\n    steps:\n      - run: echo at last\n")
    waiting = wait_until(
        lambda: (job := fleet.run(run)["jobs"][0])["reason"]["code"] == "no-server-in-group" and job, "a reason"
    )
    assert "waterflowctl agents tokens create --group gpu-servers" in waiting["reason"]["text"]
    assert "gpu-servers" in fleet.ctl("why", run).stdout

    fleet.add_agent("gpu-1", "gpu-servers")

    assert fleet.wait_for(run)["conclusion"] == "success"


def test_a_broken_file_is_shown_with_its_line_and_blocks_no_other_file(fleet: Cluster) -> None:
    """After one push with a good and a broken file, the good one runs and the broken one is shown with its line."""
    run = _push_and_wait(
        fleet,
        {
            "workflows/deploy.yml": DEPLOY,
            "workflows/broken.yml": DEPLOY.replace("needs: database", "needs: databse"),
        },
    )

    assert run["conclusion"] == "success"
    rows = {row["path"]: row for row in fleet.api("GET", "/v1/definitions").json()["definitions"]}
    error = rows["workflows/broken.yml"]["errors"][0]
    assert (error["line"], error["suggestion"]) == (11, 'did you mean "database"?')
    assert "broken.yml" in fleet.ctl("status").stdout + fleet.ctl("workflows").stdout


def test_commits_pushed_while_the_daemon_was_down_run_once_for_the_newest(fleet: Cluster) -> None:
    """Triggers are level-based: only the current commit of the ref counts, not the commits in between."""
    _push_and_wait(fleet, {"workflows/deploy.yml": DEPLOY})
    fleet.kill_daemon()
    for number in range(3):
        commit = fleet.push(fleet.clone, {"workflows/deploy.yml": DEPLOY + f"# {number}\n"})

    fleet.start_daemon()

    wait_until(lambda: len(_runs(fleet)) == 2, "one more run")
    assert _runs(fleet)[0]["revision"] == commit
    assert fleet.wait_for(str(_runs(fleet)[0]["id"]))["conclusion"] == "success"
    assert fleet.ctl("sync", "ops", "--wait").returncode == 0
    assert len(_runs(fleet)) == 2


def test_a_sleeping_run_survives_a_restart_and_holds_no_server(fleet: Cluster) -> None:
    """The timer is in the log, so the daemon may be killed and the agent may be away in the meantime."""
    run = fleet.start(
        """jobs:
  a:
    runs-on: web-servers
    steps:
      - uses: sleep
        with: {duration: 15s}
      - uses: log
        with: {message: awake}
"""
    )
    wait_until(lambda: fleet.run(run)["jobs"][0]["steps"][0]["reason"]["code"] == "sleeping", "the sleep")
    assert all(row["slots_busy"] == 0 for row in fleet.api("GET", "/v1/agents").json()["agents"])
    fleet.kill_daemon()
    fleet.start_daemon()

    assert fleet.wait_for(run)["conclusion"] == "success"
    assert fleet.lines(run, 1) == ["awake"]


def test_a_stop_by_sigterm_leaves_steps_running(fleet: Cluster) -> None:
    """An orderly stop and a start lose nothing either, and the daemon exits with 0."""
    run = fleet.start("jobs:\n  a:\n    runs-on: web-servers\n    steps:\n      - run: sleep 1; echo done\n")
    wait_until(lambda: fleet.run(run)["jobs"][0]["status"] == "running", "the job to run")
    assert fleet.stop_daemon() == 0
    fleet.start_daemon()

    assert fleet.wait_for(run)["conclusion"] == "success"
    assert fleet.lines(run, 1) == ["done"]


@pytest.mark.parametrize("way", ["same path", "symbolic link", pytest.param("bind mount", marks=pytest.mark.root)])
def test_a_second_daemon_on_one_directory_exits_with_a_clear_message(empty_cluster: Cluster, way: str) -> None:
    """The message names the process that holds the directory, and the first daemon continues."""
    empty_cluster.start_daemon()
    directory = empty_cluster.folder / "daemon"
    other = empty_cluster.folder / "other"
    if way == "same path":
        other = directory
    elif way == "symbolic link":
        other.symlink_to(directory)
    else:
        if os.geteuid() != 0:
            pytest.skip("a bind mount needs root")
        other.mkdir()
        subprocess.run(["mount", "--bind", str(directory), str(other)], check=True)
    config = empty_cluster.folder / "second.toml"
    config.write_text(
        f'data-dir = "{other}"\n[api]\nlisten = "127.0.0.1:0"\nsocket = ""\n'
        '[agents]\nlisten = "tcp://127.0.0.1:*"\nenroll-listen = "tcp://127.0.0.1:*"\n'
    )
    try:
        second = subprocess.run(
            [sys.executable, "-m", "waterflowd", "run", "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=empty_cluster.environment(),
            check=False,
        )
    finally:
        if way == "bind mount":
            subprocess.run(["umount", str(other)], check=True)

    assert second.returncode == 1
    assert str(empty_cluster.daemon_pid) in second.stderr
    assert "Traceback" not in second.stderr
    assert empty_cluster.api("GET", "/health").status_code == 200


def test_curl_needs_no_token_as_in_the_readme(fleet: Cluster, tmp_path: Path) -> None:
    """The five requests of the README work as a person types them."""

    def curl(*arguments: str) -> dict[str, object]:
        answer = subprocess.run(
            ["curl", "-sS", *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE_S
        ).stdout
        found: dict[str, object] = json.loads(answer.splitlines()[0])
        return found

    base = f"http://127.0.0.1:{fleet.api_port}"
    file = tmp_path / "w.yml"
    file.write_text(DEPLOY)
    assert curl(f"{base}/health")["status"] == "ok"
    first = curl("-H", "Content-Type: application/yaml", "--data-binary", f"@{file}", f"{base}/v1/workflows")
    body = json.dumps({"yaml": DEPLOY})
    second = curl("-H", "Content-Type: application/json", "-d", body, f"{base}/v1/workflows")
    for started in (first, second):
        assert fleet.wait_for(str(started["id"]))["conclusion"] == "success"
    rows = curl(f"{base}/v1/workflows")["workflows"]
    assert [row["id"] for row in rows] == [second["id"], first["id"]]  # type: ignore[attr-defined]
    assert curl(f"{base}/v1/workflows/{first['id']}")["name"] == "deploy"
    assert curl(f"{base}/v1/workflows/{first['id']}/logs")["text"] == "on schema 7"
