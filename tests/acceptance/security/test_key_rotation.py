"""`waterflowd keys`: a real daemon and real agents before, during and after rotations of the server's key."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S, wait_until
from waterflowd.dispatch import keys
from waterflowd.dispatch.keys import ServerKeys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def keys_of(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    """The list of keys that a command prints."""
    done = cluster.waterflowd("keys", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rotate(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    """Rotates the key while the daemon is stopped for a moment."""
    assert cluster.stop_daemon() == 0
    found = keys_of(cluster, "rotate", *arguments)
    cluster.start_daemon()
    return found


def server_of(cluster: Cluster, name: str) -> dict[str, Any]:
    """What an agent has stored about its server."""
    found: dict[str, Any] = json.loads((cluster.agent_dir(name) / "server.json").read_bytes())
    return found


def old_keys_expire(cluster: Cluster) -> None:
    """Sets the end of the old keys to a moment ago; the daemon must be stopped."""
    folder = cluster.folder / "daemon"
    current, *old = keys.read_server_keys(folder).pairs
    past = time.time_ns() // 1_000_000 - 1_000
    ended = [msgspec.structs.replace(pair, accepted_until=past) for pair in old]
    keys.replace_server_keys(folder, ServerKeys((current, *ended)))


def on_old_key(cluster: Cluster) -> int:
    """The metric."""
    lines = cluster.api("GET", "/metrics").text.splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("waterflow_agents_on_old_key "))


def test_agents_follow_a_rotation_without_being_touched(cluster: Cluster, tmp_path: Path) -> None:
    """A running step continues, a connected agent and one that was away follow, and an older join token still enrolls."""
    gate, token = tmp_path / "gate", cluster.token("web")
    run = cluster.start(
        "jobs:\n  a:\n    runs-on: web\n    steps:\n"
        f"      - run: while [ ! -e {gate} ]; do sleep 0.05; done\n      - run: echo done\n"
    )
    busy = wait_until(
        lambda: next((e["agent"] for e in cluster.events(run) if e["type"] == "attempt-dispatched"), None), "a dispatch"
    )
    names = {row["fingerprint"]: row["name"] for row in cluster.api("GET", "/v1/agents").json()["agents"]}
    working = names[busy]
    away = "web-2" if working == "web-1" else "web-1"
    before = keys_of(cluster)
    assert (len(before["keys"]), before["agents"], before["agents_on_old_key"]) == (1, 2, [])
    cluster.stop_agent(away)

    rotated = rotate(cluster, "--accept-old-for", "20d")

    fresh = rotated["keys"][0]["fingerprint"]
    assert [key["fingerprint"] for key in rotated["keys"]] == [fresh, before["keys"][0]["fingerprint"]]
    assert rotated["keys"][1]["accepted_until"] - rotated["keys"][0]["created_at"] == 20 * 24 * 3_600_000
    assert rotated["agents_on_old_key"] == ["web-1", "web-2"]
    wait_until(lambda: working in cluster.connected(), "the agent to follow")
    gate.touch()
    assert cluster.wait_for(run)["conclusion"] == "success"
    # The list is read beside the running daemon.
    wait_until(lambda: keys_of(cluster)["agents_on_old_key"] == [away], "one agent to have followed")
    assert on_old_key(cluster) == 1
    public = cluster.api("GET", "/v1/agents").json()["server"]["key"]
    assert server_of(cluster, working)["server_key"] == public
    assert away in cluster.waterflowd("keys").stdout

    cluster.start_agent(away)

    assert server_of(cluster, away)["server_key"] == public
    # On Temporal it is recorded by another process, after the session has begun.
    wait_until(lambda: on_old_key(cluster) == 0, "the other agent to have followed")
    # The agent updates the file of its status once a second.
    wait_until(
        lambda: json.loads(cluster.agent_status(away, "--json"))["server_fingerprint"] == fresh,
        "the new key in its status",
    )
    (tmp_path / "old.token").write_text(token)
    (tmp_path / "web-3.toml").write_text(
        f'name = "web-3"\njoin-token-file = "{tmp_path / "old.token"}"\ndata-dir = "{cluster.agent_dir("web-3")}"\n'
    )
    cluster.start_agent("web-3")
    assert server_of(cluster, "web-3")["server_key"] == public
    trail = cluster.api("GET", "/v1/audit").json()["audit"]
    (entry,) = [event for event in trail if event["what"] == "rotate-server-key"]
    assert entry["target"] == fresh
    assert entry["by"].startswith("uid:")


def test_an_agent_that_comes_back_too_late_is_refused_until_it_is_enrolled_again(cluster: Cluster) -> None:
    """Its key is right, but it would talk to anybody who has the old key of the server; `status` says so before and after."""
    cluster.stop_agent("web-2")
    rotate(cluster, "--accept-old-for", "6d")
    wait_until(lambda: "web-1" in cluster.connected(), "the other agent")
    warning = cluster.ctl("status")
    assert warning.returncode == 1
    assert "the old key is accepted until" in warning.stdout

    cluster.stop_daemon()
    old_keys_expire(cluster)
    cluster.start_daemon()
    wait_until(lambda: "web-1" in cluster.connected(), "the other agent")
    assert "no longer accepted: enroll it again" in cluster.ctl("status").stdout
    process = cluster.spawn("waterflow_agent", "run", "--config", str(cluster.folder / "web-2.toml"), log=cluster.log)
    try:
        text = "its key was rotated and the old one has expired"
        wait_until(lambda: text in cluster.agent_status("web-2"), "the refusal")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    assert "web-2" not in cluster.connected()

    (cluster.agent_dir("web-2") / "server.json").unlink()
    (cluster.folder / "web-2.token").write_text(cluster.token("web"))
    cluster.start_agent("web-2")

    wait_until(lambda: keys_of(cluster)["agents_on_old_key"] == [], "the agent to have followed")


def test_old_keys_can_be_retired_when_all_agents_have_followed(cluster: Cluster) -> None:
    """And before that only by force, because those that have not followed must be enrolled again."""
    cluster.stop_agent("web-2")
    rotate(cluster)
    wait_until(lambda: keys_of(cluster)["agents_on_old_key"] == ["web-2"], "one agent to have followed")
    cluster.stop_daemon()

    refused = cluster.waterflowd("keys", "retire")

    assert refused.returncode == 1
    assert "web-2" in refused.stderr
    assert "WF234" in refused.stderr
    assert len(keys_of(cluster)["keys"]) == 2
    cluster.start_daemon()
    cluster.start_agent("web-2")
    wait_until(lambda: cluster.connected() == {"web-1", "web-2"}, "both agents")
    # An agent writes the file after the daemon has listed it as connected.
    wait_until(lambda: len(server_of(cluster, "web-1")["old_server_keys"]) == 1, "the old key to be stored")
    wait_until(lambda: keys_of(cluster)["agents_on_old_key"] == [], "both agents to have followed")
    cluster.stop_daemon()
    assert len(keys_of(cluster, "retire")["keys"]) == 1
    cluster.start_daemon()
    wait_until(lambda: cluster.connected() == {"web-1", "web-2"}, "both agents")
    wait_until(lambda: server_of(cluster, "web-1")["old_server_keys"] == [], "the old key to be dropped")


def test_a_rotation_needs_a_stopped_daemon_and_says_so(cluster: Cluster) -> None:
    """Nothing changes, and the text contains the commands."""
    before = keys.read_server_keys(cluster.folder / "daemon")
    refused = cluster.waterflowd("keys", "rotate")

    assert refused.returncode == 1
    assert "systemctl stop waterflowd" in refused.stderr
    assert "WF310" in refused.stderr
    assert keys.read_server_keys(cluster.folder / "daemon") == before
    misplaced = cluster.waterflowd("keys", "--data-dir", str(cluster.folder / "daemon"), "rotate")
    assert misplaced.returncode == 2
    assert "put the options after `rotate`" in misplaced.stderr
    for wrong in ("400d", "soon"):
        assert cluster.waterflowd("keys", "rotate", "--accept-old-for", wrong).returncode != 0


def test_backups_contain_the_list_of_keys(cluster: Cluster) -> None:
    """A backup made after the rotation restores both keys, so that an agent that was away follows the restored daemon."""
    cluster.stop_agent("web-2")
    rotate(cluster)
    wait_until(lambda: "web-1" in cluster.connected(), "one agent")
    made = cluster.folder / "backup"
    assert cluster.waterflowd("backup", str(made)).returncode == 0
    assert cluster.waterflowd("fsck", "--data-dir", str(made)).returncode == 0
    before = keys.read_server_keys(cluster.folder / "daemon")
    cluster.stop_daemon()
    (cluster.folder / "daemon").rename(cluster.folder / "lost")
    assert cluster.waterflowd("restore", str(made)).returncode == 0
    assert keys.read_server_keys(cluster.folder / "daemon") == before
    cluster.start_daemon()

    cluster.start_agent("web-2")

    wait_until(lambda: cluster.connected() == {"web-1", "web-2"}, "both agents")
