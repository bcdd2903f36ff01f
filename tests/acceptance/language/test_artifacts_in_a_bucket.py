"""Artifacts in a bucket with real processes: build here, deploy there, with kills in the middle; wrong keys; a restore."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import living, s3_service
from tests.acceptance.cluster import Cluster, jobs_of
from tests.acceptance.language import shipment
from tests.s3_service import S3Service

pytestmark = [pytest.mark.slow, pytest.mark.log_engine("artifacts are not available on Temporal")]


@pytest.fixture
def service() -> Iterator[S3Service]:
    with s3_service.serving() as running:
        yield running


@pytest.fixture
def cluster(empty_cluster: Cluster, service: S3Service, tmp_path: Path) -> Cluster:
    """A cluster that is not started yet, and is configured with the bucket."""
    secret = tmp_path / "artifacts.key"
    secret.touch(0o600)
    secret.write_text(s3_service.SECRET_KEY + "\n")
    empty_cluster.write_config(
        f"""[artifacts]
storage = "s3://{s3_service.BUCKET}/ship"
endpoint = "{service.endpoint}"
region = "{s3_service.REGION}"
access-key-id = "{s3_service.ACCESS_KEY}"
secret-access-key-file = "{secret}"
"""
    )
    return empty_cluster


def test_a_transfer_through_the_bucket_survives_kills_of_the_daemon_and_of_both_agents(
    cluster: Cluster, service: S3Service, tmp_path: Path
) -> None:
    """The files arrive as they were, each step ran once, no content went to the daemon, and nothing secret is in a log."""
    expected, dice = shipment.make_files(tmp_path / "source"), random.Random(1)
    checked = cluster.waterflowd("check-config", "--connect")
    assert checked.returncode == 0, checked.stderr
    assert f"connected to s3://{s3_service.BUCKET}/ship at {service.endpoint}" in checked.stdout
    shipment.start(cluster)
    run = cluster.start(shipment.workflow(tmp_path / "source", tmp_path / "target"))
    for _ in range(2):
        stored = len(service.of_agents("PUT"))
        more = stored + dice.randrange(30)
        shipment.kill_when(
            cluster,
            run,
            "build-1",
            lambda more=more: len(service.of_agents("PUT")) > more,  # type: ignore[misc]
        )
    work = cluster.agent_dir("web-1") / "work"
    shipment.kill_when(cluster, run, "web-1", lambda: bool(living.found(work, "**/.artifacts-*")))

    found = cluster.wait_for(run)

    assert found["conclusion"] == "success", (found["reason"], cluster.lines(run))
    assert shipment.digest(tmp_path / "target") == expected
    assert [len(step["attempts"]) for job in jobs_of(found).values() for step in job["steps"]] == [1, 1, 1, 1]
    local = [path for path in (cluster.folder / "daemon/artifacts/blocks").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in local) < 100_000
    loaded = cluster.ctl("artifacts", "download", run, "shop", "--output", str(tmp_path / "out"))
    assert loaded.returncode == 0, loaded.stderr
    assert shipment.digest(tmp_path / "out") == expected
    logs = "".join(path.read_text("utf-8", "replace") for path in cluster.folder.glob("*.log"))
    logs += "\n".join(cluster.lines(run))
    assert "X-Amz-Signature" not in logs
    assert s3_service.SECRET_KEY not in logs
    (stored_bytes,) = re.findall(
        r"^waterflow_artifact_bucket_bytes (\S+)$", cluster.api("GET", "/metrics").text, re.MULTILINE
    )
    assert float(stored_bytes) >= shipment.LARGE_BYTES
    _check_backup(cluster, tmp_path)


def _check_backup(cluster: Cluster, tmp_path: Path) -> None:
    """It has records without content, which `fsck` accepts; the restored daemon does not use the bucket unasked."""
    backup = cluster.waterflowd("backup", str(tmp_path / "backup"))
    assert backup.returncode == 0, backup.stderr
    checked = cluster.waterflowd("fsck", "--data-dir", str(tmp_path / "backup"))
    assert checked.returncode == 0, checked.stderr
    assert "1 artifacts" in checked.stdout
    cluster.stop_daemon()
    (cluster.folder / "daemon").rename(tmp_path / "lost")
    restored = cluster.waterflowd("restore", str(tmp_path / "backup"))
    assert restored.returncode == 0, restored.stderr
    refused = cluster.waterflowd("check-config", "--connect")
    assert refused.returncode == 1
    assert "two must not share a prefix" in refused.stdout


def test_wrong_keys_are_named_and_stop_only_artifacts(cluster: Cluster, service: S3Service, tmp_path: Path) -> None:
    """The daemon runs, the step fails with the reason, and works once the key is right."""
    shipment.make_files(tmp_path / "source")
    secret = tmp_path / "artifacts.key"
    secret.write_text("wrong\n")
    checked = cluster.waterflowd("check-config", "--connect")
    assert checked.returncode == 1
    assert "access denied (SignatureDoesNotMatch); check artifacts.access-key-id" in checked.stdout
    shipment.start(cluster)
    workflow = shipment.workflow(tmp_path / "source", tmp_path / "target")

    run = cluster.start(workflow)
    assert cluster.wait_for(run)["conclusion"] == "failure"
    assert any("SignatureDoesNotMatch" in line for line in cluster.lines(run))

    cluster.stop_daemon()
    secret.write_text(s3_service.SECRET_KEY)
    cluster.start_daemon()
    run = cluster.start(workflow)
    assert cluster.wait_for(run)["conclusion"] == "success", cluster.lines(run)
    assert service.of_agents("PUT")
