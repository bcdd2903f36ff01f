"""What administrators do with installed services: reload, use Docker, upgrade, revoke and remove."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packaged import PATIENCE_S, PackagedMachine

from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1800)]

CONFIGURATION = "/etc/waterflow/waterflowd.toml"
TOKEN = "/etc/waterflow/join-token"
GREETING = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo hello\n"
#: The groups of a step, and whether it may write to the socket of the Docker engine.
SOCKET = """jobs:
  a:
    runs-on: web
    steps:
      - run: id -Gn
      - run: test -w /run/docker.sock && echo may write || echo may not write
"""
#: Runs until the file exists.
LONG = """jobs:
  a:
    runs-on: web
    steps:
      - run: |
          touch /var/lib/waterflow-step/begun
          until test -e /var/lib/waterflow-step/door; do sleep 0.2; done
      - run: echo second
"""


def test_installed_services_are_maintained(machine: PackagedMachine, newer_packages: Path) -> None:
    """All parts share one machine: booting and installing is slow."""
    machine.add("waterflow")
    machine.add("waterflow-agent")
    machine.join()
    _a_used_token_is_gone(machine)
    _a_reload_applies_the_configuration(machine)
    _steps_use_docker_with_the_profile(machine)
    _an_upgrade_drains_the_agent_until_it_is_replaced(machine, newer_packages)
    _a_revoked_agent_stays_down_and_says_why(machine)
    _removal_leaves_no_secrets_in_memory(machine)


def _a_used_token_is_gone(machine: PackagedMachine) -> None:
    assert machine.root.inside(TOKEN).read_text() == ""
    # The agent stays enrolled without it.
    machine.systemctl("restart", "waterflow-agent")
    wait_until(machine.is_connected, "the agent without a token", PATIENCE_S)


def _a_reload_applies_the_configuration(machine: PackagedMachine) -> None:
    before = machine.pid("waterflowd")
    right = machine.root.inside(CONFIGURATION).read_text()
    machine.run("git", "init", "--quiet", "--bare", "--initial-branch=main", "/srv/web.git")
    machine.root.write(CONFIGURATION, f'{right}\n[[repositories]]\nname = "web"\nurl = "/srv/web.git"\n')
    machine.systemctl("reload", "waterflowd")
    wait_until(lambda: _repositories(machine) == {"ops", "web"}, "the other repository", PATIENCE_S)
    machine.root.write(CONFIGURATION, f"{right}\nrepository = 1\n")
    machine.systemctl("reload", "waterflowd")
    wait_until(lambda: "[WF620]" in machine.show("waterflowd", "StatusText"), "the mistake to be shown", PATIENCE_S)
    assert _repositories(machine) == {"ops", "web"}
    machine.root.write(CONFIGURATION, right)
    machine.systemctl("reload", "waterflowd")
    wait_until(lambda: _repositories(machine) == {"ops"}, "the repository to be gone", PATIENCE_S)
    wait_until(lambda: "[WF" not in machine.show("waterflowd", "StatusText"), "the mistake to be gone", PATIENCE_S)
    assert machine.pid("waterflowd") == before


def _repositories(machine: PackagedMachine) -> set[str]:
    return {row["name"] for row in machine.api("GET", "/v1/repositories")["repositories"]}


def _steps_use_docker_with_the_profile(machine: PackagedMachine) -> None:
    """There is no engine here: systemd listens on its socket, which has the mode and the group that Docker gives it."""
    machine.run("groupadd", "--system", "docker")
    options = ("ListenStream=/run/docker.sock", "SocketGroup=docker", "SocketMode=0660")
    machine.run("systemd-run", "--unit=engine", *(f"--socket-property={option}" for option in options), "/bin/true")
    assert _printed(machine, SOCKET) == ["waterflow-step", "may not write"]
    # The commands of docs/containers.md.
    machine.run("sh", "-c", "cp -r /usr/share/waterflow-agent/docker/* /etc/")
    machine.run("systemd-sysusers")
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", "waterflow-runner", "waterflow-agent")
    wait_until(machine.is_connected, "the agent with the profile", PATIENCE_S)
    assert _printed(machine, SOCKET) == ["waterflow-step docker", "may write"]
    machine.systemctl("stop", "engine.socket")


def _printed(machine: PackagedMachine, workflow: str) -> list[str]:
    run = machine.start(workflow)
    found = machine.wait_for(run)
    assert found["conclusion"] == "success", f"{found['jobs']}\n{machine.journal()}"
    return machine.lines(run)


def _an_upgrade_drains_the_agent_until_it_is_replaced(machine: PackagedMachine, newer: Path) -> None:
    door, begun = (machine.root.inside(f"/var/lib/waterflow-step/{name}") for name in ("door", "begun"))
    run = machine.start(LONG)
    wait_until(begun.exists, "the step to begin", PATIENCE_S)
    before = machine.pid("waterflow-agent")
    machine.root.bring(newer)
    # Only unpacked, as in the middle of an upgrade: the files are new, and the agent is the old one.
    file = next(file.name for file in machine.root.brought.glob("waterflow-agent_*-2_amd64.deb"))
    machine.run("dpkg", "--unpack", f"/srv/packages/{file}")
    wait_until(lambda: "draining until it is restarted" in _agent(machine)["text"], "the agent to drain", PATIENCE_S)
    assert machine.pid("waterflow-agent") == before
    later = machine.start(GREETING)
    door.touch()
    wait_until(lambda: _first_step(machine, run)["status"] == "completed", "the running step to end", PATIENCE_S)
    assert _first_step(machine, later)["status"] == "waiting"

    machine.run("dpkg", "--configure", "waterflow-agent")
    wait_until(machine.is_connected, "the new agent", PATIENCE_S)
    assert machine.pid("waterflow-agent") != before
    assert [machine.wait_for(each)["conclusion"] for each in (run, later)] == ["success", "success"]
    assert _agent(machine)["text"] == "connected"


def _agent(machine: PackagedMachine) -> dict[str, Any]:
    (row,) = machine.api("GET", "/v1/agents")["agents"]
    return dict(row)


def _first_step(machine: PackagedMachine, run: str) -> dict[str, Any]:
    return dict(machine.api("GET", f"/v1/runs/{run}")["jobs"][0]["steps"][0])


def _a_revoked_agent_stays_down_and_says_why(machine: PackagedMachine) -> None:
    machine.run("waterflowctl", "agents", "revoke", _agent(machine)["name"])
    _is_down(machine, "the agent's key was revoked; this agent stops")
    # Neither does a reboot or an administrator bring it back.
    machine.run("systemctl", "reset-failed", "waterflow-agent")
    machine.run("systemctl", "start", "waterflow-agent", check=False)
    _is_down(machine, "the server refused this agent's key: it was revoked, or is not enrolled there")


def _is_down(machine: PackagedMachine, sentence: str) -> None:
    wait_until(lambda: machine.show("waterflow-agent", "ActiveState") == "failed", "the agent to fail", PATIENCE_S)
    assert machine.show("waterflow-agent", "ExecMainStatus") == "5"
    assert machine.show("waterflow-agent", "NRestarts") == "0"
    message = machine.run("systemctl", "status", "--no-pager", "waterflow-agent", check=False).stdout
    assert sentence in message
    assert "[WF212]" in message


def _removal_leaves_no_secrets_in_memory(machine: PackagedMachine) -> None:
    assert machine.root.inside("/var/lib/waterflow-agent").exists()
    machine.run("test", "-d", "/run/waterflow-agent")
    machine.run("dpkg", "--remove", "waterflow-agent")
    assert machine.run("test", "-e", "/run/waterflow-agent", check=False).returncode == 1
    assert machine.root.inside("/var/lib/waterflow-agent").exists()
    machine.run("dpkg", "--purge", "waterflow-agent", "waterflow")
    assert machine.run("sh", "-c", "ls -d /run/*waterflow*", check=False).stdout == ""
