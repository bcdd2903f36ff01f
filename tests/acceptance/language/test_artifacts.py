"""Artifacts with real processes: build on one group, deploy on another; kills in the middle; re-runs; downloads; backups."""

from __future__ import annotations

import json
import os
import random
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from tests import living
from tests.acceptance.cluster import Cluster, jobs_of
from tests.acceptance.language import shipment
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.log_engine("artifacts are not available on Temporal")]


@pytest.fixture
def two_groups(empty_cluster: Cluster) -> Cluster:
    """A daemon and an agent in each of two groups."""
    cluster = empty_cluster
    cluster.write_config()
    shipment.start(cluster)
    return cluster


def _ended(cluster: Cluster, workflow: str) -> tuple[str, dict[str, Any]]:
    run = cluster.start(workflow)
    return run, cluster.wait_for(run)


def test_files_are_built_on_one_server_and_deployed_on_another(two_groups: Cluster, tmp_path: Path) -> None:
    """The example from one push; its artifact can be listed and downloaded, as files, as a file, and in ranges."""
    cluster = two_groups
    text = (Path(__file__).parents[3] / "examples/build-and-deploy.yml").read_text()
    text = text.replace("web-servers", "build").replace("db-servers", "web").replace("${{ git.sha }}", "v1")
    run, found = _ended(cluster, text)

    assert found["conclusion"] == "success", cluster.lines(run)
    assert {"shop is up", "bin", "index.html"} <= set(cluster.lines(run))
    assert "debug.map" not in cluster.lines(run)
    listed = cluster.ctl("artifacts", run)
    assert listed.returncode == 0, listed.stderr
    assert "shop" in listed.stdout
    assert "build/2" in listed.stdout
    loaded = cluster.ctl("artifacts", "download", run, "shop", "--output", str(tmp_path / "out"))
    assert loaded.returncode == 0, loaded.stderr
    assert (tmp_path / "out/index.html").read_text() == "<h1>shop v1</h1>\n"
    assert os.access(tmp_path / "out/bin/check", os.X_OK)
    again = cluster.ctl("artifacts", "download", run, "shop", "--output", str(tmp_path / "out"))
    assert (again.returncode, "not empty" in again.stderr) == (5, True)
    whole = cluster.api("GET", f"/v1/runs/{run}/artifacts/shop/content")
    assert whole.status_code == 200
    part = cluster.api("GET", f"/v1/runs/{run}/artifacts/shop/content", headers={"Range": "bytes=100-1099"})
    assert (part.status_code, part.content) == (206, whole.content[100:1100])
    assert part.headers["etag"] == whole.headers["etag"]
    one = cluster.api("GET", f"/v1/runs/{run}/artifacts/shop/content", params={"path": "index.html"})
    assert one.text == "<h1>shop v1</h1>\n"
    beyond = cluster.api("GET", f"/v1/runs/{run}/artifacts/shop/content", headers={"Range": "bytes=9999999-"})
    assert beyond.status_code == 416
    missing = cluster.ctl("artifacts", "download", run, "nothing")
    assert (missing.returncode, "shop" in missing.stderr) == (5, True)
    archived = cluster.ctl("artifacts", "download", run, "shop", "--tar", str(tmp_path / "shop.tar"))
    assert archived.returncode == 0, archived.stderr
    with tarfile.open(tmp_path / "shop.tar") as archive:
        assert archive.getnames() == ["bin/check", "index.html"]
    rows = json.loads(cluster.ctl("artifacts", "list", run, "--json").stdout)
    assert [(row["name"], row["files"]) for row in rows] == [("shop", 2)]
    assert "artifacts: shop (2 files, " in cluster.ctl("show", run).stdout


def test_a_deleted_artifact_frees_its_space_and_leaves_a_trace(two_groups: Cluster, tmp_path: Path) -> None:
    """The list, the screen of the run, the audit trail and the metrics say so; what it took of the disk is free."""
    cluster = two_groups
    shipment.make_files(tmp_path / "source")
    run, found = _ended(cluster, shipment.workflow(tmp_path / "source", tmp_path / "target"))
    assert found["conclusion"] == "success"
    blocks = cluster.folder / "daemon/artifacts/blocks"
    assert sum(path.stat().st_size for path in blocks.rglob("*")) > shipment.LARGE_BYTES
    metrics = cluster.api("GET", "/metrics").text
    assert 'waterflow_artifact_transferred_bytes_total{direction="received"}' in metrics

    deleted = cluster.ctl("artifacts", "delete", run, "shop")

    assert (deleted.returncode, deleted.stdout) == (0, f"shop: deleted (501 files, {_amount()})\n"), deleted.stderr
    assert not [path for path in blocks.rglob("*") if path.is_file()]
    (row,) = cluster.api("GET", f"/v1/runs/{run}/artifacts").json()["artifacts"]
    assert row["removal"]["reason"] == "deleted"
    listed = cluster.ctl("artifacts", run).stdout
    assert "deleted by" in listed
    assert "next:" not in listed
    assert "; deleted by" in cluster.ctl("show", run).stdout
    gone = cluster.ctl("artifacts", "download", run, "shop")
    assert (gone.returncode, "has no artifact" in gone.stderr) == (5, True)
    twice = cluster.ctl("artifacts", "delete", run, "shop")
    assert (twice.returncode, "WF334" in twice.stderr) == (5, True)
    (entry,) = cluster.api("GET", "/v1/audit", params={"what": "delete-artifact"}).json()["audit"]
    assert (entry["target"], entry["facts"]["name"]) == (run, "shop")
    metrics = cluster.api("GET", "/metrics").text
    assert 'waterflow_artifacts_removed_total{reason="deleted"} 1.0' in metrics
    assert "waterflow_artifact_stored_bytes 0.0" in metrics


def _amount() -> str:
    return f"{(shipment.LARGE_BYTES + 500 * 300) / (1 << 20):.1f} MiB"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_transfer_survives_kills_of_the_daemon_and_of_both_agents(
    two_groups: Cluster, tmp_path: Path, seed: int
) -> None:
    """Each is killed twice while the files are sent or fetched; they arrive as they were, and each step ran once."""
    cluster, dice = two_groups, random.Random(seed)
    expected = shipment.make_files(tmp_path / "source", seed)
    blocks = cluster.folder / "daemon/artifacts/blocks"
    run = cluster.start(shipment.workflow(tmp_path / "source", tmp_path / "target"))
    for _ in range(2):
        stored = sum(1 for _ in blocks.rglob("*"))
        more = stored + dice.randrange(30)
        shipment.kill_when(
            cluster,
            run,
            "build-1",
            lambda more=more: sum(1 for _ in blocks.rglob("*")) > more,  # type: ignore[misc]
        )
    work = cluster.agent_dir("web-1") / "work"
    for _ in range(2):
        shipment.kill_when(cluster, run, "web-1", lambda: bool(living.found(work, "**/.artifacts-*")))

    found = cluster.wait_for(run)

    assert found["conclusion"] == "success", (found["reason"], cluster.lines(run))
    assert shipment.digest(tmp_path / "target") == expected
    assert [len(step["attempts"]) for job in jobs_of(found).values() for step in job["steps"]] == [1, 1, 1, 1]


def test_a_re_run_keeps_the_artifacts_of_the_jobs_that_it_reuses(two_groups: Cluster, tmp_path: Path) -> None:
    """Only the deployment runs again, and finds the files; a whole re-run builds them again."""
    cluster = two_groups
    shipment.make_files(tmp_path / "source")
    (tmp_path / "blocked").mkdir()
    target = tmp_path / "blocked/inner"
    text = shipment.workflow(tmp_path / "source", target).replace(
        f"rm -rf {target} && ", f"test -e {tmp_path}/ready && "
    )
    run, found = _ended(cluster, text)
    assert found["conclusion"] == "failure"
    (tmp_path / "ready").touch()

    again = cluster.api("POST", f"/v1/runs/{run}/rerun", json={"failed": True}).json()
    found = cluster.wait_for(again["id"])

    assert found["conclusion"] == "success", cluster.lines(again["id"])
    assert shipment.digest(target) == shipment.digest(tmp_path / "source")
    (kept,) = cluster.api("GET", f"/v1/runs/{again['id']}/artifacts").json()["artifacts"]
    assert (kept["name"], kept["job"], kept["kept_from"]) == ("shop", "build", run)


def test_a_backup_contains_the_artifacts_and_a_check_reads_them(two_groups: Cluster, tmp_path: Path) -> None:
    """A restored daemon has them; a flipped byte is found by `fsck`, which names the artifact."""
    cluster = two_groups
    shipment.make_files(tmp_path / "source")
    run, found = _ended(cluster, shipment.workflow(tmp_path / "source", tmp_path / "target"))
    assert found["conclusion"] == "success"

    backup = cluster.waterflowd("backup", str(tmp_path / "backup"))
    assert backup.returncode == 0, backup.stderr
    checked = cluster.waterflowd("fsck", "--data-dir", str(tmp_path / "backup"))
    assert checked.returncode == 0, checked.stderr
    assert "1 artifacts" in checked.stdout
    cluster.stop_daemon()
    (cluster.folder / "daemon").rename(tmp_path / "lost")
    restored = cluster.waterflowd("restore", str(tmp_path / "backup"))
    assert restored.returncode == 0, restored.stderr
    cluster.start_daemon()
    loaded = cluster.ctl("artifacts", "download", run, "shop", "--output", str(tmp_path / "out"))
    assert loaded.returncode == 0, loaded.stderr
    assert shipment.digest(tmp_path / "out") == shipment.digest(tmp_path / "source")
    cluster.stop_daemon()
    block = max((cluster.folder / "daemon/artifacts/blocks").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(block.read_bytes())
    content[1000] ^= 1
    block.write_bytes(content)
    damaged = cluster.waterflowd("fsck")
    assert damaged.returncode != 0
    assert "shop" in damaged.stderr
    assert run in damaged.stderr


def test_a_quota_fails_the_step_and_nothing_else(two_groups: Cluster, tmp_path: Path) -> None:
    """The reason names the limit; another run works meanwhile."""
    cluster = two_groups
    cluster.config.write_text(cluster.config.read_text() + "\n[artifacts]\nartifact-max-bytes = 1000\n")
    assert cluster.stop_daemon() == 0
    cluster.start_daemon()
    wait_until(lambda: cluster.connected() == {"build-1", "web-1"}, "the agents to connect")
    shipment.make_files(tmp_path / "source")

    run, found = _ended(cluster, shipment.workflow(tmp_path / "source", tmp_path / "target"))

    assert found["conclusion"] == "failure"
    step = jobs_of(found)["build"]["steps"][1]
    assert "artifacts.artifact-max-bytes" in json.dumps(step), step
    assert cluster.api("GET", f"/v1/runs/{run}/artifacts").json() == {"artifacts": []}
    _, other = _ended(cluster, "jobs: {a: {runs-on: web, steps: [{run: echo hi}]}}")
    assert other["conclusion"] == "success"


def test_a_download_continues_after_a_restart_of_the_daemon(two_groups: Cluster, tmp_path: Path) -> None:
    """`waterflowctl artifacts download` requests the rest."""
    cluster = two_groups
    shipment.make_files(tmp_path / "source")
    run, found = _ended(cluster, shipment.workflow(tmp_path / "source", tmp_path / "target"))
    assert found["conclusion"] == "success"
    results: list[int] = []

    def download() -> None:
        loaded = cluster.ctl("artifacts", "download", run, "shop", "--output", str(tmp_path / "out"))
        results.append(loaded.returncode)

    thread = threading.Thread(target=download)
    thread.start()
    wait_until(lambda: living.found(tmp_path, ".out.*/*") or results, "the download to begin")
    cluster.kill_daemon()
    cluster.start_daemon()
    thread.join()

    assert results == [0]
    assert shipment.digest(tmp_path / "out") == shipment.digest(tmp_path / "source")
