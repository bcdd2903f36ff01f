"""Frozen processes: an agent, a runner or the daemon gets SIGSTOP while steps run, then SIGCONT."""

from __future__ import annotations

import time

import pytest

from tests.attack.arena import Arena
from tests.attack.test_hostile_steps import job
from tests.chance import IS_FULL
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

#: How long a peer is frozen; at night, longer than the heartbeats allow.
FROZEN_S = 10.0 if IS_FULL else 3.0


def _steady(arena: Arena, count: int = 40) -> str:
    lines = f"for n in $(seq {count}); do echo line $n; sleep 0.1; done"
    return arena.start(job(lines))


def _sit_out(arena: Arena, until: float) -> float:
    """Starts small runs until this time; returns the longest duration of one."""
    slowest = 0.0
    while time.monotonic() < until:
        slowest = max(slowest, arena.latency_s())
    return slowest


def test_a_frozen_agent_delays_no_other_agent_and_resumes_its_step(arena: Arena) -> None:
    """Runs on the other agent continue; afterwards the step continues, and its output arrives completely and once."""
    run = _steady(arena)
    arena.lines(run, count=1)
    name = arena.run(run)["jobs"][0]["agent"]
    pid = arena.agent_process(name).pid
    arena.freeze(pid)
    try:
        # What was offered to the frozen agent waits for it; further runs show that the rest goes to the other one.
        waiting = [arena.start(job("echo other")) for _ in range(6)]
        wait_until(lambda: any(arena.has_ended(run) for run in waiting), "a run on the other agent")
        time.sleep(FROZEN_S)
    finally:
        arena.thaw(pid)
    for other in waiting:
        assert arena.wait_for(other)["conclusion"] == "success"
        assert arena.lines(other, count=1) == ["other"]
    assert arena.wait_for(run)["conclusion"] == "success"
    assert arena.lines(run, count=40) == [f"line {n}" for n in range(1, 41)]
    wait_until(lambda: arena.connected() == {"web-1", "web-2"}, "both agents")


def test_a_frozen_agent_does_not_delay_another_group(arena: Arena) -> None:
    """Runs of one group start and end while an agent of another group is frozen with work on it."""
    arena.add_agent("db-1", "db")
    stuck = arena.start(job("for n in $(seq 200); do echo $n; done; sleep 1").replace("runs-on: web", "runs-on: db"))
    pid = arena.agent_process("db-1").pid
    arena.freeze(pid)
    try:
        slowest = _sit_out(arena, time.monotonic() + FROZEN_S)
    finally:
        arena.thaw(pid)
    print(f"slowest run of the other group: {slowest:.3f} s")
    assert arena.wait_for(stuck)["conclusion"] == "success"
    assert len(arena.lines(stuck, count=200)) == 200


def test_a_frozen_daemon_misses_nothing(arena: Arena) -> None:
    """Steps continue and end in the meantime; when the daemon resumes, it gets every report once."""
    keys = {arena.key(): None for _ in range(4)}
    runs = [arena.post(key) for key in keys]
    long = _steady(arena, 15)
    arena.lines(long, count=1)
    arena.freeze(arena.daemon_pid)
    try:
        wait_until(lambda: not arena.steps(), "the steps to end by themselves")
        time.sleep(FROZEN_S)
    finally:
        arena.thaw(arena.daemon_pid)
    assert arena.wait_for(long)["conclusion"] == "success"
    assert arena.lines(long, count=15) == [f"line {n}" for n in range(1, 16)]
    for run in runs:
        assert run is not None
        arena.judge.run(run)
    assert len(arena.run(long)["jobs"][0]["steps"][0]["attempts"]) == 1


def test_a_frozen_runner_only_delays_its_steps(arena: Arena) -> None:
    """The runner's pipe fills and its steps wait; when it resumes, everything arrives in order."""
    arena.lose_agent("web-2")
    run = arena.start(job("echo begin; seq 50000; echo end"))
    pid = arena.runner_pid("web-1")
    arena.freeze(pid)
    try:
        time.sleep(FROZEN_S / 2)
    finally:
        arena.thaw(pid)
    assert arena.wait_for(run)["conclusion"] == "success"
    lines = arena.lines(run, count=50_002)
    assert lines == ["begin", *map(str, range(1, 50_001)), "end"]


def test_a_job_is_cancelled_while_its_agent_is_frozen(arena: Arena) -> None:
    """The cancel is sent again when the agent resumes; the step ends once, and nothing is left."""
    run = _steady(arena, 6_000)
    arena.lines(run, count=1)
    pid = arena.agent_process(arena.run(run)["jobs"][0]["agent"]).pid
    arena.freeze(pid)
    try:
        arena.api("POST", f"/v1/runs/{run}/cancel", json={})
        time.sleep(FROZEN_S / 2)
        arena.kill_daemon()
        arena.start_daemon()
    finally:
        arena.thaw(pid)
    assert arena.wait_for(run)["conclusion"] == "cancelled"
    wait_until(lambda: not arena.steps(), "the step to be gone")
