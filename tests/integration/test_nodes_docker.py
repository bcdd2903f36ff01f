"""The Docker nodes against a real engine, which the tests start for themselves and end again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.image_registry import registry
from tests.patience import PATIENCE_S
from waterflow_agent.testing import NodeRun, run_node
from waterflow_agent.wire.messages import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.root]

IMAGE = "waterflow-test:1"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an engine without a network, with one image that is made of the static busybox."""
    missing = [program for program in ("dockerd", "docker", "containerd", "busybox") if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"no engine can be started here: {', '.join(missing) or 'not root'}")
    # A unix socket's path is short.
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/wf-docker-XXXXXX"], text=True).strip())
    address = f"unix://{folder}/d.sock"
    log = (tmp_path_factory.mktemp("engine") / "log").open("wb")
    argv = [
        *("dockerd", "--host", address, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
        *("--pidfile", f"{folder}/pid", "--bridge", "none", "--iptables=false", "--ip-forward=false"),
        *("--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"),
    ]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    environment = os.environ | {"DOCKER_HOST": address}
    try:
        give_up_at = time.monotonic() + PATIENCE_S
        while subprocess.run(["docker", "version"], env=environment, capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > give_up_at:
                text = Path(log.name).read_text()[-600:]
                pytest.skip(f"the engine does not start here: {text}")
            time.sleep(0.1)
        _make_image(folder, environment)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
        for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if mount.split()[1].startswith(str(folder)):
                subprocess.run(["umount", "--lazy", mount.split()[1]], check=False)
        shutil.rmtree(folder, ignore_errors=True)


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
    given = {key.replace("_", "-"): value for key, value in params.items()}
    return run_node(node, given, directory=directory, env={"DOCKER_HOST": engine}, timeout_s=2 * PATIENCE_S)


def test_a_container_runs_to_its_end_and_its_output_is_the_log(engine: str, tmp_path: Path) -> None:
    """Exit code and output arrive; the container is gone; another exit code is a failure."""
    ended = run(
        "docker/run", tmp_path, engine, image=IMAGE, command="sh -c 'echo $A; exit 3'", env={"A": "b"}, network="none"
    )
    assert (ended.outcome, ended.outputs["exit-code"]) == (Outcome.FAILURE, 3), ended
    assert "b\n" in ended.printed
    listed = run("docker/exec", tmp_path, engine, command="docker ps --all --quiet")
    assert (listed.outcome, listed.outputs["stdout"]) == (Outcome.SUCCESS, "")


def test_a_container_in_the_background_is_entered_and_stopped(engine: str, tmp_path: Path) -> None:
    """`docker/exec` runs inside of it, without a shell; `docker/stop` says whether there was anything to stop."""
    started = run(
        "docker/run", tmp_path, engine, image=IMAGE, command=["sleep", "300"], name="box", detach=True, network="none"
    )
    assert started.outcome is Outcome.SUCCESS, started
    inside = run("docker/exec", tmp_path, engine, container="box", run="echo '$HOME;' x")
    assert inside.outputs["stdout"] == "$HOME; x\n"
    stopped = run("docker/stop", tmp_path, engine, container="box", grace="1s", remove=True)
    assert stopped.outputs == {"changed": True}
    assert run("docker/stop", tmp_path, engine, container="box").outputs == {"changed": False}


def test_what_the_engine_refuses_is_one_sentence(engine: str, tmp_path: Path) -> None:
    """No such image, no such container, a command line that is none, no engine at all."""
    unknown = run("docker/run", tmp_path, engine, image="127.0.0.1:9/none:1", network="none")
    assert "127.0.0.1:9" in unknown.text
    missing = run("docker/exec", tmp_path, engine, container="none", run="true")
    assert missing.outcome is Outcome.FAILURE
    assert "No such container" in missing.printed
    assert "quotation" in run("docker/exec", tmp_path, engine, command="docker run 'x").text
    nobody = run("docker/stop", tmp_path, "unix:///tmp/no-engine-here.sock", container="x")
    assert nobody.exit_code == 75
    assert "no Docker engine answers" in nobody.text


def test_an_image_that_is_there_is_not_pulled_unless_asked(engine: str, tmp_path: Path) -> None:
    """So it is good enough without a registry."""
    there = run("docker/pull", tmp_path, engine, image=IMAGE, always=False)
    assert there.outputs["changed"] is False


def test_an_image_is_pulled_and_only_a_new_one_is_a_change(engine: str, tmp_path: Path) -> None:
    """By its tag or its digest; another image under the same tag is a new one."""
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
    """Of a registry that is away, exit code 75; of one that has no such image, 1."""
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
def test_a_pull_that_fails_after_its_begin_is_a_failure(engine: str, tmp_path: Path, node: str) -> None:
    """Also where an older image has the name: that one is not taken for the new one."""
    with registry() as images:
        images.go_on.set()
        if node == "docker/pull":
            assert run(node, tmp_path, engine, image=images.image).outcome is Outcome.SUCCESS
            images.make()
        images.is_spoiled = True
        spoiled = run(node, tmp_path, engine, image=images.image)
        assert (spoiled.outcome, spoiled.exit_code) == (Outcome.FAILURE, 75), spoiled
        assert "verification failed" in spoiled.text
