"""The services under a booted systemd: they start, their units confine them, and steps outlive them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import pytest

from tests.booted.long_step import LongStep
from tests.booted.machine import Machine
from tests.booted.root import PACKAGES, UNITS, copy_package
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

SERVICES = ("waterflowd", "waterflow-agent", "waterflow-runner")
#: Maximum exposure as `systemd-analyze security` measures it, in tenths.
EXPOSURE_MAX = 20
GREETING = "name: greeting\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo hello\n"


def _script(text: str) -> str:
    """Returns a workflow of one step."""
    lines = "".join(f"          {line}\n" for line in text.splitlines())
    return f"jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: |\n{lines}"


def _printed(machine: Machine, text: str) -> list[str]:
    """Returns what a step with this script prints; the step has to succeed."""
    run = machine.start(_script(text))
    found = machine.wait_for(run)
    assert found["conclusion"] == "success", f"{found['jobs']}: {machine.lines(run)}"
    return machine.lines(run)


# Start -----------------------------------------------------------------------------------------------------------------


def test_the_services_start_and_a_push_runs(machine: Machine) -> None:
    """The daemon reports readiness and has a watchdog, the agent joins by token, the runner is a separate unit."""
    assert [machine.show(unit, "ActiveState") for unit in SERVICES] == ["active"] * 3
    assert len({machine.pid(unit) for unit in SERVICES}) == 3
    assert machine.show("waterflowd", "Type") == "notify"
    assert machine.show("waterflowd", "WatchdogUSec") == "1min"
    assert int(machine.show("waterflowd", "WatchdogTimestampMonotonic")) > 0
    status = machine.run("waterflowctl", "status")
    assert "healthy" in status.stdout
    assert "web-1" in status.stdout

    machine.run("git", "clone", "--quiet", "/srv/ops.git", "/srv/clone")
    machine.root.write("/srv/clone/workflows/greeting.yml", GREETING)
    git = ("git", "-C", "/srv/clone", "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    machine.run(*git, "add", "--all")
    machine.run(*git, "commit", "--quiet", "--message=Greet")
    machine.run(*git, "push", "--quiet", "origin", "HEAD:main")
    runs = wait_until(machine.runs, "a run of the push")
    found = machine.wait_for(runs[0]["id"])
    assert found["conclusion"] == "success", f"{found['jobs']}\n{machine.journal()}"
    assert machine.lines(runs[0]["id"]) == ["hello"]


def test_services_start_again_after_a_reboot(machine: Machine) -> None:
    """Enabled units start at boot, and the agent no longer needs its token."""
    machine.run("rm", "/etc/waterflow/join-token")
    machine.reboot()
    wait_until(machine.is_connected, "the agent to be connected")
    assert _printed(machine, "echo again") == ["again"]


def test_a_daemon_that_was_started_without_a_configuration_can_read_one_later(bare_machine: Machine) -> None:
    """The configuration directory that systemd creates is readable by the daemon and by the agent."""
    bare_machine.run("systemd-sysusers")
    bare_machine.systemctl("start", "waterflowd.service")
    bare_machine.systemctl("stop", "waterflowd.service")
    bare_machine.install()
    assert "ops" in bare_machine.run("waterflowctl", "status").stdout


def test_an_invalid_configuration_is_not_retried(bare_machine: Machine) -> None:
    """Exit code 2 leaves the unit failed at its first start, with the reason in the journal."""
    bare_machine.run("systemd-sysusers")
    bare_machine.root.write("/etc/waterflow/waterflowd.toml", "data-dri = 1\n")
    assert bare_machine.run("systemctl", "start", "waterflowd.service", check=False).returncode == 1
    assert bare_machine.show("waterflowd", "ActiveState") == "failed"
    assert bare_machine.show("waterflowd", "ExecMainStatus") == "2"
    assert bare_machine.show("waterflowd", "NRestarts") == "0"
    assert 'did you mean "data-dir"?' in bare_machine.journal()


# Confinement -----------------------------------------------------------------------------------------------------------


def test_systemd_reports_no_problem_and_low_exposure(shared_machine: Machine) -> None:
    """`systemd-analyze verify` reports nothing, and `security` rates each running service 2.0 at most."""
    paths = [f"/etc/systemd/system/{unit}.service" for unit in SERVICES]
    verified = shared_machine.run("systemd-analyze", "verify", "--man=no", *paths, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    for unit in SERVICES:
        judged = shared_machine.run(
            "systemd-analyze", "security", "--no-pager", f"--threshold={EXPOSURE_MAX}", f"{unit}.service", check=False
        )
        assert judged.returncode == 0, judged.stdout


def test_a_step_of_the_unprivileged_profile_is_confined(shared_machine: Machine) -> None:
    """It has its own user and control group, gains no privileges, reads no secrets, and writes only in its directory."""
    printed = _printed(
        shared_machine,
        """id --user --name
grep -o 'NoNewPrivs:.*' /proc/self/status | tr '\t' ' '
cat /etc/shadow 2>/dev/null || echo no shadow
touch /etc/of-a-step /usr/of-a-step 2>/dev/null || echo no writing
ls /var/lib/waterflow 2>/dev/null || echo no log
unshare --user true 2>/dev/null || echo no namespaces
sed -n 's/^0:://p' /proc/self/cgroup
touch mine && echo written""",
    )
    group = printed.pop(-2)
    denied = ["no shadow", "no writing", "no log", "no namespaces"]
    assert printed == ["waterflow-step", "NoNewPrivs: 1", *denied, "written"]
    assert re.fullmatch(r"/system\.slice/waterflow-runner\.service/waterflow-\w+/step-\d+", group)


def test_a_step_of_the_privileged_profile_is_root(bare_machine: Machine) -> None:
    """With both drop-ins a step may read the shadow file, write to /etc and use systemctl; the agent itself may not."""
    for name in ("waterflow-agent.service.d", "waterflow-runner.service.d"):
        target = bare_machine.root.inside(f"/etc/systemd/system/{name}")
        shutil.copytree(UNITS / "privileged" / name, target, dirs_exist_ok=True)
    bare_machine.systemctl("daemon-reload")
    bare_machine.install()
    printed = _printed(
        bare_machine,
        """id --user
grep -c ^root: /etc/shadow
echo done > /etc/of-a-step && cat /etc/of-a-step
systemctl is-active waterflow-agent.service
mount -t tmpfs none /mnt 2>/dev/null || mkdir -p /run/of-a-step && echo mounted""",
    )
    assert printed == ["0", "1", "done", "active", "mounted"]
    status = bare_machine.run("cat", f"/proc/{bare_machine.pid('waterflow-agent')}/status").stdout
    assert "NoNewPrivs:\t1" in status


# Steps that outlive services -------------------------------------------------------------------------------------------


def _restart_agent(machine: Machine) -> None:
    before = machine.pid("waterflow-agent")
    machine.systemctl("restart", "waterflow-agent.service")
    assert machine.pid("waterflow-agent") not in (0, before)


def _kill_agent(machine: Machine) -> None:
    before = machine.pid("waterflow-agent")
    machine.kill("waterflow-agent", "SIGKILL")
    wait_until(lambda: machine.pid("waterflow-agent") not in (0, before), "systemd to restart the agent")


def _restart_daemon(machine: Machine) -> None:
    before = machine.pid("waterflowd")
    machine.systemctl("restart", "waterflowd.service")
    assert machine.pid("waterflowd") not in (0, before)


def _kill_daemon(machine: Machine) -> None:
    before = machine.pid("waterflowd")
    machine.kill("waterflowd", "SIGKILL")
    wait_until(lambda: machine.pid("waterflowd") not in (0, before), "systemd to restart the daemon")


def _restart_both(machine: Machine) -> None:
    machine.systemctl("stop", "waterflow-agent.service", "waterflowd.service")
    machine.systemctl("start", "waterflow-agent.service")
    machine.systemctl("start", "waterflowd.service")


@pytest.mark.parametrize("happens", [_restart_agent, _kill_agent, _restart_daemon, _kill_daemon, _restart_both])
def test_a_step_survives_every_restart_of_the_services(
    shared_machine: Machine, happens: Callable[[Machine], None]
) -> None:
    """The step's process, output and result are not affected, and the runner stays the same throughout."""
    machine = shared_machine
    runner = machine.pid("waterflow-runner")
    step = LongStep(machine)
    happens(machine)
    wait_until(machine.is_connected, "the agent to be connected")
    step.judge()
    assert machine.pid("waterflow-runner") == runner


def test_systemd_restarts_a_daemon_that_hangs(machine: Machine) -> None:
    """A daemon that does not feed its watchdog is killed and started again, and the run continues."""
    machine.change("waterflowd", "WatchdogSec=5s")
    machine.systemctl("restart", "waterflowd.service")
    wait_until(machine.is_connected, "the agent to be connected")
    step = LongStep(machine)
    hanging = machine.pid("waterflowd")
    machine.kill("waterflowd", "SIGSTOP")
    wait_until(lambda: machine.pid("waterflowd") not in (0, hanging), "systemd to start another one")
    assert "Watchdog timeout" in machine.run("journalctl", "--unit=waterflowd.service", "--no-pager").stdout
    wait_until(machine.is_connected, "the agent to be connected")
    step.judge()


def test_an_agent_upgrade_keeps_running_steps_and_replaces_an_idle_runner(machine: Machine) -> None:
    """After new files are installed, the step continues under the old runner, which is replaced when idle."""
    runner = machine.pid("waterflow-runner")
    step = LongStep(machine)
    machine.systemctl("stop", "waterflow-agent.service")
    installed = machine.root.packages / "waterflow_agent"
    shutil.rmtree(installed)
    copy_package(PACKAGES["waterflow_agent"], installed)
    code = (installed / "__init__.py").read_text()
    (installed / "__init__.py").write_text(re.sub(r'__version__ = "[^"]+"', '__version__ = "99.0.0"', code))
    machine.systemctl("start", "waterflow-agent.service")
    wait_until(machine.is_connected, "the agent to be connected")
    assert machine.pid("waterflow-runner") == runner
    step.judge()
    wait_until(lambda: machine.pid("waterflow-runner") not in (0, runner), "another runner")
    assert _printed(machine, "echo upgraded") == ["upgraded"]


def _kill_runner(machine: Machine) -> None:
    machine.kill("waterflow-runner", "SIGKILL")


def _restart_runner(machine: Machine) -> None:
    machine.systemctl("restart", "waterflow-runner.service")


@pytest.mark.parametrize("happens", [_kill_runner, _restart_runner])
def test_a_stopped_runner_is_restarted_and_its_step_is_lost(
    shared_machine: Machine, happens: Callable[[Machine], None]
) -> None:
    """The step's outcome can no longer be known, so the step is ended; the new runner executes the next one."""
    machine = shared_machine
    runner = machine.pid("waterflow-runner")
    step = LongStep(machine)
    happens(machine)
    step.judge_lost()
    assert machine.pid("waterflow-runner") not in (0, runner)
    assert _printed(machine, "echo next") == ["next"]


@pytest.mark.parametrize("way", [[], ["--force", "--force"]], ids=["orderly", "sudden"])
def test_a_reboot_makes_running_attempts_lost_at_once(shared_machine: Machine, way: list[str]) -> None:
    """The attempt is `lost` as soon as the agent is back, long before `lost-after`, and a new run works.

    A container shares the kernel of its host, and a service with its own /proc (ProtectProc=) sees the kernel's boot id
    there, which such a reboot does not change. So here it is the runner that finds its step gone; that a new boot id
    has the same effect is tested in `tests/simulation` and `tests/unit/host/test_agents.py`.
    """
    machine = shared_machine
    step = LongStep(machine)
    machine.reboot(*way)
    step.judge_lost()
    assert _printed(machine, "echo next") == ["next"]
