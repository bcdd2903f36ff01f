"""Two daemons share agents and tokens: what one records, the other one knows at once, and after `kill -9` without a gap."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.temporal_cluster import TemporalCluster
from tests.chance import IS_FULL, SEED
from tests.integration.temporal.server import Server
from tests.patience import wait_until

#: Kills in the middle of a change.
ROUNDS = 12 if IS_FULL else 4
#: Long enough for both daemons; nothing waits for its end.
SLEEP = "jobs: {a: {runs-on: web, steps: [{run: sleep 600}]}}"


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[tuple[TemporalCluster, TemporalCluster]]:
    """Two daemons with one server key, each with its own data directory."""
    for name in ("temporal", "d1", "d2"):
        (tmp_path / name).mkdir()
    server = Server(tmp_path / "temporal")
    first = TemporalCluster(tmp_path / "d1", server)
    second = TemporalCluster(tmp_path / "d2", server, first)
    try:
        first.start_daemon()
        second.start_daemon()
        second.stop_daemon()
        key = Path("daemon", "keys", "server.key")
        shutil.copyfile(first.folder / key, second.folder / key)
        second.start_daemon()
        yield first, second
    finally:
        first.close()
        second.close()
        server.close()


def add_pending_agent(first: TemporalCluster, second: TemporalCluster, name: str) -> None:
    """Starts an agent without a join token, which knows both daemons; it waits for approval."""
    server = first.api("GET", "/v1/agents").json()["server"]
    work = ",".join(f"tcp://127.0.0.1:{cluster.work_port}" for cluster in (first, second))
    enroll = ",".join(f"tcp://127.0.0.1:{cluster.enroll_port}" for cluster in (first, second))
    (first.folder / f"{name}.toml").write_text(
        f'name = "{name}"\nserver = "{work}"\nenroll-server = "{enroll}"\nserver-key = "{server["key"]}"\n'
        f'data-dir = "{first.agent_dir(name)}"\n'
    )
    first.launch_agent(name)


def pending(cluster: TemporalCluster) -> list[str]:
    """The fingerprints of the agents that wait, as this daemon lists them."""
    return [row["fingerprint"] for row in cluster.api("GET", "/v1/agents").json()["pending"]]


def approve(cluster: TemporalCluster, fingerprint: str) -> None:
    """Approves an agent through this daemon."""
    answer = cluster.api("POST", f"/v1/agents/{fingerprint}/approve", json={"groups": ["web"]})
    assert answer.status_code == 200, answer.text


def by(cluster: TemporalCluster, secret: str) -> str:
    """Who this daemon takes the sender of a token for; it is open for those whose token it does not accept."""
    answer = cluster.api("GET", "/v1/session", headers={"authorization": f"Bearer {secret}"})
    return str(answer.json()["by"]) if answer.status_code == 200 else ""


@pytest.mark.slow
def test_an_agent_of_two_daemons(daemons: tuple[TemporalCluster, TemporalCluster]) -> None:
    """It asks one daemon, another one approves; it connects to either, also while one is dead; a revocation reaches both."""
    first, second = daemons
    add_pending_agent(first, second, "web-1")
    for cluster in daemons:
        wait_until(lambda cluster=cluster: pending(cluster), "the agent to wait at both daemons")  # type: ignore[misc]
    [fingerprint] = pending(second)
    assert pending(first) == [fingerprint]

    # It may be asking this daemon at the moment; the other one takes over everything.
    first.kill_daemon()
    approve(second, fingerprint)
    wait_until(lambda: "web-1" in second.connected(), "the agent to connect to the daemon that is left")
    assert pending(second) == []
    assert (
        second.wait_for(second.start("jobs: {a: {runs-on: web, steps: [{run: echo hello}]}}"))["conclusion"]
        == "success"
    )

    first.start_daemon()
    rows = first.api("GET", "/v1/agents").json()["agents"]
    assert [(row["name"], row["groups"], row["status"] == "connected") for row in rows] == [("web-1", ["web"], False)]

    second.kill_daemon()
    wait_until(lambda: "web-1" in first.connected(), "the agent to connect to the first daemon")
    second.start_daemon()
    run = first.start(SLEEP)
    wait_until(lambda: "running" in str(first.run(run)["jobs"]), "the step to run")
    answer = second.api("DELETE", f"/v1/agents/{fingerprint}")
    assert answer.status_code == 200, answer.text
    wait_until(lambda: not first.connected(), "the session at the other daemon to end")
    for cluster in daemons:
        assert cluster.api("GET", "/v1/agents").json()["agents"] == []
    assert first.wait_for(run)["conclusion"] == "lost"


@pytest.mark.slow
def test_tokens_of_two_daemons(daemons: tuple[TemporalCluster, TemporalCluster]) -> None:
    """A token made by one works at the other; a revocation ends what is open at both, and is known after a restart."""
    first, second = daemons
    made = first.api("POST", "/v1/tokens", json={"role": "viewer", "name": "ada"}).json()
    kept = second.api("POST", "/v1/tokens", json={"role": "viewer", "name": "bob"}).json()
    for cluster in daemons:
        assert (by(cluster, made["secret"]), by(cluster, kept["secret"])) == ("ada", "bob")
    taken = second.api("POST", "/v1/tokens", json={"role": "admin", "name": "ada"})
    assert (taken.status_code, taken.json()["code"]) == (409, "WF606")

    run = first.start(SLEEP)
    streams = [_Stream(cluster, run, made["secret"]) for cluster in daemons]
    for stream in streams:
        stream.has_begun.wait()
    assert second.api("POST", f"/v1/tokens/{made['id']}/revoke").status_code == 200
    for stream in streams:
        stream.join(60)
        assert not stream.is_alive(), "the open stream of a revoked token must end"
    assert "ada" not in (by(first, made["secret"]), by(second, made["secret"]))

    # One of them is away while the other token is revoked, and a third one is made.
    second.kill_daemon()
    assert first.api("POST", f"/v1/tokens/{kept['id']}/revoke").status_code == 200
    last = first.api("POST", "/v1/tokens", json={"role": "viewer", "name": "eve"}).json()
    second.start_daemon()
    assert by(second, kept["secret"]) != "bob"
    assert by(second, last["secret"]) == "eve"
    whats = [entry["what"] for entry in first.api("GET", "/v1/audit").json()["audit"]]
    assert whats.count("create-token") == 2
    assert whats.count("revoke-token") == 1

    # Both at once, for one name: one of them gets it.
    answers: list[httpx.Response] = []

    def create(cluster: TemporalCluster) -> None:
        answers.append(cluster.api("POST", "/v1/tokens", json={"role": "viewer", "name": "max"}))

    threads = [threading.Thread(target=create, args=(cluster,)) for cluster in daemons]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [201, 409]


@pytest.mark.slow
def test_a_daemon_that_cannot_follow(daemons: tuple[TemporalCluster, TemporalCluster]) -> None:
    """It may not know of a revocation: it says so, and refuses tokens and new sessions, until the cluster is back."""
    first, second = daemons
    for name in ("web-1", "web-2"):
        first.add_agent(name, "web")
    made = first.api("POST", "/v1/tokens", json={"role": "viewer", "name": "ada"}).json()
    first.server.kill()

    def answer(path: str, cluster: TemporalCluster = second) -> httpx.Response:
        return httpx.get(
            f"http://127.0.0.1:{cluster.api_port}{path}",
            headers={"authorization": f"Bearer {made['secret']}"},
            timeout=30,
        )

    def refused() -> Any:
        found = answer("/v1/session")
        return found.json() if found.status_code == 503 else None

    problem = wait_until(refused, "the token to be refused")
    assert problem["code"] == "WF814"
    assert "a revocation might be unknown here" in problem["detail"]
    assert answer("/health").status_code == 200
    # Open sessions continue.
    wait_until(lambda: answer("/v1/session", first).status_code == 503, "the other daemon to refuse it, too")
    first.kill_agent("web-1")
    first.launch_agent("web-1")
    wait_until(lambda: "[WF814]" in first.agent_log("web-1").read_text(), "the session to be refused")
    assert first.connected() == {"web-2"}
    first.server.start()
    wait_until(lambda: answer("/v1/session").status_code == 200, "the token to be accepted again")
    wait_until(lambda: first.connected() == {"web-1", "web-2"}, "the session to be opened")
    assert first.wait_for(first.start("jobs: {a: {runs-on: web, steps: [{run: x=1}]}}"))["conclusion"] == "success"


@pytest.mark.slow
def test_a_daemon_that_is_killed_inside_a_change(daemons: tuple[TemporalCluster, TemporalCluster]) -> None:
    """`kill -9` at any moment: the change is recorded for all daemons or for none, and a repetition is right in both cases."""
    first, second = daemons
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    began = time.monotonic()
    _create(first, {"role": "viewer", "name": "usual"})
    usual_s = time.monotonic() - began
    names = ["usual"]
    for number in range(ROUNDS):
        names.append(f"token-{number}")
        body = {"role": "viewer", "name": names[-1]}
        change = threading.Thread(target=_create, args=(first, body))
        change.start()
        time.sleep(dice.uniform(0, 1.5 * usual_s))
        first.kill_daemon()
        change.join()
        was_recorded = names[-1] in token_names(second)
        repeated = second.api("POST", "/v1/tokens", json=body).status_code
        print(f"round {number}: recorded {was_recorded}, repetition {repeated}")
        assert repeated == 409 if was_recorded else repeated in (201, 409)
        first.start_daemon()
        for cluster in daemons:
            assert sorted(token_names(cluster)) == sorted(names)


def token_names(cluster: TemporalCluster) -> list[str]:
    """The names of the tokens that this daemon knows."""
    return [row["name"] for row in cluster.api("GET", "/v1/tokens").json()["tokens"]]


def _create(cluster: TemporalCluster, body: dict[str, str]) -> None:
    """Creates a token through a daemon that is killed meanwhile."""
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"http://127.0.0.1:{cluster.api_port}/v1/tokens", json=body, timeout=60)


class _Stream(threading.Thread):
    """Follows a run's events with a token."""

    def __init__(self, cluster: TemporalCluster, run: str, secret: str) -> None:
        super().__init__(daemon=True)
        self.has_begun = threading.Event()
        self._url = f"http://127.0.0.1:{cluster.api_port}/v1/runs/{run}/events?follow=true"
        self._secret = secret
        self.start()

    def run(self) -> None:
        """Reads until the daemon ends the stream."""
        with httpx.stream(
            "GET", self._url, headers={"authorization": f"Bearer {self._secret}"}, timeout=None
        ) as answer:
            for _ in answer.iter_lines():
                self.has_begun.set()
