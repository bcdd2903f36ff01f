"""Grants with real processes: nothing is readable by default, and the lines that the refusals contain are sufficient."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

VALUE = "osprey-2718-deploy"
WORKFLOW = """on: {push: {}, workflow_dispatch: {}}
jobs:
  a:
    runs-on: web
    steps:
      - env: {KEY: "${{ secrets.DEPLOY_KEY }}"}
        run: echo "${#KEY}"
"""
#: Refused only at run time: a group that an expression chooses.
CHOSEN = WORKFLOW.replace(
    "on: {push: {}, workflow_dispatch: {}}", "on: {workflow_dispatch: {inputs: {where: {default: web}}}}"
).replace("runs-on: web", "runs-on: ${{ inputs.where }}")
HOOKED = "on: {webhook: {name: release, secret: HOOK_KEY}}\njobs: {a: {runs-on: web, steps: [{run: echo x}]}}\n"
STEALS = WORKFLOW.replace("DEPLOY_KEY", "hook_key")


def check(cluster: Cluster) -> str:
    """Returns what `check-config` prints."""
    log = cluster.folder / "check.log"
    log.unlink(missing_ok=True)
    process = cluster.spawn("waterflowd", "check-config", "--config", str(cluster.config), log=log)
    assert process.wait(PATIENCE_S) == 0, log.read_text()
    return log.read_text()


def repository(cluster: Cluster, more: str = "") -> str:
    return f'[[repositories]]\nname = "ops"\nurl = "{cluster.repository}"\n{more}\n'


def definitions(cluster: Cluster) -> dict[str, dict[str, Any]]:
    rows = cluster.api("GET", "/v1/definitions").json()["definitions"]
    return {row["path"]: row for row in rows}


def test_the_lines_of_check_config_permit_what_was_refused(empty_cluster: Cluster) -> None:
    """Before, a push starts nothing and shows the error; with the lines that are printed, the step gets its secret."""
    cluster = empty_cluster
    cluster.daemon_environment |= {"WATERFLOW_SECRET_DEPLOY_KEY": VALUE, "WATERFLOW_SECRET_HOOK_KEY": "h" * 20}
    clone = cluster.make_repository()
    files = {"workflows/a.yml": WORKFLOW, "workflows/hooked.yml": HOOKED, "workflows/steals.yml": STEALS}
    cluster.grants = ""
    cluster.write_config(repository(cluster))
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.push(clone, {"README": "x"})
    cluster.api("POST", "/v1/repositories/ops/sync", params={"wait": "true"})
    cluster.push(clone, files)
    cluster.api("POST", "/v1/repositories/ops/sync", params={"wait": "true"})
    assert cluster.api("GET", "/v1/runs").json()["runs"] == []
    found = {path: row["errors"][0] for path, row in definitions(cluster).items()}
    assert {path: error["code"] for path, error in found.items()} == {
        "workflows/a.yml": "WF529",
        "workflows/hooked.yml": "WF530",
        "workflows/steals.yml": "WF529",
    }
    assert '[[secrets.grants]]\nsecrets = ["DEPLOY_KEY"]' in found["workflows/a.yml"]["suggestion"]
    sent = cluster.api("POST", "/v1/runs", content=WORKFLOW, headers={"content-type": "application/yaml"})
    assert (sent.status_code, sent.json()["code"]) == (403, "WF529")
    assert "without-repository = true" in sent.json()["detail"]

    dry = cluster.api("POST", "/v1/runs", json={"yaml": WORKFLOW, "dry_run": True})
    assert (dry.status_code, dry.json()["detail"]) == (403, sent.json()["detail"])
    known = cluster.api("POST", "/v1/definitions/workflows/a.yml/run", json={"dry_run": True})
    assert (known.status_code, known.json()["code"]) == (409, "WF511")
    assert 'configuration: [[secrets.grants]] secrets = ["DEPLOY_KEY"]' in known.json()["detail"]
    validated = cluster.ctl("validate", "--repository", "ops", str(clone / "workflows"))
    assert validated.returncode == 1
    assert validated.stderr.count("[[secrets.grants]]") == 2
    assert 'webhook-keys = ["HOOK_KEY"]' in validated.stderr
    assert "error: 3 errors in 3 of 3 files" in validated.stderr

    said = check(cluster)
    cluster.stop_daemon()
    lines = said.partition("lines to add")[2].partition("\n\n")[2].splitlines()
    cluster.grants = "\n".join(lines[lines.index("[[secrets.grants]]") :])
    assert 'webhook-keys = ["HOOK_KEY"]' in lines
    cluster.write_config(repository(cluster, 'webhook-keys = ["HOOK_KEY"]'))
    said = check(cluster)
    assert "workflows/a.yml" not in said
    assert "is a webhook key of repository" in said

    cluster.start_daemon()
    wait_until(lambda: definitions(cluster).get("workflows/a.yml", {}).get("status") == "ready", "the right to count")
    assert definitions(cluster)["workflows/steals.yml"]["errors"][0]["code"] == "WF529"

    def started() -> str | None:
        # After the restart its plan may still be missing.
        answered = cluster.api("POST", "/v1/definitions/workflows/a.yml/run", json={})
        return str(answered.json()["id"]) if answered.status_code == 201 else None

    run = wait_until(started, "the workflow to start")
    assert cluster.wait_for(run)["conclusion"] == "success"
    assert cluster.lines(run, 1) == [str(len(VALUE))]


def test_a_grant_for_one_group_holds_for_a_group_that_a_run_chooses(empty_cluster: Cluster) -> None:
    """The refusal at run time contains the lines too, and `why` shows it."""
    cluster = empty_cluster
    cluster.daemon_environment["WATERFLOW_SECRET_DEPLOY_KEY"] = VALUE
    clone = cluster.make_repository()
    cluster.grants = '[[secrets.grants]]\nsecrets = ["DEPLOY_KEY"]\nrepositories = ["ops"]\ngroups = ["web"]\n'
    cluster.write_config(repository(cluster))
    cluster.start_daemon()
    cluster.add_agent("web-1", "web", slots=1)
    cluster.add_agent("db-1", "db", slots=1)
    cluster.push(clone, {"workflows/chosen.yml": CHOSEN})
    cluster.api("POST", "/v1/repositories/ops/sync", params={"wait": "true"})

    def run(where: str) -> str:
        body = {"inputs": {"where": where}}
        return str(cluster.api("POST", "/v1/definitions/workflows/chosen.yml/run", json=body).json()["id"])

    allowed, refused = run("web"), run("db")
    assert cluster.wait_for(allowed)["conclusion"] == "success"
    assert cluster.wait_for(refused)["conclusion"] == "failure"
    reason = cluster.run(refused)["jobs"][0]["steps"][0]["reason"]
    assert reason["code"] == "secret-not-granted"
    assert 'groups = ["db"]' in reason["text"]
    assert 'secrets = ["DEPLOY_KEY"]' in cluster.ctl("why", refused).stdout
