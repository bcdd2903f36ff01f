"""If a service of the packages does not start, `systemctl status` shows why and what to do."""

from __future__ import annotations

import pytest
from packaged import PATIENCE_S, PackagedMachine

from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1800)]

CONFIGURATION = "/etc/waterflow/waterflowd.toml"


def test_a_failed_start_is_explained(machine: PackagedMachine) -> None:
    """`systemctl status` and the installation explain each failure. All parts share a machine: booting is slow."""
    _a_port_that_is_taken(machine)
    _a_wrong_configuration(machine)
    _data_of_a_newer_release(machine)
    _a_data_directory_out_of_reach(machine)
    _a_token_that_is_none(machine)


def _a_port_that_is_taken(machine: PackagedMachine) -> None:
    machine.run("systemd-run", "--unit=squatter", "--socket-property=ListenStream=127.0.0.1:8080", "/bin/true")
    message = machine.add("waterflow")
    assert "waterflowd is not running: cannot listen on api.listen = '127.0.0.1:8080'" in message
    assert "waterflowd runs" not in message
    # systemd tries five times, because the port may become free.
    _is_explained(machine, "Address already in use", "choose another address, or stop the program that uses it [WF610]")
    machine.systemctl("stop", "squatter.socket")
    _runs_again(machine)


def _a_wrong_configuration(machine: PackagedMachine) -> None:
    right = machine.root.inside(CONFIGURATION).read_text()
    machine.root.write(CONFIGURATION, f"data-directory = '/srv'\n{right}")
    machine.run("systemctl", "restart", "waterflowd", check=False)
    _is_explained(machine, f'{CONFIGURATION}:1: unknown key "data-directory" (did you mean "data-dir"?) [WF620]')
    assert machine.show("waterflowd", "NRestarts") == "0"
    machine.root.write(CONFIGURATION, right)
    _runs_again(machine)


def _data_of_a_newer_release(machine: PackagedMachine) -> None:
    format_file = machine.root.inside("/var/lib/waterflow/FORMAT")
    machine.systemctl("stop", "waterflowd")
    ours = format_file.read_text()
    format_file.write_text('{"format": 99, "lmdb": 0, "release": "9.0"}')
    machine.run("systemctl", "start", "waterflowd", check=False)
    _is_explained(machine, "9.0", "[WF311]")
    format_file.write_text(ours)
    _runs_again(machine)


def _a_data_directory_out_of_reach(machine: PackagedMachine) -> None:
    right = machine.root.inside(CONFIGURATION).read_text()
    machine.root.write(CONFIGURATION, f"data-dir = '/srv/waterflow'\n{right}")
    machine.run("systemctl", "restart", "waterflowd", check=False)
    _is_explained(machine, "data-dir /srv/waterflow cannot be used", "ReadWritePaths=", "[WF317]")
    machine.run("install", "-d", "-o", "waterflow", "-m", "700", "/srv/waterflow")
    machine.change("waterflowd", "ReadWritePaths=/srv/waterflow")
    _runs_again(machine)
    assert machine.root.inside("/srv/waterflow/FORMAT").exists()


def _a_token_that_is_none(machine: PackagedMachine) -> None:
    machine.add("waterflow-agent")
    target = "/etc/waterflow/join-token"
    machine.run("install", "-m", "600", "-o", "waterflow-agent", "/dev/stdin", target, stdin="rubbish\n")
    wait_until(lambda: machine.show("waterflow-agent", "ActiveState") == "failed", "it to stay down", PATIENCE_S)
    message = machine.run("systemctl", "status", "waterflow-agent", check=False).stdout
    assert 'it must be one line that starts with "wfj1."' in message
    assert "[WF230]" in message


def _is_explained(machine: PackagedMachine, *words: str) -> None:
    wait_until(lambda: machine.show("waterflowd", "ActiveState") == "failed", "it to stay down", PATIENCE_S)
    command = ("systemctl", "status", "waterflowd")
    message = machine.run(*command, check=False).stdout
    assert all(word in message for word in words), message
    # Users who may not read the journal see the service's status text.
    assert "Status: " in message
    message = machine.run("runuser", "-u", "nobody", "--", *command, check=False).stdout
    assert all(word in message for word in words), message


def _runs_again(machine: PackagedMachine) -> None:
    machine.run("systemctl", "reset-failed", "waterflowd")
    machine.systemctl("start", "waterflowd")
    assert machine.is_active("waterflowd")
    message = machine.run("systemctl", "status", "waterflowd").stdout
    assert "[WF" not in message.partition("Status: ")[2].partition("\n")[0], message
