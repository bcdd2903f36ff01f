"""Two servers must never run one step at the same time, nor the steps of two holders of one concurrency group.

The daemon and the server `near` are in one network namespace, the server `far` in another one. Each step writes the time to a
file again and again, so that the file shows for how long two of them ran at once. Needs root and `ip` with namespaces.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attack.test_namespaces import TwoHosts, hosts_here
from tests.chance import IS_FULL
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

#: `lost-after` of the daemon: the shortest time for which leases do not depend on the length of a heartbeat.
LOST_AFTER_S = 15
#: From a cut until the next attempt: silence, lease, grace period, and a slow machine.
PATIENCE_S = 120.0

#: Ticks until it is stopped; `step.stop` gives it no time.
TICK = (
    'while :; do echo "$WATERFLOW_RUN_ID $WATERFLOW_ATTEMPT $WATERFLOW_AGENT $(date +%s%N)" >> {ticks}; sleep 0.1; done'
)


class Servers(TwoHosts):
    """The daemon and `near` on one host, `far` on another one."""

    def spawn(self, module: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Starts a module in its namespace."""
        is_far = any(argument.endswith("far.toml") for argument in arguments)
        name = self.hosts.there if is_far else self.hosts.here
        with log.open("ab") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(),
                cwd=self.folder,
            )

    @property
    def ticks(self) -> Path:
        """The file with the times at which steps ran."""
        return self.folder / "ticks"

    def ticked(self) -> dict[tuple[str, str], tuple[str, float, float]]:
        """Returns the server, the first and the last second of each attempt, by run and attempt."""
        found: dict[tuple[str, str], tuple[str, float, float]] = {}
        if not self.ticks.exists():
            return {}
        for line in self.ticks.read_text().splitlines():
            run, attempt, agent, text = line.split()
            at = int(text) / 1e9
            first = found.get((run, attempt), (agent, at, at))[1]
            found[run, attempt] = (agent, first, at)
        return found

    def ticks_on(self, server: str) -> list[tuple[str, float, float]]:
        """Returns the attempts that have run on a server."""
        return [times for times in self.ticked().values() if times[0] == server]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """A daemon with two servers, one of which can be cut off."""
    with hosts_here() as hosts, contextlib.closing(Servers(tmp_path, hosts)) as cluster:
        cluster.write_config(agents=f'lost-after = "{LOST_AFTER_S}s"')
        cluster.start_daemon()
        cluster.add_agent("far", "web")
        yield cluster


def _retried(servers: Servers) -> str:
    """A job that is tried on another server when its own is lost."""
    return f"""jobs:
  a:
    runs-on: web
    retry: {{max-attempts: 3, initial-interval: 0s, on: [lost]}}
    steps:
      - run: {TICK.format(ticks=servers.ticks)}
        stop: {{grace: 1s}}
"""


def _holder(servers: Servers) -> str:
    """A job that holds the only slot of a concurrency group."""
    return f"""jobs:
  a:
    runs-on: web
    concurrency: {{group: production}}
    steps:
      - run: {TICK.format(ticks=servers.ticks)}
        stop: {{grace: 1s}}
"""


def _cut_off(servers: Servers) -> None:
    servers.hosts.cable("down")


def _deaf_agent(servers: Servers) -> None:
    servers.hosts.deafen(servers.hosts.here)


def _deaf_daemon(servers: Servers) -> None:
    servers.hosts.deafen(servers.hosts.there)


def _agent_killed(servers: Servers) -> None:
    """Only the step runner is left to stop the step."""
    servers.hosts.cable("down")
    servers.kill_agent("far")


def _agent_frozen(servers: Servers) -> None:
    servers.freeze(servers.agent_process("far").pid)


def _revoked(servers: Servers) -> None:
    servers.hosts.cable("down")
    fingerprint = next(row["fingerprint"] for row in servers.agent_rows() if row["name"] == "far")
    answer = servers.api("POST", f"/v1/agents/{fingerprint.replace('/', '%2F').replace('+', '%2B')}/revoke")
    assert answer.status_code == 200, answer.text


def _daemon_restarted(servers: Servers) -> None:
    """A daemon that has just started knows nothing about the server that is cut off."""
    servers.hosts.cable("down")
    time.sleep(3.0)
    servers.kill_daemon()
    servers.start_daemon()


_FAULTS = [_cut_off, _deaf_agent, _deaf_daemon, _agent_killed, _agent_frozen, _revoked, _daemon_restarted]
#: Each takes almost a minute; `make nightly` tries all of them.
_FAULTS_TRIED = _FAULTS if IS_FULL else _FAULTS[:1]


def _overlap_s(before: tuple[str, float, float], after: tuple[str, float, float]) -> float:
    overlap_s = before[2] - after[1]
    print(
        f"the last tick of the first {'overlaps' if overlap_s > 0 else 'precedes'} the second by {abs(overlap_s):.1f} s"
    )
    return overlap_s


def _second(servers: Servers, started_at: float) -> tuple[str, float, float]:
    wait_until(lambda: servers.ticks_on("near"), "the second server to run a step", PATIENCE_S)
    print(f"the second server starts {servers.ticks_on('near')[0][1] - started_at:.1f} s after the fault")
    # Long enough for ticks of the first one that are still to come.
    time.sleep(8.0)
    return servers.ticks_on("near")[0]


@pytest.mark.parametrize("fault", _FAULTS_TRIED, ids=[fault.__name__.strip("_") for fault in _FAULTS_TRIED])
def test_a_job_never_runs_on_two_servers(servers: Servers, fault: Callable[[Servers], None]) -> None:
    """A server that cannot reach the daemon stops the step before another server gets it."""
    servers.start(_retried(servers))
    wait_until(lambda: servers.ticks_on("far"), "the step to run")
    servers.add_agent("near", "web")

    fault(servers)

    second = _second(servers, time.time())
    assert _overlap_s(servers.ticks_on("far")[0], second) < 0


@pytest.mark.parametrize("ending", ["lost", "cancelled", "cancelled by force"] if IS_FULL else ["cancelled by force"])
def test_the_next_holder_waits_until_the_server_of_the_previous_one_has_stopped_it(
    servers: Servers, ending: str
) -> None:
    """However the first holder ends while its server is cut off, its step has ended before the next holder begins."""
    first = servers.start(_holder(servers))
    wait_until(lambda: servers.ticks_on("far"), "the step to run")
    servers.add_agent("near", "web")
    servers.start(_holder(servers))

    servers.hosts.cable("down")
    cut_at = time.time()
    if ending != "lost":
        answer = servers.api("POST", f"/v1/runs/{first}/cancel", json={"force": ending.endswith("force")})
        assert answer.status_code in (200, 202), answer.text

    second = _second(servers, cut_at)
    assert _overlap_s(servers.ticks_on("far")[0], second) < 0


@pytest.mark.usefixtures("nightly")
def test_a_copied_agent_gets_nothing_while_the_original_is_cut_off(servers: Servers) -> None:
    """The copy is refused although the original is silent, until a person accepts it; then nothing overlaps."""
    servers.start(_holder(servers))
    wait_until(lambda: servers.ticks_on("far"), "the step to run")
    servers.start(_holder(servers))
    servers.hosts.cable("down")
    cut_at = time.time()
    copy = servers.folder / "agent-copy"
    sockets = shutil.ignore_patterns("*.sock")
    shutil.copytree(servers.agent_dir("far"), copy, symlinks=True, ignore=sockets, ignore_dangling_symlinks=True)
    config = servers.folder / "copy.toml"
    config.write_text((servers.folder / "far.toml").read_text().replace(str(servers.agent_dir("far")), str(copy)))
    log = servers.folder / "copy.log"
    process = servers.spawn("waterflow_agent", "run", "--config", str(config), log=log)
    try:
        _check_copy(servers, log, cut_at)
    finally:
        process.kill()
        process.wait()


def _check_copy(servers: Servers, log: Path, cut_at: float) -> None:
    wait_until(lambda: "WF211" in log.read_text(), "the copy to be refused")
    # Longer than the silence after which the original's session has ended, and than its attempt's lease.
    time.sleep(max(0.0, cut_at + 40.0 - time.time()))

    assert servers.connected() == set()
    assert len(servers.ticked()) == 1
    status = servers.ctl("status")
    assert status.returncode == 1
    assert "waterflowctl agents accept far" in status.stdout
    assert "waterflowctl agents accept far" in servers.ctl("agents").stdout
    accepted = servers.ctl("agents", "accept", "far")
    assert accepted.returncode == 0, accepted.stderr
    wait_until(lambda: len(servers.ticked()) == 2, "the copy to run the next holder's step", PATIENCE_S)
    first, second = servers.ticked().values()
    assert _overlap_s(first, second) < 0
    servers.hosts.cable("up")
    wait_until(lambda: "WF211" in servers.agent_log("far").read_text(), "the original to be refused", PATIENCE_S)
