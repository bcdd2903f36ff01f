"""Jobs with containers: an engine with an image in which every applet of busybox exists, and workflows that use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster
from tests.integration.nodes.docker_engine import DockerEngine, EngineUnavailableError
from tests.patience import wait_until

IMAGE = "waterflow-job-test:1"
IN_CONTAINER = f"    container: {IMAGE}\n"


def workflow(steps: str, job: str = "") -> str:
    return f"jobs:\n  a:\n    runs-on: box\n{job}    steps:\n{steps}"


def wait_for_lines(server: Cluster, run: str, *lines: str) -> None:
    """Waits until the run's output, which may arrive after its end, has these lines."""
    wait_until(lambda: set(lines) <= set(server.lines(run)), f"{lines} in the output of {run}")


def of_jobs(engine: DockerEngine) -> list[str]:
    """Returns the containers and networks of jobs."""
    chosen = ("--quiet", "--filter", "label=io.waterflow.job")
    return [*engine("ps", "--all", *chosen).split(), *engine("network", "ls", *chosen).split()]


def setting(engine: DockerEngine) -> str:
    """Returns the line of an agent's configuration that names the engine."""
    return f'docker-host = "{engine.address}"'


def started(folder: Path, *options: str) -> DockerEngine:
    """Starts an engine with the image; skips the test where that is impossible. The caller closes it."""
    try:
        engine = DockerEngine(folder / "engine.log", *options)
    except EngineUnavailableError as error:
        pytest.skip(f"no engine can be started here: {error}")
    try:
        engine.start()
        _make_image(engine, folder)
        probe = subprocess.run(
            ["docker", "network", "create", "probe"], env=engine.environment, capture_output=True, text=True
        )
        if probe.returncode:
            pytest.skip(f"the engine cannot create networks here: {probe.stderr.strip()}")
        engine("network", "rm", "probe")
    except EngineUnavailableError as error:
        engine.close()
        pytest.skip(f"the engine does not start here: {error}")
    except BaseException:
        engine.close()
        raise
    return engine


def make_files(path: Path) -> None:
    """Writes the files of the image as a tar file."""
    busybox = os.path.realpath(str(shutil.which("busybox")))
    with tarfile.open(path, "w") as tar:
        # A directory that is only implied is closed to other users than root.
        above = tarfile.TarInfo("bin")
        above.type, above.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(above)
        tar.add(busybox, "bin/busybox")
        for name in subprocess.check_output([busybox, "--list"], text=True).split():
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            if name != "busybox":
                tar.addfile(link)


def _make_image(engine: DockerEngine, folder: Path) -> None:
    make_files(folder / "image.tar")
    engine("import", "--change", "CMD sleep 600", str(folder / "image.tar"), IMAGE)


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """An engine for all tests of a module."""
    engine = started(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.close()


@pytest.fixture
def server(empty_cluster: Cluster, docker: DockerEngine) -> Iterator[Cluster]:
    """A daemon, and one server with the engine."""
    empty_cluster.daemon_environment["WATERFLOW_SECRET_TOKEN"] = "a-secret-of-the-job"
    empty_cluster.start_daemon()
    empty_cluster.add_agent("box-1", "box", settings=setting(docker))
    yield empty_cluster
    wait_until(lambda: not of_jobs(docker), "the containers to go")
