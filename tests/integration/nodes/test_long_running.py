"""Every long-running node through a complete agent: cancelled, timed out, and with an agent that dies meanwhile."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import living
from tests.integration.agent.test_agent import Bench, bench, eventually
from tests.integration.nodes.image_registry import Registry, registry
from tests.integration.nodes.test_compose import plugins
from tests.integration.nodes.test_docker import IMAGE, engine
from tests.integration.transfer.transfer_harness import Request, Server, served
from tests.patience import PATIENCE_S
from waterflow_agent.attempts import Outcome
from waterflow_agent.wire.messages import Finished, Task

__all__ = ["bench", "engine", "plugins"]

#: Ends when a test opens the gate.
WAITS = "until cat /gate/open; do sleep 1; done"
#: The same, but it prints that it was asked to stop, and ignores that.
STAYS = f"trap 'echo asked' TERM; {WAITS}"
COMPOSE = f"""services:
  web:
    image: {IMAGE}
    command: [sleep, "600"]
    init: true
    network_mode: none
    volumes: ["{{gate}}:/gate:ro"]
    healthcheck: {{{{test: [CMD, cat, /gate/open], interval: 1s, timeout: 10s, retries: 600}}}}
"""
#: A service that prints that it was asked to stop, with a grace period longer than any test.
SLOW_TO_END = f"""services:
  web:
    image: {IMAGE}
    command: [sh, -c, "{STAYS}"]
    environment: {{{{TOKEN: "${{{{TOKEN:?}}}}"}}}}
    network_mode: none
    stop_grace_period: 1h
    volumes: ["{{gate}}:/gate:ro"]
"""
SECRET = "hunter2-of-a-step"


class Lasting:
    """A running node: its parameters, how to detect that it is at work, and how to let it finish."""

    def __init__(
        self,
        node: str,
        params: dict[str, object],
        *,
        is_begun: Callable[[], object],
        go_on: Callable[[], object],
        has_ended: Callable[[], object] = lambda: True,
        env: dict[str, str] | None = None,
    ) -> None:
        self.node = node
        self.params = params
        self.env = {**(env or {}), "TOKEN": SECRET}
        self.is_begun = is_begun
        self.go_on = go_on
        #: Whether nothing of the node is still running, however it ended.
        self.has_ended = has_ended

    def task(self, bench: Bench, **fields: object) -> Task:
        """Returns the task of the node, in a step that has a secret."""
        more = {"params": self.params, "env": self.env, "secrets": [SECRET], **fields}
        return bench.daemon.task(1, node=self.node, **more)


# What the nodes wait for ----------------------------------------------------------------------------------------------


@pytest.fixture
def standing() -> Iterator[tuple[Server, threading.Event]]:
    """A server that answers once the event is set; `/ready` answers at once, with 503 until then."""
    event = threading.Event()

    def answer(request: Request) -> None:
        if request.path == "/ready":
            request.reply(200 if event.is_set() else 503, b"{}")
        elif event.wait(PATIENCE_S):
            request.reply(200, b"{}")

    with served(answer) as server:
        yield server, event
        event.set()


@pytest.fixture(params=["http/request", "http/wait", "notify/webhook", "file/transfer", "script"])
def lasting(request: pytest.FixtureRequest, standing: tuple[Server, threading.Event], tmp_path: Path) -> Lasting:
    """A node that waits for a server or for a file."""
    server, event = standing
    gate, begun = tmp_path / "open", tmp_path / "begun"
    values: dict[str, dict[str, object]] = {
        "http/request": {"url": server.url},
        "http/wait": {"url": f"{server.url}/ready", "interval": "50ms"},
        "notify/webhook": {"url": server.url, "message": "hello"},
        "file/transfer": {"source": f"{server.url}/a", "destination": str(tmp_path / "a")},
        "script": {"content": f"touch {begun}; until [ -e {gate} ]; do sleep 0.05; done", "interpreter": "sh"},
    }
    if request.param == "script":
        return Lasting("script", values["script"], is_begun=begun.exists, go_on=gate.touch)
    return Lasting(request.param, values[request.param], is_begun=lambda: server.seen, go_on=event.set)


class Containers:
    """The containers of one test on an engine."""

    def __init__(self, engine: str, plugins: str, folder: Path, registry: Registry) -> None:
        self.env = {"DOCKER_HOST": engine, "DOCKER_CONFIG": plugins, "HOME": str(folder), "TOKEN": SECRET}
        self.registry = registry
        self.gate = folder / "gate"
        self.gate.mkdir()
        self.folder = folder

    def docker(self, *arguments: str) -> str:
        env = os.environ | self.env
        return subprocess.run(["docker", *arguments], env=env, capture_output=True, text=True, check=False).stdout

    def begin(self, *command: str) -> None:
        """Starts a container `box` in the background."""
        options = ("--detach", "--name", "box", "--network", "none", "--volume", f"{self.gate}:/gate:ro")
        assert self.docker("run", *options, IMAGE, *command)

    def lasting(self, node: str) -> Lasting:
        """Returns a docker node that is at work."""
        return Lasting(
            node,
            self._params(node),
            is_begun=lambda: self._is_begun(node),
            go_on=self.registry.go_on.set if node == "docker/pull" else (self.gate / "open").touch,
            has_ended=lambda: self._has_ended(node),
            env=self.env,
        )

    def _params(self, node: str) -> dict[str, object]:
        if node == "docker/run":
            volumes = [f"{self.gate}:/gate:ro"]
            return {
                "image": IMAGE,
                "name": "box",
                "command": ["sh", "-c", WAITS],
                "network": "none",
                "volumes": volumes,
            }
        if node == "docker/exec":
            self.begin("sleep", "600")
            return {"container": "box", "run": f'sh -c "echo begun > /begun; {WAITS}"'}
        if node == "docker/stop":
            self.begin("sh", "-c", STAYS)
            return {"container": "box", "grace": "100s"}
        if node == "docker/pull":
            return {"image": self.registry.image}
        file = self.folder / "compose.yml"
        file.write_text((COMPOSE if node == "docker/compose-up" else SLOW_TO_END).format(gate=self.gate))
        if node == "docker/compose-down":
            self.docker("compose", "--file", str(file), "--project-name", "long", "up", "--detach")
            assert self.docker("ps", "--quiet")
        return {"file": str(file), "project": "long"}

    def _is_begun(self, node: str) -> bool:
        if node == "docker/exec":
            return "begun" in self.docker("exec", "box", "cat", "/begun")
        if node == "docker/stop":
            return "asked" in self.docker("logs", "box")
        if node == "docker/compose-down":
            return "asked" in self.docker("logs", "long-web-1")
        if node == "docker/pull":
            return self.registry.is_half.is_set()
        return bool(self.docker("ps", "--quiet"))

    def _has_ended(self, node: str) -> bool:
        if node == "docker/run":
            return not self.docker("ps", "--all", "--quiet")
        if node == "docker/compose-down":
            # A container that was asked to stop keeps running; the engine waits for it.
            (self.gate / "open").touch()
            return not self.docker("ps", "--quiet")
        if node == "docker/pull":
            registry = self.registry
            is_asked = registry.is_half.is_set() and not registry.go_on.is_set() and not registry.is_left.is_set()
            return not is_asked
        return True

    def clear(self) -> None:
        """Removes all containers, and the image."""
        found = self.docker("ps", "--all", "--quiet").split()
        if found:
            self.docker("rm", "--force", "--volumes", *found)
        self.docker("rmi", "--force", self.registry.image)


CONTAINED = ("docker/run", "docker/exec", "docker/stop", "docker/pull", "docker/compose-up", "docker/compose-down")


@pytest.fixture(params=CONTAINED)
def contained(request: pytest.FixtureRequest, engine: str, plugins: str, tmp_path: Path) -> Iterator[Lasting]:
    """A docker node that waits for a container or for a registry."""
    with registry() as images:
        containers = Containers(engine, plugins, tmp_path, images)
        yield containers.lasting(request.param)
        containers.clear()


# Outcomes -------------------------------------------------------------------------------------------------------------


async def _cancelled(bench: Bench, node: Lasting) -> None:
    await bench.start()
    task = node.task(bench)
    bench.daemon.offer(task)
    await eventually(node.is_begun)
    bench.daemon.cancel(task.key)
    finished = await _judged(bench, node, task)
    assert (finished.outcome, finished.reason_code) == (Outcome.CANCELLED, "cancel-requested")
    assert finished.reason_text == "cancelled: cancelled by a test"


async def _too_slow(bench: Bench, node: Lasting) -> None:
    await bench.start()
    task = node.task(bench, timeout_ms=2_000)
    bench.daemon.offer(task)
    finished = await _judged(bench, node, task)
    assert (finished.outcome, finished.reason_code) == (Outcome.TIMED_OUT, "timeout")
    assert finished.reason_text == "timed out after 2 s"


async def _restarted(bench: Bench, node: Lasting) -> None:
    await bench.start_process()
    task = node.task(bench)
    bench.daemon.offer(task)
    await eventually(node.is_begun)
    await bench.kill()
    node.go_on()
    await bench.start_process()
    finished = await _judged(bench, node, task)
    assert finished.outcome is Outcome.SUCCESS, finished


async def _judged(bench: Bench, node: Lasting, task: Task) -> Finished:
    """Returns its result after checks: it arrives once, nothing remains, and the secret has leaked nowhere."""
    output = await bench.daemon.output(task.key)
    finished = await bench.daemon.result(task.key)
    await eventually(node.has_ended)
    await eventually(lambda: not list((bench.data_dir / "runner/attempts").glob(f"{task.key.attempt.run}*")))
    # A duplicate would have arrived before the result of a later step.
    await bench.daemon.run(bench.daemon.task(2, node="log", params={"message": "later"}))
    assert [one.key for one in bench.daemon.finished].count(task.key) == 1
    assert SECRET.encode() not in output + repr(finished).encode()
    assert living.holding(bench.data_dir, SECRET.encode()) == []
    return finished


@pytest.mark.parametrize("fate", [_cancelled, _too_slow, _restarted])
async def test_a_node_that_waits_for_a_server_can_be_stopped_and_survives_its_agent(
    bench: Bench, lasting: Lasting, fate: Callable[[Bench, Lasting], object]
) -> None:
    """A cancel or a timeout ends the node; without its agent it continues, and the next agent reports its result."""
    await fate(bench, lasting)  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("fate", [_cancelled, _too_slow, _restarted])
async def test_a_node_that_waits_for_a_container_can_be_stopped_and_survives_its_agent(
    bench: Bench, contained: Lasting, fate: Callable[[Bench, Lasting], object]
) -> None:
    """The same applies to the Docker nodes with a real engine."""
    await fate(bench, contained)  # type: ignore[misc]
