"""The compose file works as docs/installation.md describes, on a real engine, with an imported Debian 13 as base."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine import PATIENCE_S, Engine
from tools import need

from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1800)]

REPOSITORY = Path(__file__).resolve().parents[2]
#: Packages that the images would download, and the base of all images.
INCLUDED = ("ca-certificates", "openssh-client", "docker-cli", "docker-compose")
BASE = "debian:13-slim"
#: A workflow with Docker nodes: the agent's image has all that they need, including `docker compose`.
CONTAINERS = """name: containers
jobs:
  a:
    runs-on: web-servers
    steps:
      - uses: file/write
        with:
          path: compose.yaml
          content: "services: {box: {image: 'debian:13-slim', command: [sleep, infinity], init: true}}\\n"
      - id: up
        uses: docker/compose-up
        with: {file: compose.yaml, project: box, wait: true}
      - run: echo ${{ steps.up.outputs.services[0].state }}
      - uses: docker/exec
        with: {container: box-box-1, run: echo inside}
      - uses: docker/compose-down
        with: {file: compose.yaml, project: box}
"""


@pytest.fixture
def engine(make_archive: Callable[..., Path]) -> Iterator[Engine]:
    """An engine that has only the base image."""
    need("dockerd", "docker", "containerd", "ip", "unshare", "nsenter", "curl")
    archive = make_archive("trixie", "containers", *INCLUDED)
    started = Engine()
    try:
        started.await_start()
        started.docker("import", str(archive), BASE)
        yield started
    finally:
        started.close()


@pytest.fixture
def checkout(packages: Path, tmp_path: Path) -> Path:
    """The files of a checkout from which the images are built, after `make deb`."""
    shutil.copytree(REPOSITORY / "packaging" / "docker", tmp_path / "packaging" / "docker")
    (tmp_path / "dist").mkdir()
    for file in packages.glob("*.deb"):
        shutil.copy(file, tmp_path / "dist")
    return tmp_path


def test_a_server_and_an_agent_are_one_command(engine: Engine, checkout: Path) -> None:
    """`up` starts a healthy, usable system, also again after `down`. Compose is run from the agent's image."""
    dockerfile = checkout / "packaging" / "docker" / "Dockerfile"
    engine.docker("build", f"--file={dockerfile}", "--target=agent", "--tag=waterflow-agent", str(checkout / "dist"))
    here = ["--volume", f"{engine.socket}:/var/run/docker.sock", "--volume", f"{checkout}:{checkout}"]
    here += ["--workdir", str(checkout), "--env", f"DOCKER_SOCKET={engine.socket}", "--user=root"]
    file = "--file=packaging/docker/compose.yaml"

    def compose(*arguments: str, stdin: str = "") -> str:
        done = engine.docker(
            "run", "--rm", "--interactive", *here, "--entrypoint=docker", "waterflow-agent", "compose", file, *arguments,
            stdin=stdin,
        )  # fmt: skip
        return done.stdout

    def ctl(*arguments: str, stdin: str = "") -> str:
        return compose("exec", "--no-TTY", "server", "waterflowctl", *arguments, stdin=stdin)

    def is_joined() -> bool:
        return (
            "1 of 1 connected"
            in engine.docker("exec", "waterflow-server-1", "waterflowctl", "status", check=False).stdout
        )

    compose("up", "--detach", "--build")
    assert engine.get("http://localhost:8080/health") == {"status": "ok"}
    published = engine.docker("port", "waterflow-server-1").stdout.split("\n")
    assert [line for line in published if line] == ["8080/tcp -> 127.0.0.1:8080"]
    wait_until(is_joined, "the agent", PATIENCE_S)
    compose("exec", "--no-TTY", "server", "sh", "-c", "cat >/tmp/containers.yml", stdin=CONTAINERS)
    ctl("run", "/tmp/containers.yml")
    printed = [line.partition("| ")[2] for line in ctl("logs", "containers").splitlines()]
    assert {"running", "inside"} <= set(printed), printed
    compose("down")
    compose("up", "--detach")
    wait_until(is_joined, "the same agent", PATIENCE_S)
    assert "containers" in ctl("runs")
