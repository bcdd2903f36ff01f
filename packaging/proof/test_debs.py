"""Deb packages on Debian 12 and 13 without Python: installed, used, upgraded while steps run, removed and purged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaged import PATIENCE_S, PackagedMachine

from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1800)]

SERVICES = ("waterflowd", "waterflow-agent", "waterflow-runner")
EXPOSURE_MAX = 2.0
RUNS = 20
GREETING = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo hello\n"
#: Writes to /tmp continuously until the file `door` exists.
WRITER = """jobs:
  a:
    runs-on: web
    steps:
      - run: |
          echo begin >> /var/lib/waterflow-step/marks
          n=0
          until test -e /var/lib/waterflow-step/door; do n=$((n+1)); echo $n >> /tmp/numbers; sleep 0.1; done
          test "$(wc -l < /tmp/numbers)" = "$n" && echo whole
"""
WAITER = """jobs:
  a:
    runs-on: web
    steps:
      - run: |
          echo begin >> /var/lib/waterflow-step/marks
          until test -e /var/lib/waterflow-step/door; do sleep 0.2; done
      - run: echo second
"""

#: Uses libraries that the package must contain: httpx; and Docker's SDK, asyncssh and obstore with unreachable servers.
NODES = """jobs:
  a:
    runs-on: web
    steps:
      - uses: http/request
        with: {url: "http://127.0.0.1:8080/health"}
      - uses: file/write
        with: {path: file, content: "x"}
      - uses: docker/stop
        continue-on-error: true
        with: {container: none}
      - uses: file/transfer
        continue-on-error: true
        with:
          source: sftp://ada@127.0.0.1:9/f
          destination: f
          password: x
          host-key: SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU
      - uses: file/transfer
        continue-on-error: true
        with: {source: "s3://b/k", destination: f, endpoint: "http://127.0.0.1:9", access-key: a, secret-key: b, timeout: 5s}
"""


def test_packages_are_installed_used_upgraded_removed_and_purged(
    machine: PackagedMachine, newer_packages: Path
) -> None:
    """All parts share one machine: each depends on the previous one, and booting and installing is slow."""
    _installation_starts_the_daemon(machine)
    _agent_waits_for_its_token_and_says_so(machine)
    machine.join()
    _push_runs(machine)
    _units_are_in_order(machine)
    _nodes_have_what_they_need(machine)
    _survives_kills_in_the_middle_of_a_run(machine)
    _survives_a_reboot(machine)
    _upgrade_loses_nothing(machine, newer_packages)
    _removal_keeps_data_and_purge_does_not(machine)


def _installation_starts_the_daemon(machine: PackagedMachine) -> None:
    assert machine.run("sh", "-c", "command -v python3", check=False).returncode != 0
    message = machine.add("waterflow")
    assert "waterflowctl agents tokens create" in message
    wait_until(lambda: machine.is_active("waterflowd"), "the daemon", PATIENCE_S)
    assert machine.show("waterflowd", "UnitFileState") == "enabled"
    message = machine.run("waterflowctl", "status").stdout
    assert "no repositories: waterflowctl repositories add NAME URL" in message
    assert "no agents: waterflowctl agents tokens create" in message
    listening = machine.root.inside("/etc/waterflow/waterflowd.toml").read_text()
    assert '#listen = "127.0.0.1:8080"' in listening
    machine.run("runuser", "-u", "waterflow", "--", "waterflowd", "check-config")
    _completions_complete(machine)
    assert machine.run("runuser", "-u", "nobody", "--", "waterflowctl", "status", check=False).returncode == 4


def _agent_waits_for_its_token_and_says_so(machine: PackagedMachine) -> None:
    message = machine.add("waterflow-agent")
    assert "The agent is waiting for a join token" in message
    status = machine.run("systemctl", "status", "--no-pager", "waterflow-agent", check=False).stdout
    assert "waiting for a join token in /etc/waterflow/join-token" in status
    assert not machine.is_active("waterflow-agent")
    assert machine.is_active("waterflow-agent.path")


def _push_runs(machine: PackagedMachine) -> None:
    machine.push("greeting", GREETING)
    runs = wait_until(machine.runs, "a run of the push", PATIENCE_S)
    assert machine.wait_for(runs[0]["id"])["conclusion"] == "success"
    assert machine.lines(runs[0]["id"]) == ["hello"]


def _units_are_in_order(machine: PackagedMachine) -> None:
    location = "/usr/lib/systemd/system"
    units = [f"{location}/{name}.service" for name in SERVICES]
    done = machine.run("systemd-analyze", "verify", *units, f"{location}/waterflow-agent.path", check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
    for unit in ("waterflowd.service", "waterflow-agent.service"):
        exposure = machine.exposure(unit)
        print(f"{unit}: exposure {exposure}")
        assert exposure <= EXPOSURE_MAX


def _completions_complete(machine: PackagedMachine) -> None:
    for program in ("waterflowd", "waterflowctl"):
        script = machine.run("cat", f"/usr/share/bash-completion/completions/{program}").stdout
        assert f"_{program.upper()}_COMPLETE=bash_complete" in script
    requested = ("COMP_WORDS=waterflowctl sta", "COMP_CWORD=1", "_WATERFLOWCTL_COMPLETE=bash_complete")
    assert machine.run("env", *requested, "waterflowctl").stdout == "plain,status\n"


def _nodes_have_what_they_need(machine: PackagedMachine) -> None:
    run = machine.wait_for(machine.start(NODES))
    assert run["conclusion"] == "success", run["jobs"]
    assert [step["outcome"] for step in run["jobs"][0]["steps"]] == ["success"] * 2 + ["failure"] * 3
    message = "\n".join(machine.lines(run["id"]))
    assert "cannot connect to the Docker engine on this server" in message
    assert "cannot connect to sftp://ada@127.0.0.1:9/f: Connection refused" in message
    assert "s3://b/k: cannot reach http://127.0.0.1:9" in message


def _survives_kills_in_the_middle_of_a_run(machine: PackagedMachine) -> None:
    marks, door = _signs(machine)
    run = machine.start(WAITER)
    wait_until(marks.exists, "the step to begin", PATIENCE_S)
    for unit in ("waterflowd", "waterflow-agent"):
        before = machine.pid(unit)
        machine.kill(unit, "KILL")
        wait_until(lambda: machine.pid(unit) not in (0, before), f"another {unit}", PATIENCE_S)  # noqa: B023
    wait_until(machine.is_connected, "the agent after the kills", PATIENCE_S)
    door.touch()
    found = machine.wait_for(run)
    assert found["conclusion"] == "success"
    assert [len(step["attempts"]) for step in found["jobs"][0]["steps"]] == [1, 1]
    assert marks.read_text().split() == ["begin"]


def _survives_a_reboot(machine: PackagedMachine) -> None:
    marks, _ = _signs(machine)
    run = machine.start(WAITER)
    wait_until(marks.exists, "the step to begin", PATIENCE_S)
    machine.reboot()
    assert machine.wait_for(run)["conclusion"] == "lost"
    assert marks.read_text().split() == ["begin"]
    wait_until(machine.is_connected, "the agent after the reboot", PATIENCE_S)
    assert machine.wait_for(machine.start(GREETING))["conclusion"] == "success"


def _signs(machine: PackagedMachine) -> tuple[Path, Path]:
    """Removes and returns two files: steps append to the first when they start, and end when the second exists."""
    found = tuple(machine.root.inside(f"/var/lib/waterflow-step/{name}") for name in ("marks", "door"))
    for file in found:
        file.unlink(missing_ok=True)
    return found[0], found[1]


def _upgrade_loses_nothing(machine: PackagedMachine, newer: Path) -> None:
    machine.root.write("/etc/waterflow/agent.toml", 'join-token-file = "/etc/waterflow/join-token"\nslots = 32\n')
    machine.systemctl("restart", "waterflow-agent")
    wait_until(machine.is_connected, "the agent with more slots", PATIENCE_S)
    marks, door = _signs(machine)
    runs = [machine.start(WRITER), *(machine.start(WAITER) for _ in range(RUNS - 1))]
    wait_until(lambda: marks.exists() and len(marks.read_text().split()) == RUNS, "all steps to begin", PATIENCE_S)
    machine.root.bring(newer)
    before = {unit: machine.pid(unit) for unit in SERVICES}
    machine.add("waterflow", 2)
    assert f"is draining until it is restarted; {RUNS} attempts left" in machine.add("waterflow-agent", 2)
    assert "slots = 32" in machine.root.inside("/etc/waterflow/agent.toml").read_text()
    after = {unit: machine.pid(unit) for unit in SERVICES}
    assert after["waterflow-runner"] == before["waterflow-runner"]
    assert after["waterflowd"] != before["waterflowd"]
    assert after["waterflow-agent"] != before["waterflow-agent"]
    wait_until(machine.is_connected, "the new agent", PATIENCE_S)
    door.touch()
    found = [machine.wait_for(run) for run in runs]
    assert [run["conclusion"] for run in found] == ["success"] * RUNS
    assert all(len(step["attempts"]) == 1 for run in found for job in run["jobs"] for step in job["steps"])
    wait_until(lambda: machine.lines(runs[0]) == ["whole"], "the writer's line", PATIENCE_S)
    assert len(marks.read_text().split()) == RUNS


def _removal_keeps_data_and_purge_does_not(machine: PackagedMachine) -> None:
    inside = machine.root.inside
    packages = ("waterflow", "waterflow-agent")
    machine.run("dpkg", "--remove", *packages)
    for name in packages:
        assert inside(f"/var/lib/{name}").exists()
        assert not inside(f"/usr/lib/{name}").exists()
    assert inside("/etc/waterflow/waterflowd.toml").exists()
    assert not any(machine.is_active(unit) for unit in SERVICES)
    machine.run("dpkg", "--purge", *packages)
    removed = (
        "/var/lib/waterflow",
        "/var/lib/waterflow-agent",
        "/var/lib/waterflow-step",
        "/etc/waterflow",
        "/usr/share/doc/waterflow",
    )
    assert [path for path in removed if inside(path).exists()] == []
    listed = machine.run("sh", "-c", "find / -xdev -name '*waterflow*' -not -path '/proc/*'").stdout
    left = [line for line in listed.splitlines() if not re.match(r"/(srv|tmp|var/log|var/tmp|run|sys)/", line)]
    assert left == []
