"""Hostile peers on the ports for agents of a real daemon, and the work of honest agents beside them.

test_every_attack.py combines them with attacks on other parts of the daemon.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.attack.arena import GOOD, Arena, Peak, memory_bytes
from tests.attack.port_attacks import Aim, attack
from tests.attack.test_hostile_steps import job
from tests.attack.test_namespaces import TwoHosts, two
from tests.chance import IS_FULL
from tests.patience import wait_until

__all__ = ["two"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MIB = 1 << 20
STEPS = 200
#: How long one attack lasts; at night, long enough to show a slow growth of memory.
_ATTACK_S = 24.0 if IS_FULL else 6.0
GROWTH_BYTES_MAX = 96 * MIB


def aim_at(arena: Arena, host: str = "127.0.0.1", **more: Any) -> Aim:
    """Aims at the ports of this daemon, as a stranger who knows its public key."""
    server = json.loads((arena.agent_dir("web-1") / "server.json").read_text())
    ports = {"work": f"tcp://{host}:{arena.work_port}", "enroll": f"tcp://{host}:{arena.enroll_port}"}
    return msgspec.convert({**ports, "server_key": server["server_key"], **more}, Aim)


def hostile(arena: Arena, name: str = "evil", group: str = "db") -> Mapping[str, str]:
    """Enrolls an agent of another group, and takes over its key."""
    arena.add_agent(name, group)
    arena.stop_agent(name)
    pair = json.loads((arena.agent_dir(name) / "keys" / "agent.key").read_text())
    wait_until(lambda: name not in arena.connected(), f"{name} to be disconnected")
    return {"public": pair["public"], "secret": pair["secret"]}


#: Attacks that go on until they are killed, with their aim. `agent` stands for the key of an approved agent.
PORT_ATTACKS: dict[str, dict[str, Any]] = {
    "unread_requests": {"count": 800, "repeat": 200},
    "handshakes_only": {"count": 1_000},
    "silence": {"count": 3_000},
    "unread_reports": {"count": 800, "agent": True},
    "empty_outputs": {"count": 200, "repeat": 12_000, "agent": True},
    "small_outputs": {"count": 200, "repeat": 1_000, "agent": True},
    "false_results": {"count": 200, "repeat": 1_000, "agent": True},
    "foreign_artifacts": {"count": 200, "repeat": 100, "agent": True},
}
#: A stranger, and two that once found a bug. By day `test_every_attack.py` alone makes the others, all at once.
_ATTACKS_TRIED = list(PORT_ATTACKS) if IS_FULL else ["unread_requests", "empty_outputs", "false_results"]


@contextlib.contextmanager
def port_attack(
    arena: Arena, name: str, key: Mapping[str, str], host: str = "127.0.0.1", **more: Any
) -> Iterator[None]:
    """One attack, in the attackers' network namespace if the arena has one."""
    arguments = dict(PORT_ATTACKS[name])
    pair = key if arguments.pop("agent", False) else {}
    wrapper = ("ip", "netns", "exec", arena.hosts.there) if isinstance(arena, TwoHosts) else ()
    function = "empty_outputs" if name == "small_outputs" else name
    with attack(function, aim_at(arena, host, **arguments, **pair, **more), wrapper=wrapper):
        yield


def step_times_ms(arena: Arena) -> list[int]:
    """Runs 200 steps one after another; returns the times from one to the next."""
    lines = "".join("      - {uses: log, with: {message: x}}\n" for _ in range(STEPS))
    run = arena.start(f"jobs:\n  a:\n    runs-on: web\n    steps:\n{lines}")
    # By the list, which costs the daemon little: the limits for one client hold for this one, too.
    wait_until(
        lambda: run in {row["id"] for row in _newest(arena) if row["status"] == "completed"}, f"run {run} to end", 600
    )
    found = arena.run(run)
    assert found["conclusion"] == "success", found["reason"]
    ends = [
        round(datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp() * 1000)
        for event in arena.events(run)
        if event["type"] == "step-completed"
    ]
    assert len(ends) == STEPS
    return [after - before for before, after in itertools.pairwise(ends)]


def _newest(arena: Arena) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = arena.api("GET", "/v1/runs?limit=1").json()["runs"]
    return rows


def p99(times: list[int]) -> int:
    """The value that a hundredth of the times exceeds."""
    return sorted(times)[int(len(times) * 0.99)]


def log_bytes(arena: Arena) -> int:
    return arena.log.stat().st_size


def port_restarts(arena: Arena) -> float:
    text = arena.api("GET", "/metrics").text
    line = next(line for line in text.splitlines() if line.startswith("waterflow_link") and "port_restarts" in line)
    return float(line.rpartition(" ")[2])


def _processes(arena: Arena) -> list[int]:
    """The daemon and its children."""
    pid = arena.daemon_pid
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid, *children]


@pytest.mark.parametrize("name", _ATTACKS_TRIED)
def test_an_attack_on_the_ports_delays_nobody_else(arena: Arena, name: str) -> None:
    """Runs and the API continue, nothing restarts, and neither memory nor the daemon's log grows much."""
    key = hostile(arena)
    for _ in range(10):
        arena.latency_s()
    processes = _processes(arena)
    memory = {pid: Peak(lambda pid=pid: memory_bytes(pid)) for pid in processes}  # type: ignore[misc]
    log = log_bytes(arena)
    slowest = slowest_answer = 0.0
    # The attempt of another agent that it makes reports about.
    victim = arena.start(job("sleep 600"))
    with port_attack(arena, name, key, run=victim):
        deadline = time.monotonic() + _ATTACK_S
        while time.monotonic() < deadline:
            slowest = max(slowest, arena.latency_s())
            began = time.monotonic()
            assert arena.api("GET", "/v1/runs?limit=1").status_code == 200
            slowest_answer = max(slowest_answer, time.monotonic() - began)
            for peak in memory.values():
                peak.look()
    grown = sum(peak.growth for peak in memory.values())
    print(
        f"{name}: a run took {slowest:.3f} s at most, an answer {slowest_answer:.3f} s,"
        f" log +{(log_bytes(arena) - log) / 1024:.0f} KiB, memory +{grown / MIB:.1f} MiB"
    )
    arena.api("POST", f"/v1/runs/{victim}/cancel", json={"force": True})
    arena.wait_for(victim)
    assert not (arena.folder / "daemon" / "artifacts").exists()
    assert "late-report" not in {event["type"] for event in arena.events(victim)}
    assert _processes(arena) == processes
    assert port_restarts(arena) == 0
    assert log_bytes(arena) - log < MIB
    assert grown <= GROWTH_BYTES_MAX, f"memory grew by {grown / MIB:.1f} MiB"
    assert arena.wait_for(arena.start(GOOD))["conclusion"] == "success"
    assert {"web-1", "web-2"} <= arena.connected()


def test_the_death_of_a_port_process_costs_a_reconnect(arena: Arena) -> None:
    """Both processes are killed again and again; steps continue, runs succeed once, and newcomers are let in."""
    pid = arena.daemon_pid
    long = arena.start(job("for n in $(seq 80); do echo line $n; sleep 0.1; done"))
    arena.lines(long, count=1)
    runs = []
    for _ in range(4):
        for child in wait_until(lambda: port_processes(arena), "both processes"):
            os.kill(child, signal.SIGKILL)
        runs.append(arena.start(GOOD))
    wait_until(lambda: port_restarts(arena) == 8, "all to be replaced")
    for run in runs:
        assert arena.wait_for(run)["conclusion"] == "success"
    assert arena.wait_for(long)["conclusion"] == "success"
    assert arena.lines(long, count=80) == [f"line {n}" for n in range(1, 81)]
    assert len(arena.run(long)["jobs"][0]["steps"][0]["attempts"]) == 1
    arena.add_agent("after", "web")
    wait_until(lambda: {"web-1", "web-2", "after"} <= arena.connected(), "all agents to be connected")
    assert arena.daemon_pid == pid


def port_processes(arena: Arena) -> list[int]:
    """Both processes of the ports; empty while one of them is being replaced."""
    found = []
    for pid in _processes(arena)[1:]:
        with contextlib.suppress(OSError):
            if b"waterflowd.dispatch.port" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found if len(found) == 2 else []


#: An attack that takes part in the combined test: called again and again with the arena, until the test ends.
Attack = Callable[[TwoHosts], AbstractContextManager[None]]


def port_attacks(cluster: TwoHosts) -> list[Attack]:
    """All attacks on the ports, from the other namespace, with an own key for each of the agents among them."""
    attacks: list[Attack] = []
    for name, arguments in PORT_ATTACKS.items():
        key = hostile(cluster, f"evil-{name.replace('_', '-')}") if arguments.get("agent") else {}

        def begin(cluster: TwoHosts, name: str = name, key: Mapping[str, str] = key) -> AbstractContextManager[None]:
            return port_attack(cluster, name, key, "10.98.76.1")

        attacks.append(begin)
    return attacks
