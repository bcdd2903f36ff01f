"""The audit trail of a real daemon: sealed, with the use of secrets and the sessions of agents, and exported."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORKFLOW = """
jobs:
  deploy:
    runs-on: web
    steps:
      - run: echo no secret here
      - id: login
        env: {PASSWORD: "${{ secrets.DEPLOY_KEY }}"}
        run: test "${#PASSWORD}" = 12
"""


def configure(cluster: Cluster, more: str = "") -> None:
    """Writes a configuration with an audit key beside the data directory."""
    key = cluster.folder / "audit.key"
    if not key.exists():
        key.touch(0o600)
        key.write_text(secrets.token_hex(32))
    cluster.write_config(f'[audit]\nkey-file = "{key}"\n{more}')


def entries(cluster: Cluster, what: str) -> list[dict[str, object]]:
    """Returns the entries of the trail with this action, oldest first."""
    found: list[dict[str, object]] = cluster.api("GET", f"/v1/audit?what={what}&limit=100").json()["audit"]
    return found[::-1]


def test_the_use_of_a_secret_is_in_the_sealed_trail_before_the_secret_is_sent(empty_cluster: Cluster) -> None:
    """Names, run, part and server, never the value; a step without secrets has no entry. A killed daemon loses none of it."""
    cluster = empty_cluster
    exported = cluster.folder / "audit.jsonl"
    configure(cluster, f'export-file = "{exported}"')
    cluster.daemon_environment["WATERFLOW_SECRET_DEPLOY_KEY"] = "twelve-chars"
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    run = cluster.start(WORKFLOW)
    assert cluster.wait_for(run)["conclusion"] == "success"
    cluster.kill_daemon()
    assert "audit trail: sealed" in cluster.waterflowd("fsck").stdout
    cluster.start_daemon()

    [used] = entries(cluster, "use-secrets")

    assert used["target"] == f"run {run}"
    facts = used["facts"]
    assert isinstance(facts, dict)
    assert (facts["secrets"], facts["part"], facts["attempt"]) == (["DEPLOY_KEY"], "deploy/login", 1)
    assert facts["server"] == "web-1"
    assert "twelve-chars" not in cluster.api("GET", "/v1/audit").text
    # A session has no answer that reports its record, so it is recorded soon after it began.
    wait_until(lambda: len(entries(cluster, "agent-connected")) >= 2, "the sessions to be recorded")
    assert entries(cluster, "agent-connected")[0]["by"] == facts["agent"]
    cluster.stop_agent("web-1")
    wait_until(lambda: entries(cluster, "agent-disconnected"), "the end of the session to be recorded")
    assert [entry["target"] for entry in entries(cluster, "change-audit-key")] != []
    newest = cluster.api("GET", "/v1/audit?limit=1").json()["audit"][0]["seq"]

    def positions() -> set[int]:
        return {json.loads(line)["position"] for line in exported.read_text().splitlines()}

    wait_until(lambda: positions() >= set(range(1, newest + 1)), "the trail to be exported")
    assert cluster.stop_daemon() == 0
    assert cluster.waterflowd("fsck").returncode == 0


def test_an_export_that_fails_and_a_missing_key_are_shown(empty_cluster: Cluster) -> None:
    """A failing export is a problem until it works again; without a key, `status` says how to add one, and exits with 0."""
    cluster = empty_cluster
    cluster.start_daemon()
    shown = cluster.ctl("status")
    assert shown.returncode == 0
    assert "the audit trail is not sealed: waterflowd audit-key FILE, and set audit.key-file to FILE" in shown.stdout
    assert "waterflow_audit_sealed 0" in cluster.api("GET", "/metrics").text
    assert cluster.stop_daemon() == 0

    folder = cluster.folder / "exports"
    configure(cluster, f'export-file = "{folder}/audit.jsonl"')
    cluster.start_daemon()
    problem = (
        "audit trail: cannot be exported to file: No such file or directory; check audit.export-file; records waiting: "
    )
    wait_until(lambda: problem in cluster.ctl("status").stdout, "the failure to be shown")
    assert cluster.ctl("status").returncode == 1
    metrics = cluster.api("GET", "/metrics").text
    assert "waterflow_audit_sealed 1" in metrics
    assert 'waterflow_audit_export_failing{to="file"} 1' in metrics
    assert 'waterflow_audit_export_waiting{to="file"} 0' not in metrics

    folder.mkdir()
    wait_until(lambda: cluster.ctl("status").returncode == 0, "the export to work again", 2 * PATIENCE_S)
    audit = cluster.api("GET", "/v1/status").json()["audit"]
    assert audit["sealed"]
    assert [(row["to"], row["failure"]) for row in audit["exports"]] == [("file", "")]
    assert "not sealed" not in cluster.ctl("status").stdout


def test_a_daemon_whose_audit_key_is_gone_says_what_to_do(empty_cluster: Cluster) -> None:
    """It does not start, and a new key continues the trail."""
    cluster = empty_cluster
    configure(cluster)
    cluster.start_daemon()
    assert cluster.stop_daemon() == 0
    key = cluster.folder / "audit.key"
    key.unlink()
    cluster.write_config('[audit]\nkey-file = ""\n')
    command = [sys.executable, "-m", "waterflowd", "run", "--config", str(cluster.config)]
    refused = subprocess.run(
        command, env=cluster.environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert refused.returncode != 0
    assert "WF320" in refused.stderr
    assert "Traceback" not in refused.stderr

    subprocess.run([sys.executable, "-m", "waterflowd", "audit-key", str(key)], timeout=PATIENCE_S, check=True)
    configure(cluster)
    cluster.start_daemon()

    assert len(entries(cluster, "change-audit-key")) == 2
