"""Streams across broken connections and `kill -9` of the daemon: each item arrives once and in order."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S, wait_until

KILLS = 3
LINES = 1_500
#: Two jobs print in parallel; after each part a job waits for a file of the test, so that each kill hits it at work.
WORKFLOW = """
name: printing
jobs:
  {jobs}
"""
JOB = """
  {name}:
    runs-on: web
    steps:
      - run: |
          n=0
          for part in $(seq 0 {kills}); do
            until [ -e {gates}/$part ]; do sleep 0.05; done
            for i in $(seq {lines}); do n=$((n+1)); echo "{name} $n"; done
          done
      - uses: log
        with: {{message: "{name} done"}}
"""


class StreamReader(threading.Thread):
    """Follows a stream until it ends and resumes after the last item; sometimes disconnects on purpose."""

    def __init__(self, address: str, path: str, *, cut_every: int, last: str | None = None) -> None:
        super().__init__(daemon=True, name=f"reader of {path}")
        self.items: list[tuple[str, Any]] = []
        self.breaks = 0
        self.has_ended = False
        self._give_up = threading.Event()
        self._address = address
        self._path = path
        self._cut_every = cut_every
        self._last = last

    def run(self) -> None:
        """Follows the stream until it ends, or until `stop` is called."""
        while not self._give_up.is_set() and not self.has_ended:
            try:
                with httpx.Client(base_url=self._address, timeout=PATIENCE_S) as client:
                    self._follow(client)
            except httpx.HTTPError:
                # The daemon is down and will be restarted.
                self._give_up.wait(0.05)
            self.breaks += 1

    def _follow(self, client: httpx.Client) -> None:
        headers = {"Last-Event-ID": self._last} if self._last is not None else {}
        seen = 0
        with client.stream("GET", self._path, headers=headers) as response:
            if response.status_code == 503:
                return
            assert response.status_code == 200, response.read()
            identity = ""
            for line in response.iter_lines():
                if line == "event: end":
                    self.has_ended = True
                    return
                if line.startswith("id: "):
                    identity = line[4:]
                elif line.startswith("data: ") and identity:
                    self.items.append((identity, json.loads(line[6:])))
                    self._last, identity = identity, ""
                    seen += 1
                    if seen == self._cut_every or self._give_up.is_set():
                        return

    def wait_for(self, count: int) -> None:
        """Returns when this number of items has arrived."""
        wait_until(lambda: len(self.items) >= count, f"{count} items of {self._path}")

    def stop(self) -> None:
        """Stops following the stream."""
        self._give_up.set()


def _open(gates: Path, part: int) -> None:
    (gates / str(part)).touch()


@pytest.mark.log_engine("on Temporal, the events of all runs are not in one stream")
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_item_arrives_once_and_in_order_despite_daemon_kills(cluster: Cluster) -> None:
    """This holds for output, a run's events and the whole feed, each read by a client that resumes with the last id."""
    gates = cluster.folder / "gates"
    gates.mkdir()
    jobs = "".join(JOB.format(name=name, gates=gates, kills=KILLS, lines=LINES) for name in ("a", "b"))
    run = cluster.start(WORKFLOW.format(jobs=jobs.strip()))
    address = f"http://127.0.0.1:{cluster.api_port}"
    logs = StreamReader(address, f"/v1/runs/{run}/logs?follow=true", cut_every=701)
    events = StreamReader(address, f"/v1/runs/{run}/events?follow=true", cut_every=2)
    feed = StreamReader(address, "/v1/events", cut_every=3, last="0")
    readers = [logs, events, feed]
    try:
        for reader in readers:
            reader.start()
        for part in range(KILLS):
            _open(gates, part)
            # Kill it during a part, while more output is being printed, sent and stored.
            logs.wait_for(2 * LINES * part + LINES // 2)
            cluster.kill_daemon()
            cluster.start_daemon()
        _open(gates, KILLS)
        assert cluster.wait_for(run)["conclusion"] == "success"
        wait_until(lambda: logs.has_ended and events.has_ended, "the streams of the run to end")
        rest = _feed_until(cluster, run)
        feed.wait_for(len(rest))
    finally:
        for reader in readers:
            reader.stop()
        _open(gates, KILLS)

    _check_output(logs.items)
    positions = [identity for identity, _ in events.items]
    assert positions == [str(number) for number in range(1, len(positions) + 1)]
    assert events.items[-1][1]["type"] == "run-completed"
    assert [row for _, row in events.items] == cluster.api("GET", f"/v1/runs/{run}/events").json()["events"]
    assert [row for _, row in feed.items][: len(rest)] == rest
    assert min(logs.breaks, events.breaks, feed.breaks) >= KILLS


def _check_output(items: list[tuple[str, Any]]) -> None:
    """Checks that all lines of each job arrived once and in order."""
    for name in ("a", "b"):
        lines = [row["text"] for _, row in items if row["job"] == name]
        assert lines == [*(f"{name} {n}" for n in range(1, LINES * (KILLS + 1) + 1)), f"{name} done"]
    identities = [identity for identity, _ in items]
    assert len(identities) == len(set(identities))


def _feed_until(cluster: Cluster, run: str) -> list[Any]:
    """Reads the whole feed up to the run's completion over one connection."""
    found: list[Any] = []
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{cluster.api_port}", timeout=PATIENCE_S) as client,
        client.stream("GET", "/v1/events?cursor=0") as response,
    ):
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                if found[-1]["stream"] == f"run/{run}" and found[-1]["type"] == "run-completed":
                    return found
    raise AssertionError("the feed ended")
