"""Repositories of two daemons: one leads, any may be asked, and nothing starts twice when the leader is killed."""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.temporal_cluster import TemporalCluster
from tests.integration.temporal.server import Server
from tests.patience import wait_until

pytestmark = pytest.mark.slow

SEED = 20_261_130
PUSHED = "on: {push: {}}\njobs: {a: {runs-on: web, steps: [{run: echo VERSION}]}}\n"
FILES = [f"workflows/w{number}.yml" for number in range(4)]
SECRET = "a secret of the webhook"


class Daemons:
    """Two daemons, `first` and `second`, that share a repository on this machine."""

    def __init__(self, folder: Path, server: Server) -> None:
        for name in ("first", "second"):
            (folder / name).mkdir()
        first = TemporalCluster(folder / "first", server)
        self.all = [first, TemporalCluster(folder / "second", server, first)]
        self.clone = first.make_repository()
        for cluster in self.all:
            cluster.daemon_environment["WATERFLOW_SECRET_HOOK"] = SECRET
            cluster.write_config(
                f'[[repositories]]\nname = "ops"\nurl = "{first.repository}"\nwebhook-keys = ["HOOK"]\n'
            )

    def start(self) -> None:
        for cluster in self.all:
            cluster.start_daemon()
            cluster.add_agent(f"web-{cluster.folder.name}", "web")

    def close(self) -> None:
        for cluster in self.all:
            cluster.close()

    def leader(self) -> TemporalCluster:
        """The daemon that leads the repository, once one does."""
        return wait_until(self._leader, "a leader of the repository")

    def other(self) -> TemporalCluster:
        """The other one."""
        leader = self.leader()
        return next(cluster for cluster in self.all if cluster is not leader)

    def _leader(self) -> TemporalCluster | None:
        """By the daemons' own logs: who has begun the newest term, and has not said that it ended."""
        terms: dict[int, TemporalCluster | None] = {}
        for cluster in self.all:
            term = 0
            for line in cluster.log.read_text().splitlines():
                if "leads repository ops from now on (term " in line:
                    term = int(line.rpartition("(term ")[2].partition(")")[0])
                    terms[term] = cluster
                elif "no longer leads repository ops" in line:
                    terms[term] = None
        return terms[max(terms)] if terms else None

    def runs(self, cluster: TemporalCluster) -> list[dict[str, Any]]:
        """All runs of the repository, as a daemon lists them."""
        answer = cluster.api("GET", "/v1/runs", params={"limit": 100})
        assert answer.status_code == 200, answer.text
        return [row for row in answer.json()["runs"] if row["repository"] == "ops"]

    def wait_for_runs(self, cluster: TemporalCluster, count: int, **fields: str) -> list[dict[str, Any]]:
        """The runs with these fields, once there are so many of them, and no more."""

        def found() -> list[dict[str, Any]]:
            return [row for row in self.runs(cluster) if all(row[name] == value for name, value in fields.items())]

        wait_until(lambda: len(found()) >= count, f"{count} runs with {fields}")
        rows = found()
        assert len(rows) == count, rows
        return rows


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """Two daemons that are running, with one agent each."""
    (tmp_path / "temporal").mkdir()
    server = Server(tmp_path / "temporal")
    try:
        made = Daemons(tmp_path, server)
        try:
            made.start()
            yield made
        finally:
            made.close()
    finally:
        server.close()


def test_a_push_starts_one_run_for_each_file_although_the_leader_is_killed(daemons: Daemons) -> None:
    """At a random moment after each push. The other daemon leads then, and the killed one follows when it is back."""
    dice = random.Random(SEED)
    commits = []
    for version in range(4):
        leader, other = daemons.leader(), daemons.other()
        files = {path: PUSHED.replace("VERSION", str(version)) for path in FILES}
        commits.append(daemons.all[0].push(daemons.clone, files))
        if version:
            time.sleep(dice.uniform(0.0, 1.5))  # the moment of the kill is what is tested
            leader.kill_daemon()
        daemons.wait_for_runs(other, len(FILES), revision=commits[-1])
        if version:
            leader.start_daemon()
    counts = Counter((row["path"], row["revision"]) for row in daemons.runs(daemons.all[0]))
    assert counts == {(path, commit): 1 for path in FILES for commit in commits}
    for path in FILES:
        numbers = [row["number"] for row in daemons.runs(daemons.all[1]) if row["path"] == path]
        assert sorted(numbers) == list(range(1, len(commits) + 1))


def deliver(cluster: TemporalCluster, body: bytes, delivery: str) -> tuple[int, str]:
    """Sends a webhook to a daemon; returns the status and the run's id."""
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": "application/json",
        "x-hub-signature-256": f"sha256={digest}",
        "x-github-delivery": delivery,
    }
    answer = cluster.api("POST", "/v1/hooks/deploy", content=body, headers=headers)
    return answer.status_code, str(answer.json().get("id"))


def test_any_daemon_may_be_asked(daemons: Daemons) -> None:
    """Webhooks, chains, sync, suspend and resume start what they should, once, at the leader and at the other daemon."""
    leader, other = daemons.leader(), daemons.other()
    job = "jobs: {a: {runs-on: web, steps: [{run: echo ok}]}}\n"
    files = {
        "workflows/hook.yml": f"name: hook\non: {{webhook: {{name: deploy, secret: HOOK}}}}\n{job}",
        "workflows/after.yml": f"name: after\non: {{workflow_run: {{workflows: [hook]}}}}\n{job}",
    }
    commit = daemons.all[0].push(daemons.clone, files)
    for cluster in (other, leader):
        synced = cluster.api("POST", "/v1/repositories/ops/sync", params={"wait": "true"})
        assert synced.status_code == 202, synced.text
        assert synced.json()["revision_applied"] == commit

    status, first = deliver(other, b'{"x": 1}', "one")
    assert status == 202
    assert deliver(leader, b'{"x": 1}', "one") == (202, first)
    assert deliver(other, b'{"x": 1}', "one") == (202, first)
    assert other.wait_for(first)["conclusion"] == "success"
    [chained] = daemons.wait_for_runs(other, 1, name="after")
    assert chained["trigger"]["kind"] == "workflow_run"
    status, second = deliver(leader, b'{"x": 2}', "two")
    assert status == 202
    leader.wait_for(second)
    daemons.wait_for_runs(leader, 2, name="after")
    daemons.wait_for_runs(leader, 2, name="hook")

    assert other.api("POST", "/v1/repositories/ops/suspend").status_code == 200
    wait_until(lambda: deliver(leader, b"{}", "three")[0] == 409, "the leader to know of the suspension")
    daemons.all[0].push(daemons.clone, {FILES[0]: PUSHED})
    assert leader.api("POST", "/v1/repositories/ops/resume").status_code == 200
    daemons.wait_for_runs(other, 1, path=FILES[0])


def test_a_schedule_that_two_daemons_see_starts_once(daemons: Daemons) -> None:
    """Also when its leader is killed before it is due."""
    leader, other = daemons.leader(), daemons.other()
    daemons.all[0].push(
        daemons.clone,
        {
            "workflows/timed.yml": "on: {schedule: [{cron: '* * * * *'}]}\njobs: {a: {runs-on: web, steps: [{run: x}]}}\n"
        },
    )

    def is_armed() -> bool:
        return bool(other.api("GET", "/v1/schedules").json()["schedules"])

    wait_until(is_armed, "the other daemon to know the schedule")
    leader.kill_daemon()
    wait_until(lambda: len(daemons.runs(other)) >= 2, "two scheduled runs", 180)
    leader.start_daemon()
    due = [row["created_at"] for row in daemons.runs(other)]
    keys = Counter(other.api("GET", f"/v1/runs/{row['id']}").json()["trigger"]["key"] for row in daemons.runs(other))
    assert set(keys.values()) == {1}, (keys, due)
