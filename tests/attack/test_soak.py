"""Thousands of small runs: memory and descriptors of daemon, agent and runner stay constant."""

from __future__ import annotations

import time

import pytest

from tests.attack.arena import Arena, descriptors, memory_bytes
from tests.attack.test_hostile_steps import job
from tests.chance import IS_FULL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUNS = 2_000 if IS_FULL else 150
#: Runs before the first reading, in which caches fill and the allocator takes its arenas.
_WARM = RUNS // 4
MIB = 1 << 20
#: The daemon keeps rows of completed runs in the log, not in memory; an allocator's noise is a few MiB.
_GROWTH_BYTES_MAX = 12 * MIB
_AT_ONCE = 8


def _work(arena: Arena, count: int) -> None:
    text = job(
        "echo hello\necho kept=1 >> $WATERFLOW_OUTPUT", then="      - uses: log\n        with: {message: done}\n"
    )
    open_runs: list[str] = []
    for _ in range(count):
        open_runs.append(arena.start(text))
        if len(open_runs) >= _AT_ONCE:
            assert arena.wait_for(open_runs.pop(0))["conclusion"] == "success"
    for run in open_runs:
        assert arena.wait_for(run)["conclusion"] == "success"


def test_many_small_runs_do_not_grow_memory_or_descriptors(arena: Arena) -> None:
    """The last three quarters of the runs add only noise."""
    _work(arena, _WARM)
    pids = {"daemon": arena.daemon_pid, "agent": arena.agent_process("web-1").pid, "runner": arena.runner_pid("web-1")}
    memory = {name: memory_bytes(pid) for name, pid in pids.items()}
    files = {name: descriptors(pid) for name, pid in pids.items()}
    began = time.monotonic()
    _work(arena, RUNS - _WARM)
    took = time.monotonic() - began
    for name, pid in pids.items():
        grown, opened = memory_bytes(pid) - memory[name], descriptors(pid) - files[name]
        print(f"{name}: RssAnon {memory[name] / MIB:.1f} MiB {grown / MIB:+.2f} MiB, descriptors {opened:+d}")
        assert grown <= _GROWTH_BYTES_MAX, f"{name} grew by {grown / MIB:.1f} MiB"
        assert opened <= 5, f"{name} has {opened} more files open"
    print(f"{(RUNS - _WARM) / took:.0f} runs a second")
