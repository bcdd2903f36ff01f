"""Two hosts: the daemon in one network namespace, the agent in another, and a bad cable between them.

Needs root and `ip` with namespaces; skipped with the reason where one is missing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.attack.arena import Arena
from tests.attack.test_hostile_steps import job
from tests.chance import IS_FULL, SEED
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

#: How long the cable is cut; at night, longer than the heartbeats of the link allow, but never as long as `lost-after`.
CUT_S = 20.0 if IS_FULL else 8.0
_names = itertools.count()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


class Hosts:
    """Two namespaces with a cable; their names are unique to this process."""

    def __init__(self) -> None:
        mark = f"wf{os.getpid() % 100_000:05d}{next(_names)}"
        self.here, self.there = f"{mark}d", f"{mark}a"
        self.daemon_end, self.agent_end = f"{mark}x", f"{mark}y"

    def make(self) -> None:
        """Creates both namespaces and the cable. Raises `OSError` if this machine cannot."""
        for name in (self.here, self.there):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        ends = [self.daemon_end, "netns", self.here, "type", "veth", "peer", "name", self.agent_end]
        _run("ip", "link", "add", *ends, "netns", self.there)
        ends_of = ((self.here, self.daemon_end, "1"), (self.there, self.agent_end, "2"))
        for name, end, last in ends_of:
            _run("ip", "-n", name, "addr", "add", f"10.98.76.{last}/24", "dev", end)
            _run("ip", "-n", name, "link", "set", end, "up")

    def remove(self) -> None:
        """Removes both namespaces, and the cable with them."""
        for name in (self.here, self.there):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def cable(self, state: str) -> None:
        """Sets the cable `up` or `down`, at both ends."""
        _run("ip", "-n", self.here, "link", "set", self.daemon_end, state)

    def deafen(self, name: str) -> None:
        """Sends all frames of this namespace to a MAC address that nothing has; it still receives frames."""
        end, other = self._ends(name)
        _run("ip", "-n", name, "neigh", "replace", other, "lladdr", "02:00:00:00:00:99", "dev", end, "nud", "permanent")

    def mend(self, name: str) -> None:
        """Undoes `deafen`: the address is resolved again."""
        end, other = self._ends(name)
        subprocess.run(["ip", "-n", name, "neigh", "del", other, "dev", end], capture_output=True, check=False)

    def _ends(self, name: str) -> tuple[str, str]:
        return (self.daemon_end, "10.98.76.2") if name == self.here else (self.agent_end, "10.98.76.1")

    def spoil(self, *what: str) -> bool:
        """Makes the cable unreliable in both directions (`loss 5%`); returns false if this kernel has no netem."""
        try:
            for name, end in ((self.here, self.daemon_end), (self.there, self.agent_end)):
                _run("tc", "-n", name, "qdisc", "replace", "dev", end, "root", "netem", *what)
        except OSError as error:
            print(error)
            return False
        return True

    def flicker(self, seconds: float, dice: random.Random) -> None:
        """Drops what is sent for short moments in one direction or the other, about 5 % of the time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(dice.uniform(0.1, 0.5))
            name = dice.choice([self.here, self.there])
            self.deafen(name)
            time.sleep(dice.uniform(0.005, 0.03))
            self.mend(name)


class TwoHosts(Arena):
    """An arena whose daemon and agents are in different namespaces; the API is reached by its socket."""

    def __init__(self, folder: Path, hosts: Hosts) -> None:
        super().__init__(folder)
        self.hosts = hosts

    def write_config(self, repositories: str = "", agents: str = "") -> None:
        """Writes the configuration with all ports on the cable; the API needs tokens there."""
        super().write_config(repositories, agents)
        text = self.config.read_text().replace("127.0.0.1:", "10.98.76.1:").replace("open = true\n", "")
        self.config.write_text(text)

    def spawn(self, module: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Starts a module in its namespace."""
        name = self.hosts.here if module == "waterflowd" else self.hosts.there
        with log.open("ab") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(),
                cwd=self.folder,
            )

    def api(self, method: str, path: str, **options: object) -> httpx.Response:
        """Sends a request over the unix socket, because the TCP address is in the daemon's namespace."""
        return self.api_by_socket(method, path, **options)


@contextlib.contextmanager
def hosts_here() -> Iterator[Hosts]:
    """Two hosts for the block; skips the test where there are no network namespaces."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip`")
    hosts = Hosts()
    try:
        try:
            hosts.make()
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield hosts
    finally:
        hosts.remove()


class LimitedHosts(TwoHosts):
    """Two hosts whose daemon limits its clients as it does by default."""

    def write_config(self, repositories: str = "", agents: str = "") -> None:
        """Writes the configuration without the setting that switches these limits off."""
        super().write_config(repositories, agents)
        self.config.write_text(self.config.read_text().replace("requests-per-second = 0\n", ""))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoHosts]:
    """A daemon on one host and an agent on the other."""
    with hosts_here() as hosts, contextlib.closing(TwoHosts(tmp_path, hosts)) as cluster:
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        yield cluster


def _counted(count: int, pause_s: float) -> str:
    return job(f"for n in $(seq {count}); do echo line $n; sleep {pause_s}; done")


def _whole(cluster: TwoHosts, run: str, count: int) -> None:
    """Checks that the run succeeded with one attempt, and that its lines arrived once and in order."""
    found = cluster.wait_for(run)
    assert found["conclusion"] == "success", found
    assert len(found["jobs"][0]["steps"][0]["attempts"]) == 1
    assert cluster.lines(run, count=count) == [f"line {n}" for n in range(1, count + 1)]


def test_a_disconnection_during_a_step_loses_no_line(two: TwoHosts) -> None:
    """The step continues, and afterwards each of its lines arrives once."""
    count = int(CUT_S * 10) + 60
    run = two.start(_counted(count, 0.1))
    two.lines(run, count=10)
    two.hosts.cable("down")
    time.sleep(CUT_S)
    assert two.run(run)["status"] != "completed"
    two.hosts.cable("up")
    _whole(two, run, count)


def test_a_disconnection_at_the_end_of_a_step_loses_no_result(two: TwoHosts) -> None:
    """The step ends while disconnected; the agent keeps the result, and the next step follows."""
    marker = two.folder / "marker"
    script = f"for n in $(seq 20); do echo line $n; sleep 0.1; done; echo x >> {marker}"
    run = two.start(job(script, then="      - run: echo second\n"))
    two.lines(run, count=3)
    two.hosts.cable("down")
    wait_until(marker.exists, "the step to end by itself")
    time.sleep(CUT_S)
    assert two.run(run)["status"] != "completed"
    two.hosts.cable("up")
    found = two.wait_for(run)
    assert found["conclusion"] == "success"
    assert two.lines(run, count=21) == [*(f"line {n}" for n in range(1, 21)), "second"]
    assert marker.read_text() == "x\n"


@pytest.mark.parametrize("way", ["to the agent", "to the daemon"])
def test_loss_in_one_direction_counts_as_a_disconnection(two: TwoHosts, way: str) -> None:
    """Loss in one direction, where one side receives but is not received, has the same effect as a cut."""
    name = two.hosts.here if way == "to the agent" else two.hosts.there
    count = int(CUT_S * 10) + 40
    run = two.start(_counted(count, 0.1))
    two.lines(run, count=5)
    two.hosts.deafen(name)
    late = two.start(job("echo late"))
    time.sleep(CUT_S)
    assert two.run(late)["status"] != "completed", "the direction is not cut"
    two.hosts.mend(name)
    _whole(two, run, count)
    assert two.wait_for(late)["conclusion"] == "success"
    assert two.lines(late, count=1) == ["late"]


def test_a_lossy_cable_loses_and_repeats_no_line(two: TwoHosts) -> None:
    """Lines arrive once despite 5 % loss, delay, duplicates and reordering (without netem: short losses)."""
    is_spoilt = two.hosts.spoil("delay", "10ms", "5ms", "loss", "5%", "duplicate", "2%", "reorder", "10%")
    runs = [two.start(_counted(200, 0.02)) for _ in range(4)]
    if not is_spoilt:
        print(f"WATERFLOW_SEED={SEED}")
        two.hosts.flicker(CUT_S, random.Random(SEED))
    for run in runs:
        _whole(two, run, 200)


def test_a_daemon_killed_while_disconnected_settles_after_the_reconnect(two: TwoHosts) -> None:
    """After a cut, a kill, a start and a reconnect there is one attempt with all lines."""
    count = 80
    run = two.start(_counted(count, 0.05))
    two.lines(run, count=5)
    two.hosts.cable("down")
    two.kill_daemon()
    wait_until(lambda: not two.steps(), "the step to end by itself")
    two.start_daemon()
    two.hosts.cable("up")
    _whole(two, run, count)
