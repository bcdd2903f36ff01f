"""The units: systemd accepts them, and they match the programs that they start."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

import waterflow_agent.cli
import waterflow_agent.config
import waterflowd.app.cli
import waterflowd.app.config
from tests.patience import PATIENCE_S
from waterflow_agent.runner import users
from waterflow_agent.runner.__main__ import Options

UNITS = Path(__file__).parents[3] / "systemd"
NAMES = ["waterflowd.service", "waterflow-agent.service", "waterflow-runner.service"]
#: Exposure as `systemd-analyze security` reports it, in tenths. The runner's includes the right to change users.
EXPOSURE_MAX = {"waterflowd.service": 14, "waterflow-agent.service": 14, "waterflow-runner.service": 18}

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def _settings(path: Path) -> dict[str, list[str]]:
    """Returns all assignments of a unit, in order; sections are ignored, since no key occurs in two of them."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text("utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def _copy(folder: Path) -> Path:
    """Copies the units, with stand-ins for programs that are not installed here."""
    for name in NAMES:
        text = (UNITS / name).read_text("utf-8")
        (folder / name).write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    return folder


def _analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@needs_analyze
@pytest.mark.parametrize(
    "profile", ["", "privileged", "docker/systemd/system"], ids=["as shipped", "privileged", "docker"]
)
def test_systemd_reports_no_problem(tmp_path: Path, profile: str) -> None:
    """No misspelt directive and no contradiction, including the drop-ins of the profiles."""
    folder = _copy(tmp_path)
    if profile:
        shutil.copytree(UNITS / profile, folder, dirs_exist_ok=True)
    checked = _analyze("verify", *(f"./{name}" for name in NAMES), folder=folder)
    assert (checked.returncode, checked.stderr) == (0, "")


@needs_analyze
def test_a_misspelt_directive_is_found(tmp_path: Path) -> None:
    """The check above detects misspelt directives."""
    unit = _copy(tmp_path) / "waterflowd.service"
    unit.write_text(unit.read_text().replace("PrivateTmp=", "PrivatTmp="))
    assert "PrivatTmp" in _analyze("verify", "./waterflowd.service", folder=tmp_path).stderr


@needs_analyze
@pytest.mark.parametrize("name", NAMES)
def test_each_unit_has_low_exposure(tmp_path: Path, name: str) -> None:
    """This holds for the daemon, the agent, and the steps of the unprivileged profile."""
    if "--threshold" not in _analyze("--help", folder=tmp_path).stdout:
        pytest.skip("this systemd-analyze cannot judge units offline")
    _copy(tmp_path)
    judged = _analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX[name]}", f"./{name}", folder=tmp_path)
    assert judged.returncode == 0, judged.stdout


@pytest.mark.parametrize(
    ("name", "program", "commands"),
    [
        ("waterflowd.service", "waterflowd", waterflowd.app.cli.main.commands),
        ("waterflow-agent.service", "waterflow-agent", waterflow_agent.cli.main.commands),
    ],
)
def test_a_unit_starts_a_command_that_exists(name: str, program: str, commands: dict[str, object]) -> None:
    """The program's name is that of the installed script."""
    path, command = _settings(UNITS / name)["ExecStart"][0].split()
    assert Path(path).name == program
    assert command in commands


def test_the_runner_is_started_where_the_agent_looks_for_it() -> None:
    """The directory is `runner` in the agent's data directory; the service manager controls the runner's life."""
    runner, agent = _settings(UNITS / "waterflow-runner.service"), _settings(UNITS / "waterflow-agent.service")
    arguments = runner["ExecStart"][0].split("waterflow_agent.runner ")[1].split()
    assert Options(arguments).data_directory == f"{waterflow_agent.config.Config().data_dir}/runner"
    assert (runner["StateDirectory"], runner["StateDirectoryMode"]) == (["waterflow-agent"], ["0711"])
    assert (runner["StateDirectory"], runner["StateDirectoryMode"]) == (
        agent["StateDirectory"],
        agent["StateDirectoryMode"],
    )
    assert runner["User"] == agent["User"] == [Options(arguments).user]
    assert Options(arguments).users_from == str(waterflow_agent.config.DEFAULT_FILE)
    environment = dict(item.split("=", 1) for item in agent["Environment"])
    assert waterflow_agent.config.load(environment=environment).runner == "service"


def test_stopping_the_runner_unit_does_not_stop_steps() -> None:
    """A stop is a signal to the runner alone, no other unit stops it, and only the groups below its own can be written."""
    runner = _settings(UNITS / "waterflow-runner.service")
    assert (runner["KillMode"], runner["Delegate"], runner["OOMPolicy"]) == (["mixed"], ["yes"], ["continue"])
    assert runner["ProtectControlGroups"] == ["yes"]
    assert "-/sys/fs/cgroup/system.slice/waterflow-runner.service" in runner["ReadWritePaths"]
    assert not runner.keys() & {"PartOf", "BindsTo", "Requires"}
    assert "Requires" not in _settings(UNITS / "waterflow-agent.service")


def test_the_directories_are_the_defaults_of_the_configuration() -> None:
    """Without a configuration file the daemon uses what its unit has created."""
    daemon, config = _settings(UNITS / "waterflowd.service"), waterflowd.app.config.Config()
    assert config.data_dir == f"/var/lib/{daemon['StateDirectory'][0]}"
    assert config.api.socket.startswith(f"/run/{daemon['RuntimeDirectory'][0]}/")
    agent = _settings(UNITS / "waterflow-agent.service")
    assert waterflow_agent.config.Config().data_dir == f"/var/lib/{agent['StateDirectory'][0]}"


@pytest.mark.parametrize("name", NAMES)
def test_the_units_permit_what_the_programs_need(name: str) -> None:
    """ZeroMQ needs netlink and resource limits, the clock needs the boot id; only the daemon feeds a watchdog."""
    unit = _settings(UNITS / name)
    assert "AF_NETLINK" in unit["RestrictAddressFamilies"][0].split()
    denied = " ".join(value for value in unit["SystemCallFilter"] if value.startswith("~"))
    assert "@resources" not in denied
    assert "ProcSubset" not in unit
    assert ("WatchdogSec" in unit) is (name == "waterflowd.service")


def test_a_unit_is_notified_when_its_program_is_ready() -> None:
    """The daemon and the runner notify systemd; the agent may wait for an approval and does not."""
    assert [_settings(UNITS / name)["Type"] for name in NAMES] == [["notify"], ["exec"], ["notify"]]


def test_the_privileged_profile_lifts_the_restrictions_of_the_units() -> None:
    """A new restriction in the runner's unit must be lifted in the profile, or be kept on purpose."""
    stays = {
        "UMask",
        "LimitNOFILE",
        "LimitCORE",
        "AmbientCapabilities",
        "SystemCallErrorNumber",
    }
    unit = _settings(UNITS / "waterflow-runner.service")
    taken_back = _settings(UNITS / "privileged" / "waterflow-runner.service.d" / "privileged.conf")
    denials = {
        key for key in unit if re.match("(Protect|Private|Restrict|Lock|Memory|NoNew|Cap|SystemCall|Remove)", key)
    }
    denials -= {"RestartPreventExitStatus"}
    assert denials - stays == taken_back.keys() - {"Environment"}


def test_every_user_of_a_unit_is_created() -> None:
    """The file for systemd-sysusers names all of them."""
    text = (UNITS / "sysusers.d" / "waterflow.conf").read_text("utf-8")
    made = set(re.findall(r"^u +(\S+)", text, re.MULTILINE))
    assert made == {*(user for name in NAMES for user in _settings(UNITS / name)["User"]), users.DEFAULT_USER}
