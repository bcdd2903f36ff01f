"""The node `systemd/unit` where it belongs: on a machine that has booted systemd, with an agent that may change it."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.booted.machine import Machine
from tests.booted.root import UNITS

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

UNIT = "[Service]\nExecStart=/bin/sleep 100000\n[Install]\nWantedBy=multi-user.target\n"
BROKEN = "[Service]\nType=oneshot\nExecStart=/bin/false\n"


def _ended(machine: Machine, **params: Any) -> dict[str, Any]:
    """The step of a run of the node with these parameters."""
    given = "".join(f"          {name}: {value}\n" for name, value in params.items())
    text = f"jobs:\n  a:\n    runs-on: web\n    steps:\n      - uses: systemd/unit\n        with:\n{given}"
    found = machine.wait_for(machine.start(text))
    step: dict[str, Any] = found["jobs"][0]["steps"][0]
    return step


def test_a_unit_is_brought_into_its_state_and_left_there(bare_machine: Machine) -> None:
    """Started, enabled, restarted, stopped; `changed` says whether anything had to be done; what fails says so."""
    machine = bare_machine
    for name in ("waterflow-agent.service.d", "waterflow-runner.service.d"):
        target = machine.root.inside(f"/etc/systemd/system/{name}")
        shutil.copytree(UNITS / "privileged" / name, target, dirs_exist_ok=True)
    machine.systemctl("daemon-reload")
    machine.install()
    machine.root.write("/etc/systemd/system/app.service", UNIT)
    machine.root.write("/etc/systemd/system/broken.service", BROKEN)

    first = _ended(machine, name="app.service", state="started", enabled="true", **{"daemon-reload": "true"})
    assert first["outputs"] == {"changed": True, "active": "active", "sub-state": "running", "enabled": "enabled"}, (
        first
    )
    pid = machine.pid("app.service")
    again = _ended(machine, name="app.service", state="started", enabled="true")
    assert (again["outputs"]["changed"], machine.pid("app.service")) == (False, pid)
    assert _ended(machine, name="app.service", state="restarted")["outputs"]["changed"]
    assert machine.pid("app.service") != pid
    stopped = _ended(machine, name="app.service", state="stopped", enabled="false")
    assert (stopped["outputs"]["active"], stopped["outputs"]["enabled"]) == ("inactive", "disabled")
    assert not _ended(machine, name="app.service", state="stopped")["outputs"]["changed"]

    broken = _ended(machine, name="broken.service", state="started")
    assert broken["conclusion"] == "failure"
    missing = _ended(machine, name="no-such-unit.service", state="started")
    assert "there is no unit" in missing["reason"]["text"]
