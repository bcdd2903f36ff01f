"""Every release's data directories, backups and agents work with this one, and this one's log is safe from an older release."""

from __future__ import annotations

import calendar
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

import waterflowd
from tests.acceptance.cluster import Cluster
from tests.compat import record_release
from tests.compat.record_release import AGENT_DIR, BACKUP_DIR, DAEMON_DIR, RELEASES
from tests.patience import wait_until
from waterflowd.app.bootstrap import UNIONS
from waterflowd.store import directory, layout
from waterflowd.store.opening import open_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.log_engine("the recorded runs are in the log engine's data directory"),
]

RECORDED = sorted(path.name for path in RELEASES.iterdir())
#: After this time, the recorded open run has timed out.
WAITS_S = 50_400 * 60
STEPS = """jobs:
  a:
    runs-on: web
    steps:
      - id: one
        run: |
          seq 3
          echo "kept=4" >> $WATERFLOW_OUTPUT
      - uses: file/write
        with: {path: file, content: "5\\n"}
      - run: cat file; echo ${{ steps.one.outputs.kept }}
"""


@pytest.fixture(params=RECORDED)
def release(request: pytest.FixtureRequest, empty_cluster: Cluster) -> str:
    """A release, whose directories are those of the cluster."""
    name = str(request.param)
    with tarfile.open(RELEASES / name / record_release.SERVER) as archive:
        # Python 3.11.2, as in Debian 12, has no extraction filters yet; the archive is trusted.
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(empty_cluster.folder)
    return name


@pytest.fixture
def cluster(empty_cluster: Cluster, release: str) -> Cluster:
    """A cluster with a recorded daemon and the agent that knows it, both stopped."""
    empty_cluster.write_config()
    (empty_cluster.folder / "web-1.toml").write_text(
        f'name = "web-1"\nserver = "tcp://127.0.0.1:{empty_cluster.work_port}"\n'
        f'data-dir = "{empty_cluster.folder / AGENT_DIR}"\n'
    )
    return empty_cluster


def start_agent(cluster: Cluster) -> None:
    """Starts the recorded agent, as an operator does after its server was replaced."""
    cluster.launch_agent("web-1")
    wait_until(lambda: "agents accept web-1" in cluster.agent_log("web-1").read_text(), "the copy to be noticed")
    accepted = cluster.ctl("agents", "accept", "web-1")
    assert accepted.returncode == 0, accepted.stderr
    cluster.stop_agent("web-1")
    cluster.start_agent("web-1")


def runs(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in cluster.api("GET", "/v1/runs").json()["runs"]}


def test_this_release_has_a_recording() -> None:
    """Without one, the next release could not be tested."""
    assert waterflowd.__version__ in RECORDED


def test_a_recorded_data_directory_continues(cluster: Cluster) -> None:
    """The ended run is shown with its output, and the open one ends after its approval, on the agent that was enrolled then."""
    cluster.start_daemon()
    start_agent(cluster)
    found = runs(cluster)
    assert found["ended"]["conclusion"] == "success"
    assert cluster.lines(found["ended"]["id"]) == ["built"]
    waiting = found["waiting"]["id"]
    recorded_s = _seconds(found["waiting"]["created_at"])
    if time.time() - recorded_s < WAITS_S:
        assert record_release.is_waiting(cluster, waiting)
        answer = cluster.api("POST", f"/v1/runs/{waiting}/approve", json={})
        assert answer.status_code == 200, answer.text
        assert cluster.wait_for(waiting)["conclusion"] == "success"
        assert "released 7" in cluster.lines(waiting)
    else:
        assert cluster.wait_for(waiting)["conclusion"] == "timed-out"
    assert cluster.wait_for(cluster.start(STEPS))["conclusion"] == "success"
    assert cluster.stop_daemon() == 0
    with open_store(cluster.folder / DAEMON_DIR, UNIONS) as store:
        store.verify()


def _seconds(text: str) -> float:
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))


def test_a_recorded_backup_is_restored(cluster: Cluster) -> None:
    """By this release, into an empty data directory; the recorded agent and its ended run are in it."""
    shutil.rmtree(cluster.folder / DAEMON_DIR)
    restored = cluster.waterflowd("restore", str(cluster.folder / BACKUP_DIR))
    assert restored.returncode == 0, restored.stderr
    cluster.start_daemon()
    start_agent(cluster)
    ended = runs(cluster)["ended"]
    assert (ended["conclusion"], cluster.lines(ended["id"])) == ("success", ["built"])
    assert cluster.wait_for(cluster.start(STEPS))["conclusion"] == "success"


@pytest.fixture
def older_agent(cluster: Cluster, release: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the package of the release's agent, which agents of the cluster are started from."""
    cluster.start_daemon()
    folder = cluster.folder / "older"
    with zipfile.ZipFile(RELEASES / release / record_release.AGENT) as archive:
        archive.extractall(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_an_agent_of_a_recorded_release_works_with_this_daemon(
    cluster: Cluster, older_agent: Path, release: str
) -> None:
    """Servers are upgraded before agents: it runs steps and nodes, returns outputs and output, and stops a step."""
    where = subprocess.run(
        [sys.executable, "-c", "import waterflow_agent; print(waterflow_agent.__file__)"],
        env=cluster.environment(),
        cwd=cluster.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(str(older_agent))
    start_agent(cluster)
    (row,) = cluster.api("GET", "/v1/agents").json()["agents"]
    assert row["version"] == release
    run = cluster.start(STEPS)
    assert cluster.wait_for(run)["conclusion"] == "success"
    assert [line for line in cluster.lines(run) if re.fullmatch(r"\d", line)] == ["1", "2", "3", "5", "4"]
    begun = cluster.folder / "begun"
    endless = cluster.start(f"jobs: {{a: {{runs-on: web, steps: [{{run: 'touch {begun}; sleep 3600'}}]}}}}")
    wait_until(begun.exists, "the endless step to begin")
    assert cluster.api("POST", f"/v1/runs/{endless}/cancel", json={}).status_code in (200, 202)
    assert cluster.wait_for(endless)["conclusion"] == "cancelled"


def test_an_older_daemon_refuses_a_newer_log_and_leaves_it_untouched(cluster: Cluster) -> None:
    """So do the commands that read a data directory. A rollback needs the backup that was made before the upgrade."""
    data = cluster.folder / DAEMON_DIR
    newer = directory.Format(format=layout.FORMAT_VERSION + 1, lmdb=0, release="9.0")
    (data / layout.FORMAT_FILE).write_bytes(directory.encode_format(newer))
    before = _digests(data)
    for command in (("run",), ("fsck",), ("backup", str(cluster.folder / "new"))):
        done = cluster.waterflowd(*command)
        assert done.returncode not in (0, -9), command
        assert "WF311" in done.stdout + done.stderr, command
        assert "9.0" in done.stdout + done.stderr, command
        assert _digests(data) == before, command


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
