"""`kill -9` of the daemon, of agents and of Temporal's server at random moments: nothing is lost, and nothing runs twice.

The seed is printed; `WATERFLOW_ROUNDS` sets the number of rounds, `WATERFLOW_SEED` repeats one (see `tests/chance.py`).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.acceptance.temporal_cluster import TemporalCluster
from tests.chance import IS_FULL, SEED

ROUNDS = int(os.environ.get("WATERFLOW_ROUNDS", "4"))
STEPS = 4


def _workflow(marker: Path) -> str:
    jobs = []
    for job in ("one", "two"):
        steps = "\n".join(
            f"""      - run: |
          echo begin {number}
          echo {number} >> {marker}-{job}
          sleep 0.2
          echo end {number}"""
            for number in range(STEPS)
        )
        jobs.append(f"  {job}:\n    runs-on: web\n    steps:\n{steps}\n")
    return "jobs:\n" + "".join(jobs)


def _check(cluster: TemporalCluster, run: str, marker: Path) -> None:
    found = cluster.wait_for(run)
    assert found["conclusion"] == "success", (found["reason"], cluster.events(run))
    for job in ("one", "two"):
        # More lines would be a step that ran twice, fewer one that did not run.
        assert Path(f"{marker}-{job}").read_text().split() == [str(number) for number in range(STEPS)]
    expected = [f"{word} {number}" for number in range(STEPS) for word in ("begin", "end")]
    assert sorted(cluster.lines(run, count=2 * len(expected))) == sorted(expected * 2)


def _kill(cluster: TemporalCluster, victim: str, dice: random.Random) -> None:
    """Kills one or two processes, and starts them again."""
    agent = dice.choice(["web-1", "web-2"])
    if "agent" in victim:
        cluster.kill_agent(agent)
    if "daemon" in victim:
        cluster.kill_daemon()
    if "server" in victim:
        cluster.server.kill()
        # Meanwhile steps end, and their reports find no server.
        time.sleep(dice.uniform(0, 1.5))
        cluster.server.start()
    if "daemon" in victim:
        cluster.start_daemon()
    if "agent" in victim:
        cluster.start_agent(agent)


VICTIMS = ["daemon", "agent", "server", "daemon and agent", "daemon and server"]


@pytest.mark.skipif(not IS_FULL and "WATERFLOW_SEED" not in os.environ, reason="part of `make nightly`")
@pytest.mark.slow
@pytest.mark.timeout(900 + 60 * ROUNDS)
def test_killed_processes_lose_nothing_and_run_nothing_twice(temporal_cluster: TemporalCluster, tmp_path: Path) -> None:
    """Each step's marker has exactly one line, and every event history replays."""
    cluster, dice = temporal_cluster, random.Random(SEED)
    print(f"seed {SEED}")
    victims = dice.sample(VICTIMS, len(VICTIMS))
    runs = []
    for number in range(ROUNDS):
        marker = tmp_path / f"marker-{number}"
        runs.append(cluster.start(_workflow(marker)))
        time.sleep(dice.uniform(0, 1.5))
        victim = victims[number % len(victims)]
        print(f"round {number}: {victim}")
        _kill(cluster, victim, dice)
        _check(cluster, runs[-1], marker)
    cluster.replay(runs)
