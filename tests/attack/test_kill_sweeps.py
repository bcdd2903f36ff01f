"""`kill -9` at a chosen system call of the daemon, an agent or its runner: during work, and at the first start."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.attack.arena import Arena
from tests.attack.injection import Attached, Fault, is_alive, requires_strace, started_with, wait_for_end
from tests.attack.sweep import portions, sweep
from tests.chance import IS_FULL
from tests.patience import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if IS_FULL else 1200)]

#: System calls with outside effects of each process, with a count that the work of one round reaches.
DAEMON_CALLS = [
    ("pwrite64", 30),
    ("fdatasync", 12),
    ("write", 25),
    ("writev", 8),
    ("sendto", 20),
    ("recvfrom", 10),
    ("futex", 40),
]
AGENT_CALLS = [
    ("write", 20),
    ("fdatasync", 5),
    ("sendto", 20),
    ("recvfrom", 15),
    ("rename", 8),
    ("mkdir", 4),
    ("openat", 30),
    ("truncate", 6),
    ("pread64", 20),
]
RUNNER_CALLS = [
    ("write", 16),
    ("openat", 40),
    ("sendto", 8),
    ("recvfrom", 8),
    ("wait4", 5),
    ("readv", 10),
    ("writev", 4),
    ("pipe2", 8),
    ("clone3", 4),
    ("close", 40),
]


def _work_until_killed(arena: Arena, pid: int) -> tuple[list[str], dict[str, str | None]]:
    """Starts two runs and waits until they or the process end; returns their keys and the answers."""
    keys = [arena.key(), arena.key()]
    answers = {key: arena.post(key) for key in keys}
    known = [run for run in answers.values() if run is not None]

    def is_done() -> bool:
        return not is_alive(pid) or (len(known) == len(keys) and all(arena.has_ended(run) for run in known))

    wait_until(is_done, "the end of the work, or of the process", PATIENCE_S)
    return keys, answers


def _settle(arena: Arena, answers: dict[str, str | None], *, may_be_lost: bool = False) -> None:
    """Repeats the starts, which must return the same runs as before, and judges all runs."""
    runs: list[str] = []
    for key, answered in answers.items():
        run = arena.post(key)
        assert run is not None, "a daemon without faults answers"
        assert answered in (None, run), f"{key} was answered with {answered}, and now {run}"
        runs.append(run)
    for run in runs:
        arena.judge.run(run, may_be_lost=may_be_lost)


@pytest.mark.parametrize("calls", portions(DAEMON_CALLS))
def test_the_daemon_dies_at_any_call_and_keeps_its_promises(arena: Arena, calls: list[tuple[str, int]]) -> None:
    """Acknowledged starts exist and succeed; each attempt started once; history and output have no gap (G1 to G5, G9)."""
    requires_strace()
    total = 0

    def strike(fault: Fault) -> bool:
        nonlocal total
        pid = arena.daemon_pid
        with Attached(pid, fault):
            _, answers = _work_until_killed(arena, pid)
        is_struck = not is_alive(pid)
        if is_struck:
            arena.kill_daemon()
            arena.start_daemon()
        _settle(arena, answers)
        total += len(answers)
        assert arena.count_runs() == total, "a start became two runs"
        return is_struck

    assert sweep(calls, strike), "no fault struck"


@pytest.mark.parametrize("calls", portions(AGENT_CALLS))
def test_an_agent_dies_at_any_call_and_its_steps_continue(arena: Arena, calls: list[tuple[str, int]]) -> None:
    """Runs still succeed: the next agent takes over what its runner continued (G3, G9)."""
    requires_strace()

    def strike(fault: Fault) -> bool:
        pid = arena.agent_process("web-1").pid
        with Attached(pid, fault):
            _, answers = _work_until_killed(arena, pid)
        is_struck = not is_alive(pid)
        if is_struck:
            arena.kill_agent("web-1")
            arena.start_agent("web-1")
        _settle(arena, answers)
        return is_struck

    assert sweep(calls, strike), "no fault struck"


@pytest.mark.parametrize("calls", portions(RUNNER_CALLS))
def test_a_runner_dies_at_any_call_and_no_lost_step_counts_as_success(
    arena: Arena, calls: list[tuple[str, int]]
) -> None:
    """The runner's steps are `lost` and gone, everything else succeeds, and nothing starts twice (G3)."""
    requires_strace()

    def strike(fault: Fault) -> bool:
        arena.latency_s("jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo warm\n")
        pid = arena.runner_pid("web-1")
        # The runner has one thread, and its children are steps, which must not be struck.
        with Attached(pid, fault, threads=False):
            _, answers = _work_until_killed(arena, pid)
        is_struck = not is_alive(pid)
        _settle(arena, answers, may_be_lost=is_struck)
        wait_until(lambda: not arena.steps(), "no step to be left behind")
        return is_struck

    assert sweep(calls, strike), "no fault struck"


FIRST_DAEMON_CALLS = [
    ("pwrite64", 12),
    ("fdatasync", 6),
    ("fsync", 8),
    ("write", 12),
    ("rename", 4),
    ("mkdir", 4),
    ("fallocate", 1),
    ("ftruncate", 2),
    ("bind", 4),
    ("listen", 3),
    ("flock", 1),
    ("fchmod", 2),
    ("unlink", 3),
]
#: A regression: an empty file that LMDB had created and not yet written was reported as a damaged log.
FOUND = [("pwrite64", 1)]
FIRST_AGENT_CALLS = [
    ("write", 12),
    ("fsync", 4),
    ("rename", 4),
    ("mkdir", 8),
    ("sendto", 10),
    ("recvfrom", 10),
    ("connect", 2),
]


def _dies(process: subprocess.Popen[bytes], is_up: object) -> bool:
    """Returns whether the process ended before `is_up` held."""
    assert callable(is_up)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return True
        if is_up():
            return False
        time.sleep(0.02)
    raise AssertionError("neither up nor gone")


@pytest.mark.parametrize("calls", portions(FIRST_DAEMON_CALLS))
def test_the_daemon_dies_at_any_call_of_its_first_start_and_the_second_start_succeeds(
    empty_arena: Arena, calls: list[tuple[str, int]]
) -> None:
    """A partial data directory, key or socket never needs manual repair."""
    requires_strace()
    arena = empty_arena
    rounds = 0

    def strike(fault: Fault) -> bool:
        nonlocal rounds
        rounds += 1
        arena.daemon_dir = arena.folder / f"daemon-{rounds}"
        arena.write_config()
        with arena.started_under(fault):
            process = arena.spawn_daemon()
        is_struck = _dies(process, arena.is_daemon_ready)
        if not is_struck:
            arena.kill_daemon()
        arena.start_daemon()
        assert arena.post(arena.key()) is not None
        arena.kill_daemon()
        return is_struck

    assert sweep(calls, strike, FOUND, rounds=4), "no fault struck"


@pytest.mark.parametrize("calls", portions(FIRST_AGENT_CALLS))
def test_an_agent_dies_at_any_call_of_its_enrollment_and_the_second_try_succeeds(
    empty_arena: Arena, calls: list[tuple[str, int]]
) -> None:
    """However often the agent is killed while it joins, a token with one use suffices; only one agent exists."""
    requires_strace()
    arena = empty_arena
    arena.start_daemon()
    rounds = 0

    def strike(fault: Fault) -> bool:
        nonlocal rounds
        rounds += 1
        name = f"web-{rounds}"
        arena.configure_agent(name, "web")
        with arena.started_under(fault):
            process = arena.spawn_agent(name)
        is_struck = _dies(process, lambda: name in arena.connected())
        arena.kill_agent(name)
        arena.start_agent(name)
        names = [row["name"] for row in arena.agent_rows()]
        assert names.count(name) == 1
        assert len(names) == len(set(names)) == rounds, names
        arena.kill_agent(name)
        return is_struck

    assert sweep(calls, strike, rounds=4), "no fault struck"


def test_a_killed_process_is_noticed() -> None:
    """strace kills at the call and not before, as the sweeps require."""
    requires_strace()
    fault = Fault("getppid", 3)

    script = "import os\nfor n in range(5): os.getppid(); print(n, flush=True)"
    command = [*started_with(fault), sys.executable, "-S", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        message, _ = process.communicate(timeout=PATIENCE_S)
    assert wait_for_end(process.pid, PATIENCE_S)
    assert message.split() == ["0", "1"]
