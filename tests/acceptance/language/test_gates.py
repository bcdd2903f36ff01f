"""Environments and approvals with real processes: nothing starts before the required people have approved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

pytestmark = pytest.mark.slow

CONFIGURATION = """
[[environments]]
name = "production"
approvers = ["alice", "bob"]
minimum = 2
vars = { url = "https://www.example.org", level = 2 }
[[environments]]
name = "releases"
refs = ["main"]
"""

WORKFLOW = """vars: {url: http://localhost, team: web}
jobs:
  deploy:
    runs-on: web
    environment: production
    steps:
      - run: echo "$WATERFLOW_JOB" >> PLACE/marks; echo "${{ vars.url }} ${{ vars.level }} ${{ vars.team }}"
  release:
    runs-on: web
    environment: releases
    steps: [{run: 'echo release >> PLACE/marks'}]
  ask:
    runs-on: web
    concurrency: ask
    steps:
      - run: touch kept
      - id: go
        uses: approval
        with: {approvers: [carol], message: "Go ${{ vars.team }}?"}
      - run: test -e kept; echo "by ${{ join(steps.go.outputs.by, '+') }}"
  refuse:
    runs-on: web
    steps:
      - {id: go, uses: approval, continue-on-error: true}
      - run: echo "${{ steps.go.outcome }} ${{ steps.go.outputs.approved }}"
  late:
    runs-on: web
    steps:
      - {uses: approval, with: {timeout: 100ms, default: approve}}
      - run: echo in time
"""


class People:
    """The approvers, with their tokens."""

    def __init__(self, cluster: Cluster, *names: str) -> None:
        self._cluster = cluster
        self._headers = {}
        for name in names:
            answer = cluster.api("POST", "/v1/tokens", json={"name": name, "role": "approver"})
            assert answer.status_code == 201, answer.text
            self._headers[name] = {"authorization": f"Bearer {answer.json()['secret']}"}

    def say(self, name: str, word: str, run: str, job: str, step: str | None = None) -> int:
        """Approves or rejects; returns the status of the answer."""
        body = {"job": job, **({"step": step} if step is not None else {})}
        return self._cluster.api("POST", f"/v1/runs/{run}/{word}", json=body, headers=self._headers[name]).status_code


@pytest.mark.both_engines
def test_nothing_starts_before_the_required_approvals(empty_cluster: Cluster, tmp_path: Path) -> None:
    """The configuration or the file names the approvers; the environment's variables override the file's."""
    cluster, directory = empty_cluster, tmp_path / "place"
    directory.mkdir()
    cluster.write_config(CONFIGURATION)
    cluster.start_daemon()
    cluster.add_agent("web-1", "web", slots=1)
    people = People(cluster, "alice", "bob", "carol", "mallory")
    run = cluster.start(WORKFLOW.replace("PLACE", str(directory)))

    def waiting() -> set[tuple[str, str | None]]:
        return {(row["job"], row["step"]) for row in cluster.run(run)["approvals"]}

    wait_until(lambda: waiting() == {("deploy", None), ("ask", "go"), ("refuse", "go")}, "what waits for people")
    wait_until(lambda: cluster.run(run)["jobs"][-1]["status"] == "completed", "the approval that comes by itself")
    assert all(row["slots_busy"] == 0 for row in cluster.api("GET", "/v1/agents").json()["agents"])
    assert people.say("mallory", "approve", run, "deploy") == 403
    assert people.say("alice", "approve", run, "deploy") == 200
    people.say("alice", "approve", run, "deploy")
    assert ("deploy", None) in waiting(), "one person is not two"
    assert people.say("carol", "approve", run, "ask", "go") == 200
    assert people.say("mallory", "reject", run, "refuse", "go") == 200
    assert not (directory / "marks").exists()
    assert people.say("bob", "approve", run, "deploy") == 200
    found: dict[str, Any] = cluster.wait_for(run)

    assert {job["id"]: job["conclusion"] for job in found["jobs"]} == {
        "deploy": "success",
        "release": "failure",
        "ask": "success",
        "refuse": "success",
        "late": "success",
    }
    assert sorted(cluster.lines(run, 4)) == ["by carol", "failure false", "https://www.example.org 2 web", "in time"]
    assert (directory / "marks").read_text() == "deploy\n"
