"""What operators read afterwards: the audit trail and the daemon's own log, with real processes."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import pytest
import zmq
import zmq.utils.z85

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

FAILING = """
name: failing
jobs:
  a:
    runs-on: web
    steps:
      - uses: log
        with: {message: fine}
      - id: second
        run: exit 7
"""
FINE = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - uses: log\n        with: {message: fine}\n"


def _audit(cluster: Cluster) -> list[dict[str, Any]]:
    """Returns all rows, oldest first."""
    answered = cluster.ctl("audit", "--json", "--limit", "1000")
    assert answered.returncode == 0, answered.stderr
    rows: list[dict[str, Any]] = json.loads(answered.stdout)
    return rows[::-1]


@pytest.mark.slow
def test_actions_are_in_the_audit_trail_after_kill_9(empty_cluster: Cluster) -> None:
    """The audit trail says who did what and when, by command line and API, up to the moment of the kill."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    run = cluster.start(FINE)
    cluster.wait_for(run)
    assert cluster.ctl("tokens", "create", "--role", "runner", "--name", "ci", "--group", "web").returncode == 0
    assert cluster.ctl("tokens", "revoke", "ci").returncode == 0
    assert cluster.ctl("agents", "revoke", "web-1").returncode == 0
    cluster.kill_daemon()
    cluster.start_daemon()

    rows = _audit(cluster)

    agents = {"agent-connected", "agent-disconnected"}
    done = [(row["by"], row["what"], row["target"]) for row in rows if row["what"] not in {"refused", *agents}]
    me = f"uid:{os.getuid()}"
    assert done[0] == ("anonymous", "create-join-token", "web")
    assert done[1] == ("anonymous", "start-run", "workflow.yml")
    assert done[2:4] == [(me, "create-token", "ci"), (me, "revoke-token", "ci")]
    assert done[4][:2] == (me, "revoke-agent")
    assert len(done) == 5
    agent = done[4][2]
    assert next(row for row in rows if row["what"] in agents)["what"] == "agent-connected"
    assert {row["by"] for row in rows if row["what"] in agents} == {agent}
    assert next(row for row in rows if row["what"] == "start-run")["facts"] == {"run": run}
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    table = cluster.ctl("audit")
    assert "revoke-agent" in table.stdout
    assert "\x1b" not in table.stdout


@pytest.mark.slow
def test_repeated_attempts_of_an_unknown_key_are_recorded_at_a_limited_rate(empty_cluster: Cluster) -> None:
    """When an unknown key tries again and again, the audit trail records some of the attempts, not all."""
    cluster = empty_cluster
    cluster.start_daemon()
    began = time.monotonic()
    server = cluster.api("GET", "/v1/agents").json()["server"]
    public, secret = zmq.curve_keypair()
    context = zmq.Context()
    strangers = []
    try:
        for _ in range(20):
            stranger = context.socket(zmq.DEALER)
            stranger.setsockopt(zmq.LINGER, 0)
            stranger.curve_publickey, stranger.curve_secretkey = public, secret
            stranger.curve_serverkey = server["key"].encode()
            stranger.connect(f"tcp://127.0.0.1:{cluster.work_port}")
            strangers.append(stranger)
        rows = wait_until(
            lambda: [row for row in _audit(cluster) if row["what"] == "refused"], "a refusal in the trail"
        )
    finally:
        for stranger in strangers:
            stranger.close()
        context.term()
    assert rows[0]["facts"]["door"] == "agents"
    assert rows[0]["facts"]["code"] == "WF212"
    assert rows[0]["by"] == "127.0.0.1"
    # Six from one source, and one more for each minute that this may have taken.
    found = len([row for row in _audit(cluster) if row["what"] == "refused"])
    assert found <= 6 + (time.monotonic() - began) / 60


@pytest.mark.slow
def test_every_log_line_is_a_json_object_with_its_subject(empty_cluster: Cluster) -> None:
    """With a failed run, rejected strangers, bytes that are not HTTP, and a kill; no line contains a token."""
    cluster = empty_cluster
    clone = cluster.make_repository()
    cluster.config.write_text(cluster.config.read_text() + '\n[log]\nlevel = "debug"\nformat = "json"\n')
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    cluster.push(clone, {"workflows/one.yml": 'on: push\nname: "t\\ex"\n' + FINE})
    wait_until(lambda: cluster.api("GET", "/v1/runs").json()["runs"], "the pushed run to start")
    run = cluster.start(FAILING)
    assert cluster.wait_for(run)["conclusion"] == "failure"
    secret = cluster.api("POST", "/v1/tokens", json={"role": "viewer", "name": "v"}).json()["secret"]
    cluster.api("GET", f"/v1/runs?name={secret}")
    # Far more than one per second, on any machine.
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", cluster.api_port)) as stranger:
            stranger.sendall(b"\x1b[2J\xff\r\n\r\n")
            stranger.recv(100)
    cluster.kill_daemon()
    cluster.start_daemon()
    assert cluster.stop_daemon() == 0

    text = cluster.log.read_text()

    lines = [json.loads(line) for line in text.splitlines()]
    assert text.isascii()
    assert "\x1b" not in text
    assert secret not in text
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    about = [line for line in lines if line.get("run") == run]
    assert about[0]["message"].startswith("run 1 started")
    assert all(line["workflow"] == "workflow.yml" for line in about if "workflow" in line)
    failed = [line for line in about if line["level"] == "warning" and line.get("step") == "second"]
    assert failed
    assert (failed[0]["job"], failed[0]["conclusion"]) == ("a", "failure")
    assert [line for line in about if line.get("agent") == "web-1" and line.get("attempt") == 1]
    assert any(line.get("repository") == "ops" and "run" in line for line in lines)
    assert any(line.get("repository") == "ops" and "updated to" in line["message"] for line in lines)
    assert any("agent" in line and "connected" in line["message"] for line in lines)
    assert 1 <= sum("Invalid HTTP" in line["message"] for line in lines) < 300
