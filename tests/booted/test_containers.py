"""Jobs with containers on a packaged server: the units' sandbox, the Docker profile, and Docker as a service of systemd."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.language.job_containers import make_files
from tests.booted import conftest
from tests.booted.machine import Machine
from tests.booted.root import UNITS
from tests.chance import IS_FULL
from tests.integration.nodes.docker_engine import PROGRAMS
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

IMAGE = "waterflow-job-test:1"
WEB_IMAGE = f"{IMAGE}-web"
DATA = "/var/lib/waterflow-agent"
#: The engine sees neither the file system below the machine's nor a network outside of it.
_DOCKER = """[Service]
ExecStart=
ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock --storage-driver=vfs --iptables=false \
--ip-forward=false --bridge=none
"""
#: What runc does besides systemd-nspawn's own list: keys of the kernel, and rules for devices.
_CALLS = "--system-call-filter=add_key keyctl bpf"
_UNITS = ("docker.socket", "docker.service", "containerd.service")
_WEB = "mkdir -p /www; echo from-the-service > /www/index.html; exec httpd -f -p 8080 -h /www"
IN_CONTAINER = f"    container: {IMAGE}\n"
WITH_SERVICE = (
    f"{IN_CONTAINER}    services:\n      web:\n        image: {WEB_IMAGE}\n        ports: [8080]\n"
    "        options: --health-cmd 'wget -qO- http://127.0.0.1:8080/' --health-interval 1s\n"
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which Docker runs, with the profile as `docs/containers.md` installs it."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if not all(Path("/usr/lib/systemd/system", unit).exists() for unit in _UNITS):
        pytest.skip("Docker has no units for systemd here")
    with conftest.booted(tmp_path_factory.mktemp("machine"), _CALLS) as made:
        shutil.copytree(UNITS / "docker", made.root.inside("/etc"), dirs_exist_ok=True)
        made.root.write("/etc/systemd/system/docker.service.d/of-the-test.conf", _DOCKER)
        # Containers find services by name with its help.
        made.root.link("/etc/alternatives/iptables", os.path.realpath("/usr/sbin/iptables"))
        made.run("systemd-sysusers")
        made.systemctl("daemon-reload")
        if problem := _start_engine(made):
            pytest.skip(f"Docker does not run in a machine of systemd-nspawn here: {problem}")
        made.install()
        wait_until(lambda: _has_engine(made), "the agent to report the engine")
        yield made


def _start_engine(machine: Machine) -> str:
    """Starts the engine, makes the images, and tries a container that looks for itself by name. Returns what went wrong."""
    make_files(machine.root.inside("/srv/image.tar"))
    for command in (
        ("systemctl", "enable", "--now", *_UNITS),
        ("docker", "import", "--change", "CMD sleep 600", "/srv/image.tar", IMAGE),
        ("docker", "import", "--change", f"CMD {_WEB}", "/srv/image.tar", WEB_IMAGE),
        ("docker", "network", "create", "probe"),
        ("docker", "run", "--rm", "--network=probe", "--name=probe", IMAGE, "ping", "-c", "1", "-W", "60", "probe"),
        ("docker", "network", "rm", "probe"),
    ):
        done = machine.run(*command, check=False)
        if done.returncode:
            return done.stderr.strip()[-500:] or f"{' '.join(command)} ended with exit code {done.returncode}"
    return ""


def _has_engine(machine: Machine) -> bool:
    (row,) = machine.api("GET", "/v1/agents")["agents"]
    return row["docker"] is not None and row["docker"]["problem"] == ""


def workflow(steps: str, job: str = IN_CONTAINER) -> str:
    return f"jobs:\n  a:\n    runs-on: web\n{job}    steps:\n{steps}"


def left(machine: Machine) -> list[str]:
    """Returns the containers and networks of jobs."""
    chosen = ("--quiet", "--filter", "label=io.waterflow.job")
    found = [
        machine.run("docker", *command, *chosen, check=False).stdout for command in (("ps", "--all"), ("network", "ls"))
    ]
    return " ".join(found).split()


def files(machine: Machine, *conditions: str) -> list[str]:
    """Returns what scripts have written that is still on the server, wherever the agent has moved it."""
    # Something may be removed while it is being listed.
    found = machine.run("find", f"{DATA}/work", "-path", "*/of-*", *conditions, check=False)
    return found.stdout.splitlines()


def belong_to_steps(machine: Machine) -> bool:
    """Whether the server's user of steps owns all of these files, so that later steps can read and the agent remove them."""
    return files(machine, "!", "-user", "waterflow-step") == []


def remove_files(machine: Machine) -> None:
    """Has the agent remove what ended jobs have left, as it does once a minute, and when it starts."""
    machine.systemctl("restart", "waterflow-agent.service")
    wait_until(lambda: not files(machine), "the files of jobs to go")
    wait_until(machine.is_connected, "the agent to be connected")


def printed(machine: Machine, run: str, line: str) -> None:
    """Waits until the run has printed the line."""
    wait_until(lambda: line in machine.lines(run), f"{line!r} in the output of {run}")


WRITE = "mkdir -p of-container/deep && echo text > of-container/deep/file && chmod -R go-rwx of-container"
WRITE_TEMP = 'mkdir "$RUNNER_TEMP/of-temp" && echo temp > "$RUNNER_TEMP/of-temp/file"'
LONG = workflow(f"      - run: {WRITE}; {WRITE_TEMP}; echo ready; sleep 600\n")


def test_steps_run_in_the_container_and_reach_its_service(machine: Machine) -> None:
    """Neither PrivateTmp nor the other walls around steps hide their files from the engine; nothing is left of the job."""
    run = machine.start(
        workflow(
            f"      - id: one\n        run: |\n          {WRITE}\n"
            f"          {WRITE_TEMP}\n"
            '          echo "value=7" >> "$GITHUB_OUTPUT"\n'
            '          test -e /usr || echo "in the container as $(id -u)"\n'
            "          wget -qO- http://web:8080/\n"
            "      - env: {VALUE: '${{ steps.one.outputs.value }}'}\n"
            '        run: echo "$VALUE $(cat of-container/deep/file) $(cat "$RUNNER_TEMP/of-temp/file")"\n',
            WITH_SERVICE,
        )
    )

    found = machine.wait_for(run)

    assert found["conclusion"] == "success", f"{found['jobs']}: {machine.lines(run)}\n{machine.journal()}"
    for line in ("in the container as 0", "from-the-service", "7 text temp"):
        printed(machine, run, line)
    wait_until(lambda: not left(machine), "the containers to go")
    assert belong_to_steps(machine)
    remove_files(machine)


def test_nothing_is_left_of_a_job_that_is_cancelled(machine: Machine) -> None:
    """The script ends in its container, and its files, which root has written, can be removed."""
    run = machine.start(LONG)
    printed(machine, run, "ready")
    assert left(machine)
    assert not belong_to_steps(machine)

    machine.api("POST", f"/v1/runs/{run}/cancel")

    assert machine.wait_for(run)["conclusion"] == "cancelled"
    wait_until(lambda: not left(machine), "the containers to go")
    assert belong_to_steps(machine)
    remove_files(machine)


def test_a_killed_agent_finds_the_script_in_its_container_again(machine: Machine) -> None:
    """systemd starts the agent again; the script runs once, and the next step runs in the same container."""
    run = machine.start(
        workflow(
            "      - run: |\n          echo once >> count; hostname > of-host; echo ready\n"
            "          until test -e open; do sleep 0.1; done\n"
            '      - run: test "$(hostname)" = "$(cat of-host)" && echo "$(cat count) in the same container"\n'
        )
    )
    printed(machine, run, "ready")
    agent = machine.pid("waterflow-agent")

    machine.kill("waterflow-agent", "SIGKILL")
    wait_until(lambda: machine.pid("waterflow-agent") not in (0, agent), "systemd to start the agent again")
    wait_until(machine.is_connected, "the agent to be connected")
    (host,) = files(machine, "-name", "of-host")
    machine.root.inside(host).with_name("open").touch()

    found = machine.wait_for(run)
    assert found["conclusion"] == "success", f"{found['jobs']}: {machine.lines(run)}\n{machine.journal()}"
    printed(machine, run, "once in the same container")
    wait_until(lambda: not left(machine), "the containers to go")


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(["--force", "--force"], id="sudden"),
        pytest.param([], id="orderly", marks=pytest.mark.skipif(not IS_FULL, reason="part of `make nightly`")),
    ],
)
def test_a_reboot_leaves_no_containers_and_the_next_job_has_its_own(machine: Machine, way: list[str]) -> None:
    """The step is lost. The agent removes its container, which the engine still knows, after its files have changed hands."""
    run = machine.start(LONG)
    printed(machine, run, "ready")

    machine.reboot(*way)

    found = machine.wait_for(run)
    assert found["conclusion"] == "lost", f"{found['jobs']}: {machine.lines(run)}\n{machine.journal()}"
    wait_until(lambda: not left(machine), "the containers to go")
    assert belong_to_steps(machine)
    again = machine.start(workflow("      - run: echo again\n"))
    assert machine.wait_for(again)["conclusion"] == "success", f"{machine.lines(again)}\n{machine.journal()}"
    printed(machine, again, "again")
    wait_until(lambda: not left(machine), "the containers to go")
