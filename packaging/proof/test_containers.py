"""Containers work as docs/containers.md describes, from a checkout, on a real engine, with an imported Debian 13 as base."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine import PATIENCE_S, Engine
from tools import REPOSITORY, need, once

from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1800)]

#: Packages that the images would download, and the base of all images.
INCLUDED = ("ca-certificates", "openssh-client", "docker-cli", "docker-compose", "python3", "python3-venv", "tini")
BASE = "debian:13.1-slim"
#: Where the base has the libraries that the images would download.
WHEELS = "/usr/local/share/wheels"
PYTHON = "3.13"
#: A workflow with Docker nodes: the agent's image has all that they need, including `docker compose`.
CONTAINERS = f"""name: containers
jobs:
  a:
    runs-on: web-servers
    steps:
      - run: echo "user $(id -u), $(grep NoNewPrivs /proc/self/status)"
      - uses: file/write
        with:
          path: compose.yaml
          content: "services: {{box: {{image: '{BASE}', command: [sleep, infinity], init: true}}}}\\n"
      - id: up
        uses: docker/compose-up
        with: {{file: compose.yaml, project: box, wait: true}}
      - run: echo ${{{{ steps.up.outputs.services[0].state }}}}
      - uses: docker/exec
        with: {{container: box-box-1, run: echo inside}}
      - uses: docker/compose-down
        with: {{file: compose.yaml, project: box}}
"""


@pytest.fixture(scope="module")
def base(make_archive: Callable[..., Path], workshop: Path) -> tuple[Path, Path]:
    """An archive of Debian 13, and a folder with the wheels of all libraries for its Python."""
    need("dockerd", "docker", "containerd", "ip", "unshare", "nsenter", "curl", "git")
    lock = str(REPOSITORY / "requirements" / "runtime.txt")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--quiet", "--require-hashes", "--requirement", lock]
    command += ["--python-version", PYTHON, "--only-binary=:all:", "--dest"]
    return make_archive("trixie", "containers", *INCLUDED), once(workshop, f"wheels-{PYTHON}", command)


@pytest.fixture
def engine(base: tuple[Path, Path], tmp_path: Path) -> Iterator[Engine]:
    """An engine that has only the base image."""
    archive, wheels = base
    started = Engine()
    try:
        started.await_start()
        started.docker("import", str(archive), "plain")
        (tmp_path / "Dockerfile").write_text(f"FROM plain\nCOPY . {WHEELS}\n")
        started.docker("build", f"--file={tmp_path}/Dockerfile", f"--tag={BASE}", str(wheels))
        yield started
    finally:
        started.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of this repository, with its uncommitted changes."""
    copy = tmp_path / "checkout"
    git = ["git", "-C", str(copy), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, copy / name)
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        ["commit", "--quiet", "-m", "First"],
    ):
        subprocess.run([*git, *arguments], check=True)
    return copy


class Project:
    """The compose file of a checkout. Compose is run from the agent's image."""

    def __init__(self, engine: Engine, checkout: Path) -> None:
        self._engine = engine
        self._checkout = checkout
        #: What is set in the environment of `docker compose`.
        self.environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS}

    def build_agent(self) -> None:
        """Builds the agent's image as its Dockerfile says."""
        arguments = [f"--build-arg={name}={value}" for name, value in self.environment.items()]
        arguments += ["--file", str(self._checkout / "packaging/docker/Dockerfile"), "--target=agent"]
        self._engine.docker("build", *arguments, "--tag=waterflow/agent", str(self._checkout))

    def compose(self, *arguments: str) -> str:
        """Runs `docker compose` in the checkout."""
        here = [
            "--volume",
            f"{self._engine.socket}:/var/run/docker.sock",
            "--volume",
            f"{self._checkout}:{self._checkout}",
        ]
        here += ["--workdir", str(self._checkout), "--user=root"]
        here += [f"--env={name}={value}" for name, value in self.environment.items()]
        done = self._engine.docker(
            "run", "--rm", *here, "--entrypoint=docker", "waterflow/agent", "compose", *arguments
        )
        return done.stdout

    def ctl(self, *arguments: str, check: bool = True) -> str:
        """Runs `waterflowctl` in the daemon's container."""
        return self._engine.docker("exec", "waterflow-server-1", "waterflowctl", *arguments, check=check).stdout

    def connected(self) -> set[str]:
        """The names of the connected agents."""
        try:
            rows = json.loads(self.ctl("agents", "--json", check=False))
        except ValueError:
            return set()
        return {row["name"] for row in rows if row["status"] == "connected"}

    def health(self, container: str) -> str:
        """The state of the container's health check."""
        return self._engine.docker("inspect", "--format={{.State.Health.Status}}", container).stdout.strip()


def test_a_server_and_agents_are_one_command(engine: Engine, checkout: Path) -> None:
    """`up` starts a healthy, usable system, also with three agents, and the same agents again after `down`."""
    project = Project(engine, checkout)
    project.build_agent()
    project.compose("up", "--detach")
    assert engine.get("http://localhost:8080/health") == {"status": "ok"}
    published = engine.docker("port", "waterflow-server-1").stdout.split("\n")
    assert {line.rpartition(" ")[2] for line in published if line} >= {"127.0.0.1:8080", "0.0.0.0:7233", "0.0.0.0:7234"}
    wait_until(lambda: project.connected() == {"agent-1"}, "the agent", PATIENCE_S)
    wait_until(lambda: project.health("waterflow-agent-1") == "healthy", "the agent's health check", PATIENCE_S)
    assert "hello" in project.ctl("workflows")
    project.ctl("run", "hello")
    assert "Hello from agent-1" in project.ctl("logs", "hello")

    project.environment["DOCKER_SOCKET"] = str(engine.socket)
    project.compose("up", "--detach", "--scale", "agent=3")
    three = {"agent-1", "agent-2", "agent-3"}
    wait_until(lambda: project.connected() == three, "three agents", PATIENCE_S)
    _steps_use_the_engine_without_root(engine, project)

    project.compose("down")
    project.compose("up", "--detach", "--scale", "agent=3")
    wait_until(lambda: project.connected() == three, "the same agents", PATIENCE_S)
    assert len(json.loads(project.ctl("agents", "--json"))) == 3
    assert "hello" in project.ctl("runs")

    _an_agent_is_one_command(engine, project)
    for image in ("waterflow/server", "waterflow/agent"):
        _image_is_in_order(engine, image)


def _steps_use_the_engine_without_root(engine: Engine, project: Project) -> None:
    file = "/tmp/containers.yml"
    engine.docker("exec", "--interactive", "waterflow-server-1", "sh", "-c", f"cat >{file}", stdin=CONTAINERS)
    project.ctl("run", file)
    printed = [line.partition("| ")[2] for line in project.ctl("logs", "containers").splitlines()]
    assert {"user 981, NoNewPrivs:\t1", "running", "inside"} <= set(printed), printed


def _an_agent_is_one_command(engine: Engine, project: Project) -> None:
    """`docker run` with three variables; WATERFLOW_SERVER overrides the address in the token."""
    created = project.ctl("agents", "tokens", "create", "--group", "web-servers", "--address", "nowhere.example")
    environment = {
        "WATERFLOW_SERVER": "server",
        "SERVER_GROUP": "web-servers",
        "WATERFLOW_JOIN_TOKEN": created.splitlines()[-1],
    }
    engine.docker(
        "run", "--detach", "--name=single", "--hostname=single", "--network=waterflow_default",
        *(f"--env={name}={value}" for name, value in environment.items()),
        "--volume", f"{engine.socket}:/var/run/docker.sock", "waterflow/agent",
    )  # fmt: skip
    wait_until(lambda: "single" in project.connected(), "the agent to join", PATIENCE_S)
    assert "cannot use" not in engine.docker("logs", "single").stderr
    # Where the container may not take the group, it says what to do.
    denied = engine.docker(
        "run", "--rm", "--security-opt=no-new-privileges", "--volume", f"{engine.socket}:/var/run/docker.sock",
        "waterflow/agent", "version",
    )  # fmt: skip
    assert f"--group-add {engine.socket.stat().st_gid}" in denied.stderr


def _image_is_in_order(engine: Engine, image: str) -> None:
    """It is not root's, has a health check, and lists what it contains."""
    config = json.loads(engine.docker("inspect", image).stdout)[0]["Config"]
    assert config["User"] not in ("", "root", "0")
    assert config["Healthcheck"]["Test"]
    name = "waterflow" if image.endswith("server") else "waterflow-agent"
    text = engine.docker(
        "run", "--rm", "--entrypoint=cat", image, "/usr/share/doc/waterflow/sbom.cdx.json"
    ).stdout  # fmt: skip
    bill = json.loads(text)
    listed = {component["name"] for component in bill["components"]}
    assert bill["metadata"]["component"]["name"] == name
    assert {"msgspec", "pyzmq", "python3.13-minimal", "openssl"} & listed >= {"msgspec", "pyzmq", "python3.13-minimal"}
    found = engine.docker(
        "run", "--rm", "--entrypoint=/usr/lib/waterflow/bin/python3", image, "-c",
        "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))",
    ).stdout  # fmt: skip
    assert {word.replace("_", "-") for word in found.split()} <= listed
