"""All attacks on the API, the compiler and the ports at once, from another network namespace; at night for ten minutes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.attack import api_attacks
from tests.attack.api_attacks import Aim
from tests.attack.arena import Peak, memory_bytes
from tests.attack.test_namespaces import TwoHosts, two
from tests.attack.test_port_attacks import (
    GROWTH_BYTES_MAX,
    MIB,
    log_bytes,
    p99,
    port_attacks,
    port_processes,
    port_restarts,
    step_times_ms,
)
from tests.chance import IS_FULL
from tests.patience import wait_until

__all__ = ["two"]

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1800)]

#: How long the attacks last, and each of them until it is killed and begins again.
TOGETHER_S = 600.0 if IS_FULL else 20.0
_ROUND_S = 10.0

Attack = Callable[[TwoHosts], AbstractContextManager[None]]


def attacks_on_the_api(cluster: TwoHosts) -> list[Attack]:
    """All attacks on the API and the compiler, by a viewer."""
    token = cluster.api("POST", "/v1/tokens", json={"role": "viewer", "name": "greedy"}).json()["secret"]
    aim = Aim(host="10.98.76.1", port=cluster.api_port, token=token)
    attacks: list[Attack] = []
    for name in api_attacks.ATTACKS:

        @contextlib.contextmanager
        def begin(cluster: TwoHosts, name: str = name) -> Iterator[None]:
            with api_attacks.attack(name, aim, wrapper=("ip", "netns", "exec", cluster.hosts.there)) as process:
                yield
                assert process.poll() is None, f"{name} has ended, because it succeeded"

        attacks.append(begin)
    return attacks


def test_every_attack_at_once_leaves_the_others_alone(two: TwoHosts) -> None:
    """Runs of 200 steps succeed beside them, the unix socket answers, no process is restarted, and memory does not grow."""
    attacks = [*attacks_on_the_api(two), *port_attacks(two)]
    calm = p99(step_times_ms(two) + step_times_ms(two))
    processes = [two.daemon_pid, *port_processes(two)]
    memory = [Peak(lambda pid=pid: memory_bytes(pid)) for pid in processes]  # type: ignore[misc]
    log = log_bytes(two)
    times: list[int] = []
    slowest_answer = 0.0
    deadline = time.monotonic() + TOGETHER_S
    while time.monotonic() < deadline:
        with contextlib.ExitStack() as stack:
            for begin in attacks:
                stack.enter_context(begin(two))
            killed_at = time.monotonic() + _ROUND_S
            while time.monotonic() < killed_at:
                times += step_times_ms(two)
                began = time.monotonic()
                assert two.api("GET", "/v1/runs?limit=1").status_code == 200
                slowest_answer = max(slowest_answer, time.monotonic() - began)
                for peak in memory:
                    peak.look()
    grown = sum(peak.growth for peak in memory)
    print(
        f"{len(times)} steps, p99 {p99(times)} ms, calm {calm} ms; an answer took {slowest_answer:.3f} s at most;"
        f" log +{(log_bytes(two) - log) / 1024:.0f} KiB, memory +{grown / MIB:.1f} MiB"
    )
    assert [two.daemon_pid, *port_processes(two)] == processes
    assert port_restarts(two) == 0
    assert grown <= GROWTH_BYTES_MAX, f"memory grew by {grown / MIB:.1f} MiB"
    wait_until(lambda: "web-1" in two.connected(), "the honest agent to be connected")
    if IS_FULL:
        # During the day other tests share the processors.
        assert p99(times) <= 3 * calm
