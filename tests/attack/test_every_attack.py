"""All attacks on the API, the compiler and the ports at once, from another network namespace; at night for ten minutes."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.attack import api_attacks
from tests.attack.api_attacks import Aim
from tests.attack.arena import Peak, memory_bytes
from tests.attack.test_namespaces import LimitedHosts, TwoHosts, hosts_here
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

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1800)]

#: How long the attacks last, and each of them until it is killed and begins again.
TOGETHER_S = 600.0 if IS_FULL else 20.0
_ROUND_S = 10.0
#: An allocator's noise, as in test_soak.py.
FLAT_BYTES_MAX = 12 * MIB

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


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[LimitedHosts]:
    """A daemon with its default limits on one host, and an agent and the attackers on the other."""
    with hosts_here() as hosts, contextlib.closing(LimitedHosts(tmp_path, hosts)) as cluster:
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        yield cluster


def _waited_s(pid: int) -> float:
    """How long threads of this process were ready to run, but had no processor."""
    found = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += int((task / "schedstat").read_text().split()[1]) / 1e9
    return found


class _Phase:
    """What was measured with or without attacks."""

    def __init__(self, cluster: TwoHosts) -> None:
        self.times: list[int] = []
        self.seconds = self.waited_s = 0.0
        self._cluster = cluster

    def measure(self) -> None:
        """Adds a run of 200 steps."""
        began, waited_s = time.monotonic(), _waited_s(self._cluster.daemon_pid)
        self.times += step_times_ms(self._cluster)
        self.seconds += time.monotonic() - began
        self.waited_s += _waited_s(self._cluster.daemon_pid) - waited_s

    def __str__(self) -> str:
        share = 100 * self.waited_s / self.seconds
        return f"{len(self.times)} steps, p99 {p99(self.times)} ms, the daemon waited for a processor {share:.0f} % of the time"


def test_every_attack_at_once_leaves_the_others_alone(limited: LimitedHosts) -> None:
    """Runs of 200 steps succeed beside them, the unix socket answers, no process is restarted, and memory does not grow.

    Rounds without attacks are measured in between, because other programs use this machine, too. For the same reason, how long
    the daemon waited for a processor and how much of one the attackers got is printed. Caches fill during the first third of
    the time; in the last third, memory is no higher than in the second.
    """
    attacks = [*attacks_on_the_api(limited), *port_attacks(limited)]
    calm, attacked = _Phase(limited), _Phase(limited)
    calm.measure()
    processes = [limited.daemon_pid, *port_processes(limited)]
    memory = [Peak(lambda pid=pid: memory_bytes(pid)) for pid in processes]  # type: ignore[misc]
    peaks_by_third = [0, 0, 0]
    log = log_bytes(limited)
    slowest_answer = lasted_s = 0.0
    attackers = resource.getrusage(resource.RUSAGE_CHILDREN)
    while lasted_s < TOGETHER_S:
        calm.measure()
        with contextlib.ExitStack() as stack:
            for begin in attacks:
                stack.enter_context(begin(limited))
            began = time.monotonic()
            while time.monotonic() < began + _ROUND_S:
                attacked.measure()
                asked = time.monotonic()
                assert limited.api("GET", "/v1/runs?limit=1").status_code == 200
                slowest_answer = max(slowest_answer, time.monotonic() - asked)
                for peak in memory:
                    peak.look()
                third = min(2, int(3 * (lasted_s + time.monotonic() - began) / TOGETHER_S))
                peaks_by_third[third] = max(peaks_by_third[third], sum(memory_bytes(pid) for pid in processes))
            lasted_s += time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = used.ru_utime + used.ru_stime - attackers.ru_utime - attackers.ru_stime
    grown = sum(peak.growth for peak in memory)
    print(f"attacked for {lasted_s:.0f} s: {attacked}\nin between: {calm}")
    print(
        f"the attackers used {used_s:.0f} s of processor time; an answer took {slowest_answer:.3f} s at most;"
        f" log +{(log_bytes(limited) - log) / 1024:.0f} KiB; memory +{grown / MIB:.1f} MiB at its peaks, "
        + ", ".join(f"{peak / MIB:.0f}" for peak in peaks_by_third)
        + " MiB in each third"
    )
    assert [limited.daemon_pid, *port_processes(limited)] == processes
    assert port_restarts(limited) == 0
    wait_until(lambda: "web-1" in limited.connected(), "the honest agent to be connected")
    if not IS_FULL:
        assert grown <= GROWTH_BYTES_MAX, f"memory grew by {grown / MIB:.1f} MiB"
        return
    assert peaks_by_third[2] - peaks_by_third[1] <= FLAT_BYTES_MAX
    # During the day other tests share the processors.
    assert p99(attacked.times) <= 3 * p99(calm.times)
