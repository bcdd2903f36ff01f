"""Broken and hostile input on the real ports: a clear error or a waiting reason, and everything else continues."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import zmq

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S, wait_until

GOOD = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - uses: log\n        with: {message: fine}\n"
YAML = {"content-type": "application/yaml"}


def _bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(lines).encode()


BROKEN: dict[str, tuple[bytes, int, str]] = {
    "100,000 levels deep": (b"a: " + b"[" * 100_000 + b"]" * 100_000, 422, "levels"),
    "an alias bomb": (_bomb(), 422, "alias"),
    "not UTF-8": (b"name: \xff\xfe\x00caf\xe9\n", 422, "UTF-8"),
    "newlines lost on the way": (GOOD.replace("\n", " ").encode(), 422, "newlines"),
    "a Python object": (b"a: !!python/object/apply:os.system ['touch /tmp/x']\n", 422, "tag"),
    "a number of 200,000 digits": (b"jobs: " + b"9" * 200_000, 422, ""),
    "an unknown node": (GOOD.replace("uses: log", "uses: lgo").encode(), 422, 'did you mean "log"?'),
    "nothing at all": (b"", 400, "the body is empty"),
    "larger than a request may be": (b"a: b\n" * 1_000_000, 413, ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gets_a_clear_error_and_the_next_one_runs(shared_cluster: Cluster, name: str) -> None:
    """The answer is a problem with a code and a message, and the daemon keeps working."""
    content, status, text = BROKEN[name]

    answer = shared_cluster.api("POST", "/v1/workflows", content=content, headers=YAML)

    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"].startswith("WF")
    assert text in answer.text.replace('\\"', '"')
    assert shared_cluster.wait_for(shared_cluster.start(GOOD))["conclusion"] == "success"


def test_hostile_files_in_a_push_are_reported_and_the_valid_one_runs(empty_cluster: Cluster) -> None:
    """A symbolic link, a bomb, a deep file, a huge one and names with newlines are reported and do no harm."""
    cluster = empty_cluster
    clone = cluster.make_repository()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    folder = clone / "workflows"
    folder.mkdir()
    (folder / "link.yml").symlink_to("/etc/passwd")
    (folder / "bomb.yml").write_bytes(_bomb())
    (folder / "deep.yml").write_bytes(b"[" * 100_000)
    (folder / "huge.yml").write_bytes(b"# x\n" * 1_000_000)
    (folder / "new\nline.yml").write_text(GOOD)
    (folder / "dir.yml").mkdir()
    (folder / "dir.yml" / "x").write_text("x")

    cluster.push(clone, {"workflows/good.yml": GOOD})

    runs = wait_until(lambda: cluster.api("GET", "/v1/runs").json()["runs"], "the good file to run")
    assert cluster.wait_for(runs[0]["id"])["conclusion"] == "success"
    rows = cluster.api("GET", "/v1/definitions").json()["definitions"]
    broken = {row["path"] for row in rows if row["errors"]}
    assert {"workflows/bomb.yml", "workflows/deep.yml", "workflows/huge.yml", "workflows/link.yml"} <= broken
    assert "root:" not in cluster.api("GET", "/v1/definitions").text
    assert cluster.ctl("status").returncode == 1, "a repository with broken files is degraded"


def _garbage() -> list[bytes]:
    return [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(4096),
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + b"\0" * 48,
        b"\x00" * 10_000,
        b"SSH-2.0-x\r\n",
    ]


def test_garbage_on_every_port_does_not_affect_the_fleet(shared_cluster: Cluster) -> None:
    """Agent ports, API over TCP, API socket: the fleet keeps working, whatever bytes they receive."""
    for port in (shared_cluster.work_port, shared_cluster.enroll_port, shared_cluster.api_port):
        for content in _garbage():
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as peer:
                peer.sendall(content)
    for content in _garbage():
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(shared_cluster.socket))
            peer.sendall(content)
    context = zmq.Context()
    try:
        for mechanism in ("null", "plain"):
            dealer = context.socket(zmq.DEALER)
            dealer.linger = 0
            if mechanism == "plain":
                dealer.plain_username, dealer.plain_password = b"web-1", b"secret"
            dealer.connect(f"tcp://127.0.0.1:{shared_cluster.work_port}")
            dealer.send(b"hello")
            assert not dealer.poll(300), "no answer without CURVE"
            dealer.close()
    finally:
        context.destroy(linger=0)

    assert shared_cluster.wait_for(shared_cluster.start(GOOD))["conclusion"] == "success"
    wait_until(lambda: shared_cluster.connected() == {"web-1", "web-2"}, "exactly both agents to be connected")


def test_an_agent_with_a_foreign_key_gets_nothing(shared_cluster: Cluster, tmp_path: Path) -> None:
    """With a made-up token, enrollment is refused with a message, and the agent exits and is not listed."""
    from waterflow_agent import join_token

    real = join_token.decode(shared_cluster.token("web"))
    forged = join_token.JoinToken(
        enroll_endpoint=real.enroll_endpoint,
        work_endpoint=real.work_endpoint,
        server_key=real.server_key,
        token_id=real.token_id,
        secret="x" * 43,
    )
    token = tmp_path / "forged.token"
    token.write_text(forged.encode())
    (tmp_path / "evil.toml").write_text(
        f'name = "evil"\njoin-token-file = "{token}"\ndata-dir = "{tmp_path / "agent-evil"}"\n'
    )

    process = shared_cluster.spawn(
        "waterflow_agent", "run", "--config", str(tmp_path / "evil.toml"), log=tmp_path / "evil.log"
    )

    assert process.wait(PATIENCE_S) == 5
    assert "refused" in (tmp_path / "evil.log").read_text()
    wait_until(lambda: shared_cluster.connected() == {"web-1", "web-2"}, "exactly both agents to be connected")
