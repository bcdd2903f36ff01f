"""`kill -9` of the daemon and of agents at random moments: nothing runs twice, every run ends, output is complete.

The seed is printed; `WATERFLOW_ROUNDS` sets the number of rounds, `WATERFLOW_SEED` repeats one (see `tests/chance.py`).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster
from tests.chance import SEED
from tests.patience import wait_until

ROUNDS = int(os.environ.get("WATERFLOW_ROUNDS", "3"))
STEPS = 10


def _workflow(marker: Path) -> str:
    steps = "\n".join(
        f"""      - run: |
          echo begin {number}
          echo {number} >> {marker}
          sleep 0.2
          echo end {number}"""
        for number in range(STEPS)
    )
    return (
        f"jobs:\n  one:\n    runs-on: web\n    steps:\n{steps}\n  two:\n    runs-on: web\n    steps:\n"
        + steps.replace(str(marker), f"{marker}-2")
    )


def _check(cluster: Cluster, run: str, marker: Path) -> None:
    found = cluster.wait_for(run)
    assert found["conclusion"] == "success", (found["reason"], cluster.api("GET", f"/v1/runs/{run}/events").text)
    for path in (marker, Path(f"{marker}-2")):
        assert path.read_text().split() == [str(number) for number in range(STEPS)]
    expected = [f"{word} {number}" for number in range(STEPS) for word in ("begin", "end")]
    lines = cluster.lines(run, count=2 * len(expected))
    assert sorted(lines) == sorted(expected * 2)


@pytest.mark.slow
@pytest.mark.timeout(900 + 60 * ROUNDS)
def test_a_killed_daemon_loses_nothing_and_runs_nothing_twice(cluster: Cluster, tmp_path: Path) -> None:
    """Each step's marker has exactly one line, whenever the daemon was killed; running steps continued."""
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    for number in range(ROUNDS):
        marker = tmp_path / f"marker-{number}"
        run = cluster.start(_workflow(marker))
        time.sleep(dice.uniform(0, 2.2))
        cluster.kill_daemon()
        cluster.start_daemon()
        _check(cluster, run, marker)


@pytest.mark.both_engines
@pytest.mark.slow
@pytest.mark.timeout(900 + 60 * ROUNDS)
def test_a_restarted_agent_takes_over_its_running_steps(cluster: Cluster, tmp_path: Path) -> None:
    """The step continues without its agent; its result and its output arrive once."""
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    for number in range(ROUNDS):
        marker = tmp_path / f"marker-{number}"
        run = cluster.start(_workflow(marker))
        time.sleep(dice.uniform(0, 2.2))
        victim = dice.choice(["web-1", "web-2"])
        cluster.kill_agent(victim)
        cluster.start_agent(victim)
        _check(cluster, run, marker)


@pytest.mark.slow
@pytest.mark.timeout(900 + 60 * ROUNDS)
def test_an_answered_start_is_never_lost(cluster: Cluster) -> None:
    """After a `kill -9` right after the 201, the run exists and completes."""
    workflow = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - uses: log\n        with: {message: hello}\n"
    runs = []
    for _ in range(2 * ROUNDS):
        runs.append(cluster.start(workflow))
        cluster.kill_daemon()
        cluster.start_daemon()
        assert cluster.run(runs[-1])["id"] == runs[-1]
    for run in runs:
        assert cluster.wait_for(run)["conclusion"] == "success"


def test_killing_daemon_and_agent_at_once_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """The step continues under the runner alone; daemon and agent settle when they are back."""
    marker = tmp_path / "marker"
    run = cluster.start(
        f"jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo one; sleep 1; echo two; echo x >> {marker}\n"
    )
    wait_until(lambda: cluster.lines(run), "the first line")
    name = cluster.run(run)["jobs"][0]["agent"]
    cluster.kill_daemon()
    cluster.kill_agent(name)
    wait_until(marker.exists, "the step to go on by itself")
    cluster.start_daemon()
    cluster.start_agent(name)
    assert cluster.wait_for(run)["conclusion"] == "success"
    assert cluster.lines(run, count=2) == ["one", "two"]
    assert marker.read_text() == "x\n"
