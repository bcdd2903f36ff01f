"""Two daemons with one Temporal server, and agents that know both: each is killed in the middle of a run, which continues.

The second daemon begins with a copy of the first one's data directory: agents, tokens and the server's key.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.acceptance.temporal_cluster import TemporalCluster
from tests.patience import wait_until

AGENTS = ("both-1", "both-2", "both-3")
STEPS = 30


@pytest.fixture
def pair(temporal_cluster: TemporalCluster, tmp_path: Path) -> Iterator[tuple[TemporalCluster, TemporalCluster]]:
    """Both daemons, which are running, and three agents with both addresses that are connected to the first one."""
    one = temporal_cluster
    folder = tmp_path / "two"
    folder.mkdir()
    two = TemporalCluster(folder, one.server, one)
    try:
        addresses = ", ".join(f'"tcp://127.0.0.1:{each.work_port}"' for each in (one, two))
        for name in AGENTS:
            one.add_agent(name, "both", settings=f"server = [{addresses}]")
        one.stop_daemon()
        shutil.copytree(one.folder / "daemon", two.folder / "daemon")
        one.start_daemon()
        wait_until(lambda: one.connected() >= set(AGENTS), "the agents to be connected")
        two.start_daemon()
        yield one, two
    finally:
        two.close()


def _workflow(marker: Path) -> str:
    steps = ", ".join(
        f"{{run: 'echo {number} >> {marker}-${{{{ agent.name }}}}; sleep 0.3'}}" for number in range(STEPS)
    )
    return f"jobs: {{all: {{runs-on: {{group: both, target: each, offline: wait}}, steps: [{steps}]}}}}"


@pytest.mark.slow
def test_another_daemon_continues_what_a_killed_one_has_begun(
    pair: tuple[TemporalCluster, TemporalCluster], tmp_path: Path
) -> None:
    """There and back: the agents connect elsewhere, and no step runs twice."""
    one, two = pair
    marker = tmp_path / "marker"
    files = [Path(f"{marker}-{name}") for name in AGENTS]
    run = one.start(_workflow(marker))
    wait_until(lambda: all(file.exists() for file in files), "the first steps")
    _kill(one, two, run, files)
    one.start_daemon()
    _kill(two, one, run, files)

    found = one.wait_for(run)
    assert found["conclusion"] == "success", (found["reason"], one.events(run))
    for file in files:
        assert file.read_text().split() == [str(number) for number in range(STEPS)]


def _kill(daemon: TemporalCluster, other: TemporalCluster, run: str, files: Sequence[Path]) -> None:
    """Kills a daemon. Returns when each server has done another step after the one that it may have been at."""
    before = [_steps(file) for file in files]
    daemon.kill_daemon()
    killed_at = time.monotonic()
    wait_until(lambda: other.connected() >= set(AGENTS), "the agents to be connected to the other daemon")
    connected_s = time.monotonic() - killed_at
    wait_until(
        lambda: all(_steps(file) >= min(count + 2, STEPS) for file, count in zip(files, before, strict=True)),
        "further steps on each server",
    )
    print(f"agents connected after {connected_s:.1f} s, all at work after {time.monotonic() - killed_at:.1f} s")


def _steps(file: Path) -> int:
    return len(file.read_text().splitlines())
