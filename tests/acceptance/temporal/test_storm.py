"""The storm: two daemons, three agents and Temporal's server are killed at random, again and again, while runs continue.

The seed is printed. `WATERFLOW_STORM_S` sets how long it lasts; `WATERFLOW_SEED` repeats one (see `tests/chance.py`).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.acceptance.temporal.conftest import AGENTS, Pair
from tests.chance import IS_FULL, SEED
from tests.patience import PATIENCE_S

STORM_S = float(os.environ.get("WATERFLOW_STORM_S", "600"))
STEPS = 5
#: Runs that are open at the same time.
OPEN_MAX = 4
VICTIMS = ("daemon", "agent", "server", "daemon and agent", "daemon and server", "all agents", "all daemons")

#: One job fails, and every second run waits for a concurrency group.
WORKFLOW = """\
concurrency: {group}
jobs:
  plain:
    runs-on: both
    steps:
{plain}
  fails:
    runs-on: both
    steps:
{fails}
      - run: exit 1
      - run: echo never >> {marker}-never
  after:
    needs: [plain]
    runs-on: both
    steps:
{after}
"""


def _steps(marker: Path, job: str) -> str:
    return "\n".join(
        f"      - run: |\n          echo {number} >> {marker}-{job}\n          sleep 0.{number}"
        for number in range(STEPS)
    )


def _workflow(marker: Path, number: int) -> str:
    jobs = {job: _steps(marker, job) for job in ("plain", "fails", "after")}
    group = "locked" if number % 2 else f"own-{number}"
    return WORKFLOW.format(group=group, marker=marker, **jobs)


def _strike(daemons: Pair, dice: random.Random) -> None:
    """Kills some processes, and starts them again after a while."""
    victim = dice.choice(VICTIMS)
    print(f"{time.strftime('%T')} {victim}", flush=True)
    one, server = daemons[0], daemons[0].server
    agents = list(AGENTS) if victim == "all agents" else [dice.choice(AGENTS)] if "agent" in victim else []
    killed = list(daemons) if victim == "all daemons" else [dice.choice(daemons)] if "daemon" in victim else []
    for agent in agents:
        one.kill_agent(agent)
    for daemon in killed:
        daemon.kill_daemon()
    if "server" in victim:
        server.kill()
    # Meanwhile steps end, and their reports find no server; agents connect to the other daemon.
    time.sleep(dice.uniform(0, 5))
    if "server" in victim:
        server.start()
    for daemon in killed:
        daemon.start_daemon()
    for agent in agents:
        one.launch_agent(agent)


@pytest.mark.skipif(not IS_FULL and "WATERFLOW_STORM_S" not in os.environ, reason="part of `make nightly`")
@pytest.mark.slow
@pytest.mark.timeout(STORM_S + 40 * PATIENCE_S)
def test_every_run_ends_as_it_should_in_a_storm(daemon_pair: Pair, tmp_path: Path) -> None:
    """Each step's marker has exactly one line, no step runs after a failed one, and every event history replays."""
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    until = time.monotonic() + STORM_S
    runs: dict[str, Path] = {}
    open_: list[str] = []
    while time.monotonic() < until:
        while len(open_) < OPEN_MAX:
            marker = tmp_path / f"marker-{len(runs)}"
            run = dice.choice(daemon_pair).start(_workflow(marker, len(runs)))
            runs[run] = marker
            open_.append(run)
        time.sleep(dice.uniform(0, 6))
        _strike(daemon_pair, dice)
        shown = dice.choice(daemon_pair)
        open_ = [run for run in open_ if shown.run(run)["status"] != "completed"]
    cluster = daemon_pair[0]
    for run, marker in runs.items():
        found = cluster.wait_for(run, 10 * PATIENCE_S)
        assert found["conclusion"] == "failure", (found["reason"], cluster.events(run))
        for job in ("plain", "fails", "after"):
            # More lines would be a step that ran twice, fewer one that did not run.
            lines = Path(f"{marker}-{job}").read_text().split()
            assert lines == [str(number) for number in range(STEPS)], (run, job, cluster.events(run))
        assert not Path(f"{marker}-never").exists()
    print(f"{len(runs)} runs")
    cluster.replay(runs)
