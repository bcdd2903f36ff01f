"""The node `systemd/unit` on a machine with a booted systemd and an agent that may change units."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.booted.machine import Machine
from tests.booted.root import UNITS
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

UNIT = "[Service]\nExecStart=/bin/sleep 100000\n[Install]\nWantedBy=multi-user.target\n"
BROKEN = "[Service]\nType=oneshot\nExecStart=/bin/false\n"
#: Its main process is killed by its reload, which ends only after that.
DIES = (
    "[Service]\nExecStart=/bin/sleep 100000\n"
    "ExecReload=/bin/sh -c 'kill -KILL $MAINPID; while kill -0 $MAINPID; do sleep 0.1; done'\n"
)
#: Waits for this file before it starts or stops.
_GATE = "/run/gate"
_WAIT = f"/bin/sh -c 'until test -e {_GATE}; do sleep 0.1; done'"
SLOW_TO_START = (
    f"[Service]\nType=oneshot\nRemainAfterExit=true\nTimeoutStartSec=infinity\nExecStart={_WAIT}\n"
    "[Install]\nWantedBy=multi-user.target\n"
)
SLOW_TO_STOP = (
    f"[Service]\nType=oneshot\nRemainAfterExit=true\nTimeoutStopSec=infinity\nExecStart=/bin/true\nExecStop={_WAIT}\n"
)


@pytest.fixture
def machine(bare_machine: Machine) -> Machine:
    """A machine whose agent runs steps as root."""
    for name in ("waterflow-agent.service.d", "waterflow-runner.service.d"):
        target = bare_machine.root.inside(f"/etc/systemd/system/{name}")
        shutil.copytree(UNITS / "privileged" / name, target, dirs_exist_ok=True)
    bare_machine.systemctl("daemon-reload")
    bare_machine.install()
    return bare_machine


def _begun(machine: Machine, *, more: str = "", **params: Any) -> str:
    """Starts a run of the node with these parameters; `more` are further lines of the step. Returns the run's id."""
    values = "".join(f"          {name}: {value}\n" for name, value in params.items())
    text = f"jobs:\n  a:\n    runs-on: web\n    steps:\n      - uses: systemd/unit\n{more}        with:\n{values}"
    return machine.start(text)


def _step(machine: Machine, run: str) -> dict[str, Any]:
    """Returns the run's step once it has completed."""
    step: dict[str, Any] = machine.wait_for(run)["jobs"][0]["steps"][0]
    return step


def _ended(machine: Machine, **params: Any) -> dict[str, Any]:
    """Runs the node with these parameters and returns the completed step."""
    return _step(machine, _begun(machine, **params))


def _is(machine: Machine, unit: str, state: str) -> None:
    wait_until(lambda: machine.show(unit, "ActiveState") == state, f"{unit} to be {state}")


def test_a_unit_is_changed_only_if_its_state_differs(machine: Machine) -> None:
    """It is started, enabled, restarted or stopped; `changed` says whether it had to be; failures are reported."""
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
    # A running unit is reloaded, or restarted if it cannot reload; without a requested state, a unit is only inspected.
    for params in ({"state": "reloaded"}, {"state": "started", "reload": "true"}, {"reload": "true"}):
        pid = machine.pid("app.service")
        assert _ended(machine, name="app.service", **params)["outputs"]["changed"], params
        assert machine.pid("app.service") != pid, params
    looked_at = _ended(machine, name="app.service")
    assert (looked_at["outputs"]["changed"], looked_at["outputs"]["active"]) == (False, "active")
    stopped = _ended(machine, name="app.service", state="stopped", enabled="false")
    assert (stopped["outputs"]["active"], stopped["outputs"]["enabled"]) == ("inactive", "disabled")
    assert not _ended(machine, name="app.service", state="stopped")["outputs"]["changed"]
    assert not _ended(machine, name="app.service", reload="true")["outputs"]["changed"]

    broken = _ended(machine, name="broken.service", state="started")
    assert broken["conclusion"] == "failure"
    assert broken["reason"]["text"] == "systemctl start broken.service ended with exit code 1"
    assert (broken["outputs"]["changed"], broken["outputs"]["active"]) == (True, "failed")
    machine.systemctl("mask", "masked.service")
    masked = _ended(machine, name="masked.service", enabled="true")
    assert masked["reason"]["text"] == "systemctl enable masked.service ended with exit code 1"
    machine.root.write("/etc/systemd/system/dies.service", DIES)
    _ended(machine, name="dies.service", state="started", **{"daemon-reload": "true"})
    dead = _ended(machine, name="dies.service", state="reloaded")
    assert dead["reason"]["text"] == "systemctl reload-or-restart dies.service ended with exit code 1", dead
    assert (dead["outputs"]["changed"], dead["outputs"]["active"]) == (True, "failed")
    missing = _ended(machine, name="no-such-unit.service", state="started")
    assert "not found on this server" in missing["reason"]["text"]


def test_a_slow_unit_start_continues_when_its_step_is_cancelled_or_times_out(machine: Machine) -> None:
    """The step says why it stopped waiting; systemd continues, and a later step waits for the same start."""
    machine.root.write("/etc/systemd/system/slow.service", SLOW_TO_START)
    run = _begun(machine, name="slow.service", state="started", **{"daemon-reload": "true"})
    _is(machine, "slow.service", "activating")
    machine.api("POST", f"/v1/runs/{run}/cancel", "{}")
    cancelled = _step(machine, run)
    assert (cancelled["conclusion"], cancelled["attempts"][0]["outcome"]) == ("cancelled", "cancelled"), cancelled
    assert machine.show("slow.service", "ActiveState") == "activating"
    wait_until(lambda: not machine.run("pgrep", "--full", "systemctl start", check=False).stdout, "systemctl to end")

    slow = _step(machine, _begun(machine, name="slow.service", state="started", more="        timeout-minutes: 0.05\n"))
    assert (slow["conclusion"], slow["attempts"][0]["outcome"]) == ("timed-out", "timed-out"), slow
    assert "timed out after 3 s" in slow["reason"]["text"]
    assert machine.show("slow.service", "ActiveState") == "activating"

    run = _begun(machine, name="slow.service", state="started")
    wait_until(lambda: machine.run("pgrep", "--full", "systemctl start", check=False).stdout, "the step to wait")
    machine.run("touch", _GATE)
    waited = _step(machine, run)
    assert (waited["conclusion"], waited["outputs"]["active"]) == ("success", "active"), waited


def test_every_step_that_requests_a_slow_stop_waits_for_it(machine: Machine) -> None:
    """A step that requests the stop, or finds the unit already stopping, waits until the unit has stopped."""
    machine.root.write("/etc/systemd/system/slow.service", SLOW_TO_STOP)
    _ended(machine, name="slow.service", state="started", **{"daemon-reload": "true"})
    first = _begun(machine, name="slow.service", state="stopped")
    _is(machine, "slow.service", "deactivating")
    second = _begun(machine, name="slow.service", state="stopped")
    wait_until(
        lambda: len(machine.run("pgrep", "--full", "systemctl stop", check=False).stdout.split()) == 2, "both to wait"
    )
    machine.run("touch", _GATE)
    for run in (first, second):
        step = _step(machine, run)
        assert (step["conclusion"], step["outputs"]["active"]) == ("success", "inactive"), step


def test_a_slow_unit_start_survives_its_agent(machine: Machine) -> None:
    """After the agent is killed during the step and restarted, it has the one result of the one attempt."""
    machine.root.write("/etc/systemd/system/slow.service", SLOW_TO_START)
    run = _begun(machine, name="slow.service", state="started", enabled="true", **{"daemon-reload": "true"})
    _is(machine, "slow.service", "activating")
    before = machine.pid("waterflow-agent")
    machine.kill("waterflow-agent", "KILL")
    machine.run("touch", _GATE)
    _is(machine, "slow.service", "active")
    wait_until(lambda: machine.pid("waterflow-agent") not in (0, before), "the agent's next process")
    step = _step(machine, run)
    assert step["conclusion"] == "success", step
    assert step["outputs"] == {"changed": True, "active": "active", "sub-state": "exited", "enabled": "enabled"}
    assert len(step["attempts"]) == 1
    assert [line for line in machine.lines(run) if "slow.service:" in line] == [
        "slow.service: active (exited), changed"
    ]
