"""20,000 runs with retention on: memory, open files and disk of daemon, agent and runner stay constant."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest

from tests.attack.arena import Arena, descriptors, memory_bytes
from tests.patience import wait_until
from waterflow_agent.state import journal
from waterflowd.app.bootstrap import UNIONS
from waterflowd.store import layout
from waterflowd.store.opening import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400)]

RUNS = 20_000
#: Runs between two readings.
ROUND = 1_000
#: Rounds before the readings that count: the log takes the space that it uses again and again, and the agent remembers as many
#: steps as it ever does.
WARM_ROUNDS = 6
#: Runs that retention keeps.
KEPT = 500
GROWTH_MAX = 1.10
MIB = 1 << 20
#: A smaller difference is noise: arenas of an allocator, connections of clients.
NOISE = {"memory": MIB, "files": 3}
#: What stays of a removed run: its entries in the audit trail, and that it was removed.
STAYS_BYTES_MAX = 2 << 10
#: The agent's journal begins anew at this size; beside it there are a few small files.
AGENT_DISK_MAX = journal.SEGMENT_BYTES + 2 * MIB
_AT_ONCE = 8
WORKFLOW = """jobs:
  a:
    runs-on: web
    steps:
      - run: |
          seq 200
          echo kept=1 >> $WATERFLOW_OUTPUT
      - uses: log
        with: {message: done}
"""
RULES = f"[retention]\nruns-per-workflow = {KEPT}\n"

#: What is measured, and of which process or directory.
Figures = dict[tuple[str, str], int]


def _disk_bytes(directory: Path) -> int:
    """The space of the files of a directory on disk, without the space that the daemon keeps back for a full disk."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += 0 if name == layout.BALLAST_FILE else os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _read(arena: Arena) -> Figures:
    pids = {
        "daemon": arena.daemon_pid,
        "agent": arena.agent_process("web-1").pid,
        "runner": arena.runner_pid("web-1"),
    }
    figures = {("memory", name): memory_bytes(pid) for name, pid in pids.items()}
    figures |= {("files", name): descriptors(pid) for name, pid in pids.items()}
    return figures | {
        ("disk", "daemon"): _disk_bytes(arena.daemon_dir),
        ("disk", "agent"): _disk_bytes(arena.agent_dir("web-1")),
    }


def _work(arena: Arena, count: int) -> None:
    open_runs: list[str] = []
    for _ in range(count):
        open_runs.append(arena.start(WORKFLOW))
        if len(open_runs) >= _AT_ONCE:
            assert arena.wait_for(open_runs.pop(0))["conclusion"] == "success"
    for run in open_runs:
        assert arena.wait_for(run)["conclusion"] == "success"


@pytest.fixture
def arena(empty_arena: Arena, monkeypatch: pytest.MonkeyPatch) -> Arena:
    """An arena whose daemon removes all but the newest runs, and one agent."""
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root}:{root / 'agent'}")
    empty_arena.daemon_module = "tests.attack.short_grace"
    empty_arena.write_config(repositories=RULES)
    empty_arena.start_daemon()
    empty_arena.add_agent("web-1", "web")
    return empty_arena


@pytest.mark.usefixtures("nightly")
def test_runs_with_retention_grow_nothing(arena: Arena) -> None:
    """After the warm-up, neither memory nor open files grow by 10 %, and as much disk as before stays of 1,000 removed runs."""
    readings: list[Figures] = []
    began = time.monotonic()
    for number in range(1, RUNS // ROUND + 1):
        _work(arena, ROUND)
        wait_until(lambda: arena.count_runs() <= KEPT, "the older runs to be removed")
        readings.append(_read(arena))
        shown = ", ".join(f"{kind} of {whose} {_shown(kind, value)}" for (kind, whose), value in readings[-1].items())
        print(f"{number * ROUND} runs, {number * ROUND / (time.monotonic() - began):.0f} a second: {shown}", flush=True)
    warm = readings[WARM_ROUNDS:]
    first, last = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    assert _grown(first, last) == {}
    before, after = _growth(first), _growth(last)
    print(f"stays on disk of each removed run: {before:.0f} and {after:.0f} bytes")
    assert after <= before * GROWTH_MAX + STAYS_BYTES_MAX / 10
    assert after <= STAYS_BYTES_MAX
    assert max(reading["disk", "agent"] for reading in readings) <= AGENT_DISK_MAX
    assert arena.stop_daemon() == 0
    with open_store(arena.daemon_dir, UNIONS) as store:
        store.verify()


def _grown(first: list[Figures], last: list[Figures]) -> dict[str, str]:
    """The figures whose median has grown by more than 10 %."""
    found = {}
    for kind, whose in first[0]:
        before, after = (statistics.median(reading[kind, whose] for reading in part) for part in (first, last))
        if kind in NOISE and after > before * GROWTH_MAX and after - before > NOISE[kind]:
            found[f"{kind} of {whose}"] = f"{_shown(kind, before)} -> {_shown(kind, after)}"
    return found


def _growth(part: list[Figures]) -> float:
    """The bytes on the daemon's disk that one more run costs for good."""
    return (part[-1]["disk", "daemon"] - part[0]["disk", "daemon"]) / ((len(part) - 1) * ROUND)


def _shown(kind: str, value: float) -> str:
    return f"{value:.0f}" if kind == "files" else f"{value / MIB:.1f} MiB"
