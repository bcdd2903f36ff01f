"""Webhooks and workflow_run triggers with real processes, with the daemon killed in between."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import httpx
import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

pytestmark = pytest.mark.slow

KEY = "owl-1234-of-a-hook"
HOOKED = """name: hooked
on: {webhook: {name: release, secret: HOOK_KEY}}
jobs:
  say:
    uses: ./shared/say.yml
    with: {text: "${{ event.text }}"}
"""
SAY = """on: {workflow_call: {inputs: {text: {}}}}
jobs:
  say:
    runs-on: web
    steps:
      - run: echo "it says ${{ inputs.text }}"
"""
AFTER = """name: after
on: {workflow_run: {workflows: [hooked], conclusions: success}}
jobs:
  say:
    runs-on: web
    steps:
      - run: echo "after ${{ event.workflow_run.name }} ${{ event.workflow_run.conclusion }}"
"""


def deliver(cluster: Cluster, body: bytes, delivery: str, key: str = KEY) -> httpx.Response:
    signature = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": "application/json",
        "host": "waterflow.example.org",
        "x-hub-signature-256": f"sha256={signature}",
        "x-github-delivery": delivery,
    }
    return cluster.api("POST", "/v1/hooks/release", content=body, headers=headers)


def runs(cluster: Cluster) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = cluster.api("GET", "/v1/runs").json()["runs"]
    return rows[::-1]


def test_g6_a_webhook_and_its_workflow_run_triggers_start_once_despite_kills(empty_cluster: Cluster) -> None:
    """The daemon is killed right after it answered the delivery; each run exists once after every restart."""
    cluster = empty_cluster
    cluster.daemon_environment["WATERFLOW_SECRET_HOOK_KEY"] = KEY
    clone = cluster.make_repository()
    configured = cluster.config.read_text()
    cluster.config.write_text(configured.replace('name = "ops"', 'name = "ops"\nwebhook-keys = ["HOOK_KEY"]'))
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.push(clone, {"workflows/hooked.yml": HOOKED, "workflows/after.yml": AFTER, "shared/say.yml": SAY})
    cluster.api("POST", "/v1/repositories/ops/sync", params={"wait": "true"})

    body = b'{"text": "hello; $(touch /tmp/never)"}'
    assert deliver(cluster, body, "d-1", "wrong").status_code == 401
    answered = deliver(cluster, body, "d-1")
    assert answered.status_code == 202, answered.text
    first = answered.json()["id"]
    for _ in range(2):
        cluster.kill_daemon()
        cluster.start_daemon()
        again = deliver(cluster, body, "d-1")
        assert (again.status_code, again.json()["id"]) == (202, first)
    wait_until(lambda: len(runs(cluster)) == 2, "the run that follows")
    followed = runs(cluster)[1]["id"]
    assert cluster.wait_for(first)["conclusion"] == "success"
    assert cluster.wait_for(followed)["conclusion"] == "success"
    assert cluster.lines(first, 1) == ["it says hello; $(touch /tmp/never)"]
    assert cluster.lines(followed, 1) == ["after hooked success"]
    cluster.kill_daemon()
    cluster.start_daemon()
    other = deliver(cluster, body, "d-2").json()["id"]
    wait_until(lambda: len(runs(cluster)) == 4, "the second run that follows")
    assert [row["name"] for row in runs(cluster)] == ["hooked", "after"] * 2
    assert other != first
