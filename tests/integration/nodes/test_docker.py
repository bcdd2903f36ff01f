"""The Docker nodes against a real engine that the tests start and stop themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.nodes.docker_engine import DockerEngine, EngineUnavailableError
from tests.integration.nodes.engine_relay import relayed
from tests.integration.nodes.image_registry import registry
from tests.integration.transfer.transfer_harness import signalled
from tests.patience import PATIENCE_S, wait_until
from waterflow_agent.attempts import Outcome
from waterflow_agent.testing import NodeRun, run_node

pytestmark = [pytest.mark.slow, pytest.mark.root]

IMAGE = "waterflow-test:1"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the address of an engine without a network, with one image made from the static busybox."""
    try:
        made = DockerEngine(tmp_path_factory.mktemp("engine") / "log")
    except EngineUnavailableError as error:
        pytest.skip(f"no engine can be started here: {error}")
    try:
        try:
            made.start()
        except EngineUnavailableError as error:
            pytest.skip(f"the engine does not start here: {error}")
        _make_image(made.folder, made.environment)
        yield made.address
    finally:
        made.close()


def _make_image(folder: Path, environment: dict[str, str]) -> None:
    archive = folder / "image.tar"
    busybox = shutil.which("busybox")
    assert busybox is not None
    with tarfile.open(archive, "w") as tar:
        tar.add(os.path.realpath(busybox), "bin/busybox")
        for name in ("sh", "sleep", "echo", "cat", "env", "true"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    subprocess.run(["docker", "import", str(archive), IMAGE], env=environment, check=True, capture_output=True)


def run(node: str, directory: Path, engine: str, /, **params: object) -> NodeRun:
    values = {key.replace("_", "-"): value for key, value in params.items()}
    return run_node(node, values, directory=directory, env={"DOCKER_HOST": engine}, timeout_s=2 * PATIENCE_S)


def test_a_container_runs_to_completion_and_its_output_is_logged(engine: str, tmp_path: Path) -> None:
    """Exit code and output are reported and the container is removed; a nonzero exit code is a failure."""
    ended = run(
        "docker/run", tmp_path, engine, image=IMAGE, command="sh -c 'echo $A; exit 3'", env={"A": "b"}, network="none"
    )
    assert (ended.outcome, ended.outputs["exit-code"]) == (Outcome.FAILURE, 3), ended
    assert "b\n" in ended.printed
    listed = run("docker/exec", tmp_path, engine, command="docker ps --all --quiet")
    assert (listed.outcome, listed.outputs["stdout"]) == (Outcome.SUCCESS, "")


def test_a_container_in_the_background_is_entered_and_stopped(engine: str, tmp_path: Path) -> None:
    """`docker/exec` runs in the container without a shell; `docker/stop` reports whether there was anything to stop."""
    started = run(
        "docker/run", tmp_path, engine, image=IMAGE, command=["sleep", "300"], name="box", detach=True, network="none"
    )
    assert started.outcome is Outcome.SUCCESS, started
    inside = run("docker/exec", tmp_path, engine, container="box", run="echo '$HOME;' x")
    assert inside.outputs["stdout"] == "$HOME; x\n"
    stopped = run("docker/stop", tmp_path, engine, container="box", grace="1s", remove=True)
    assert stopped.outputs == {"changed": True}
    assert run("docker/stop", tmp_path, engine, container="box").outputs == {"changed": False}


def test_a_refusal_of_the_engine_is_one_clear_message(engine: str, tmp_path: Path) -> None:
    """An unknown image, an unknown container, a malformed command and a missing engine each have a clear message."""
    unknown = run("docker/run", tmp_path, engine, image="127.0.0.1:9/none:1", network="none")
    assert "127.0.0.1:9" in unknown.text
    missing = run("docker/exec", tmp_path, engine, container="none", run="true")
    assert missing.outcome is Outcome.FAILURE
    assert "No such container" in missing.printed
    assert "quotation" in run("docker/exec", tmp_path, engine, command="docker run 'x").text
    refused = run("docker/stop", tmp_path, "unix:///tmp/no-engine-here.sock", container="x")
    assert refused.exit_code == 75
    text = "cannot connect to the Docker engine at unix:///tmp/no-engine-here.sock: No such file or directory"
    assert text in refused.text


def test_an_existing_image_is_pulled_only_on_request(engine: str, tmp_path: Path) -> None:
    """With `always: false` an existing image needs no registry."""
    present = run("docker/pull", tmp_path, engine, image=IMAGE, always=False)
    assert present.outputs["changed"] is False


def test_pulling_reports_a_change_only_for_a_new_image(engine: str, tmp_path: Path) -> None:
    """An image is pulled by tag or digest; another image under the same tag counts as a change."""
    with registry() as images:
        images.go_on.set()
        first, again = (run("docker/pull", tmp_path, engine, image=images.image) for _ in range(2))
        assert (first.outputs["changed"], again.outputs["changed"]) == (True, False), first
        assert first.outputs["image"] == again.outputs["image"]
        pinned = run("docker/pull", tmp_path, engine, image=f"{images.address}/shop/web@{images.digest}")
        assert pinned.outputs == again.outputs
        images.make()
        other = run("docker/pull", tmp_path, engine, image=images.image)
        assert other.outputs["changed"] is True
        assert other.outputs["image"] != first.outputs["image"]


def test_an_image_that_cannot_be_pulled_is_a_failure_with_the_reason(engine: str, tmp_path: Path) -> None:
    """An unreachable registry gives exit code 75, an unknown image or an invalid name gives 1."""
    away = run("docker/pull", tmp_path, engine, image="127.0.0.1:9/none:1")
    assert (away.outcome, away.exit_code) == (Outcome.FAILURE, 75), away
    assert "connection refused" in away.text
    with registry() as images:
        missing = run("docker/pull", tmp_path, engine, image=f"{images.address}/shop/none:1")
        assert (missing.outcome, missing.exit_code) == (Outcome.FAILURE, 1), missing
        assert "manifest unknown" in missing.text
    wrong = run("docker/pull", tmp_path, engine, image="Shop:1")
    assert (wrong.outcome, wrong.exit_code) == (Outcome.FAILURE, 1), wrong
    assert "lowercase" in wrong.text


@pytest.mark.parametrize("node", ["docker/pull", "docker/run"])
def test_a_pull_that_fails_halfway_is_a_failure(engine: str, tmp_path: Path, node: str) -> None:
    """An older image with the same name is not taken for the new one."""
    with registry() as images:
        images.go_on.set()
        if node == "docker/pull":
            assert run(node, tmp_path, engine, image=images.image).outcome is Outcome.SUCCESS
            images.make()
        images.is_spoiled = True
        spoiled = run(node, tmp_path, engine, image=images.image)
        assert (spoiled.outcome, spoiled.exit_code) == (Outcome.FAILURE, 75), spoiled
        assert "verification failed" in spoiled.text


@pytest.mark.parametrize(
    ("node", "params", "text"),
    [
        ("docker/exec", {}, "set either command, or container and run"),
        ("docker/exec", {"command": "ps", "container": "box"}, "set either command, or container and run"),
        ("docker/exec", {"container": "box"}, "container requires run"),
        ("docker/exec", {"container": "box", "run": "echo 'x"}, "run: No closing quotation"),
        ("docker/run", {"image": IMAGE, "command": "echo 'x"}, "command: No closing quotation"),
        ("docker/run", {"image": IMAGE, "restart": "now"}, "with.restart: unknown value 'now'"),
        ("docker/run", {"image": IMAGE, "command": "true", "network": "none-such"}, "network none-such not found"),
        ("docker/run", {"image": IMAGE, "command": "true", "ports": {"eighty": 1}}, "eighty"),
        ("docker/run", {"image": IMAGE, "network": "none"}, "No command specified"),
        ("docker/run", {"image": IMAGE, "command": ["/none"], "network": "none", "name": "box"}, "/none"),
        ("docker/stop", {"container": "box", "grace": "soon"}, "grace: expected a duration"),
    ],
)
def test_a_permanent_error_is_one_clear_message(
    engine: str, tmp_path: Path, node: str, params: dict[str, object], text: str
) -> None:
    """A permanent error has a clear message, and no container is left whose name would block the next attempt."""
    ended = run_node(node, params, directory=tmp_path, env={"DOCKER_HOST": engine}, timeout_s=2 * PATIENCE_S)
    assert (ended.outcome, ended.exit_code or 1) == (Outcome.FAILURE, 1), ended
    assert text in ended.text, ended
    assert "Traceback" not in ended.printed
    assert _containers(engine) == []


def test_a_command_that_fails_keeps_its_exit_code_and_output(engine: str, tmp_path: Path) -> None:
    """A name that is in use is a failure, and the container with that name remains."""
    run("docker/run", tmp_path, engine, image=IMAGE, command=["sleep", "300"], name="box", detach=True, network="none")
    try:
        inside = run("docker/exec", tmp_path, engine, container="box", run="sh -c 'echo said; exit 3'")
        assert (inside.outcome, inside.exit_code) == (Outcome.FAILURE, 1), inside
        assert inside.outputs == {"exit-code": 3, "stdout": "said\n"}
        assert inside.text == "docker ended with exit code 3"
        taken = run("docker/run", tmp_path, engine, image=IMAGE, command="true", name="box", network="none")
        assert (taken.outcome, taken.exit_code) == (Outcome.FAILURE, 1), taken
        assert "already in use" in taken.text
        assert _containers(engine) == ["box"]
    finally:
        run("docker/stop", tmp_path, engine, container="box", grace="1s", remove=True)


@pytest.mark.parametrize(
    ("node", "params"),
    [
        ("docker/exec", {"command": "ps"}),
        ("docker/pull", {"image": IMAGE}),
        ("docker/run", {"image": IMAGE}),
        ("docker/stop", {"container": "box"}),
    ],
)
def test_an_unreachable_engine_is_a_temporary_failure(tmp_path: Path, node: str, params: dict[str, object]) -> None:
    """An unreachable engine gives exit code 75; a missing or non-executable program is permanent."""
    env = {"DOCKER_HOST": "unix:///tmp/no-engine-here.sock"}
    away = run_node(node, params, directory=tmp_path, env=env)
    assert (away.outcome, away.exit_code) == (Outcome.FAILURE, 75), away
    assert "Traceback" not in away.printed
    if node == "docker/exec":
        assert "Cannot connect to the Docker daemon" in away.text
        (tmp_path / "docker").write_text("")
        closed = run_node(node, params, directory=tmp_path, env={"PATH": str(tmp_path)})
        assert (closed.exit_code, closed.text) == (1, "cannot start docker: Permission denied")
        (tmp_path / "docker").unlink()
        missing = run_node(node, params, directory=tmp_path, env={"PATH": str(tmp_path)})
        assert (missing.exit_code, missing.text) == (1, "program docker not found on this server")


def test_an_engine_that_stops_during_a_pull_is_a_temporary_failure(engine: str, tmp_path: Path) -> None:
    """The exit code is 75, because pulled data is either kept or discarded as a whole."""
    with registry() as images, relayed(engine) as relay:
        cutter = threading.Thread(target=lambda: relay.cut_after(lambda: images.is_half.wait(PATIENCE_S)))
        cutter.start()
        ended = run("docker/pull", tmp_path, relay.address, image=images.image)
        cutter.join()
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 75), ended
    assert ended.text.startswith("lost the connection to the Docker engine: ")
    assert "Traceback" not in ended.printed


def test_an_engine_that_stops_during_a_container_leaves_its_outcome_unknown(engine: str, tmp_path: Path) -> None:
    """The failure is permanent, so the container does not start twice; the outputs name it."""
    with relayed(engine) as relay:
        cutter = threading.Thread(
            target=relay.cut_after, args=[lambda: wait_until(lambda: _containers(engine, "--quiet"), "the container")]
        )
        cutter.start()
        ended = run("docker/run", tmp_path, relay.address, image=IMAGE, command="sleep 300", network="none", name="box")
        cutter.join()
    try:
        assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, 1), ended
        assert ended.text == "lost the connection to the Docker engine; the outcome of container box is unknown"
        assert ended.outputs["name"] == "box"
        assert "Traceback" not in ended.printed
    finally:
        run("docker/stop", tmp_path, engine, container="box", grace="1s", remove=True)


def test_a_cancel_while_the_container_is_created_removes_it(engine: str, tmp_path: Path) -> None:
    """The step is cancelled while the engine's answer to the create request is pending."""
    with relayed(engine, b"/containers/create") as relay:
        command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"]
        params = {"image": IMAGE, "command": command, "network": "none", "name": "box"}
        env = {"DOCKER_HOST": relay.address}
        ended = signalled(tmp_path, params, relay.is_asked.is_set, node="docker/run", env=env, after=relay.go_on.set)
    assert ended.returncode == 143, ended.stdout
    assert _containers(engine) == []


def test_a_cancel_while_the_image_is_pulled_creates_no_container(engine: str, tmp_path: Path) -> None:
    """The engine also stops its download from the registry."""
    with registry() as images:
        params = {"image": images.image, "command": "true", "network": "none", "name": "box"}
        env = {"DOCKER_HOST": engine}
        ended = signalled(tmp_path, params, images.is_half.is_set, node="docker/run", env=env)
        assert ended.returncode == 143, ended.stdout
        wait_until(images.is_left.is_set, "the container")
    assert _containers(engine) == []


def _containers(engine: str, *options: str) -> list[str]:
    """Returns the names of all containers, or with `--quiet` the ids of the running ones."""
    argv = ["docker", "--host", engine, "ps", *(options or ("--all", "--format", "{{.Names}}"))]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
