"""Servers with and without a Docker engine: where jobs with containers go, and what happens when an engine ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.language.job_containers import (
    IMAGE,
    IN_CONTAINER,
    docker,
    of_jobs,
    server,
    setting,
    started,
    wait_for_lines,
    workflow,
)
from tests.integration.nodes.docker_engine import DockerEngine
from tests.patience import PATIENCE_S, wait_until

__all__ = ["docker", "server"]

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(8 * PATIENCE_S)]


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[DockerEngine]:
    """An engine that the test may stop and kill."""
    (tmp_path / "engine").mkdir()
    engine = started(tmp_path / "engine")
    yield engine
    engine.close()


def engine_of(cluster: Cluster, agent: str) -> dict[str, Any]:
    """Returns what the agent has reported about its engine, which is in its first session unless the machine is very busy."""

    def looked() -> dict[str, Any] | None:
        rows = cluster.api("GET", "/v1/agents").json()["agents"]
        found: dict[str, Any] = next(row["docker"] for row in rows if row["name"] == agent)
        return None if "has not looked" in found["problem"] else found

    return wait_until(looked, f"{agent} to look for an engine")


def waits_for_an_engine(cluster: Cluster, run: str) -> str | None:
    """Returns why the run waits, once that is because of an engine."""
    reason = cluster.run(run)["jobs"][0]["reason"]
    return str(reason["text"]) if reason["code"] == "no-server-with-docker" else None


@pytest.mark.both_engines
def test_a_job_with_containers_waits_for_a_server_with_an_engine_and_runs_there(
    empty_cluster: Cluster, docker: DockerEngine
) -> None:
    """A server without an engine does not get it, whatever its slots; the reason says what is wrong there."""
    empty_cluster.start_daemon()
    missing = f"unix://{empty_cluster.folder}/none.sock"
    empty_cluster.add_agent("box-1", "box", slots=9, settings=f'docker-host = "{missing}"')
    assert engine_of(empty_cluster, "box-1") == {"version": "", "problem": f"no Docker engine at {missing}"}
    run = empty_cluster.start(workflow("      - if: always()\n        run: echo in $WATERFLOW_AGENT\n", IN_CONTAINER))

    text = wait_until(lambda: waits_for_an_engine(empty_cluster, run), "the reason")
    assert f"(box-1: no Docker engine at {missing}); install Docker" in text
    assert empty_cluster.lines(run) == []

    empty_cluster.add_agent("box-2", "box", slots=1, settings=setting(docker))
    assert empty_cluster.wait_for(run)["conclusion"] == "success", empty_cluster.lines(run)
    wait_for_lines(empty_cluster, run, "in box-2")
    wait_until(lambda: not of_jobs(docker), "the containers to go")
    assert engine_of(empty_cluster, "box-2")["version"] == docker("version", "--format", "{{.Server.Version}}")


def test_an_agent_reports_that_its_engine_has_ended_and_that_it_is_back(
    empty_cluster: Cluster, own_engine: DockerEngine
) -> None:
    """Jobs with containers wait meanwhile, and others run; nobody has to restart the agent."""
    empty_cluster.start_daemon()
    empty_cluster.add_agent("box-1", "box", settings=setting(own_engine))
    assert engine_of(empty_cluster, "box-1")["problem"] == ""

    own_engine.stop()
    wait_until(lambda: engine_of(empty_cluster, "box-1")["problem"], "the report that the engine has ended")
    waiting = empty_cluster.start(workflow("      - run: echo inside\n", IN_CONTAINER))
    other = empty_cluster.start(workflow("      - run: echo on the server\n"))
    assert empty_cluster.wait_for(other)["conclusion"] == "success"
    wait_until(lambda: waits_for_an_engine(empty_cluster, waiting), "the reason")

    own_engine.start()
    assert empty_cluster.wait_for(waiting)["conclusion"] == "success", empty_cluster.lines(waiting)


def test_after_a_kill_of_agent_and_engine_the_run_fails_with_the_cause_and_leaves_nothing(
    empty_cluster: Cluster, own_engine: DockerEngine
) -> None:
    """No script of the job runs on the server instead; the next job finds the engine as usual."""
    empty_cluster.start_daemon()
    empty_cluster.add_agent("box-1", "box", settings=setting(own_engine))
    run = empty_cluster.start(
        workflow("      - run: echo ready; sleep 600\n      - if: always()\n        run: echo never\n", IN_CONTAINER)
    )
    wait_until(lambda: "ready" in empty_cluster.lines(run), "the script to run")

    empty_cluster.kill_agent("box-1")
    own_engine.kill()
    own_engine.start()
    assert of_jobs(own_engine)
    empty_cluster.start_agent("box-1")

    found = empty_cluster.wait_for(run)
    assert found["conclusion"] == "failure", found
    first, last = found["jobs"][0]["steps"][1:]
    assert "lost the connection to the Docker engine" in first["reason"]["text"], found
    assert "the job's container is exited" in last["reason"]["text"], found
    wait_until(lambda: not of_jobs(own_engine), "the containers to go")
    again = empty_cluster.start(workflow("      - run: echo inside\n", IN_CONTAINER))
    assert empty_cluster.wait_for(again)["conclusion"] == "success", empty_cluster.lines(again)
    wait_until(lambda: not of_jobs(own_engine), "the containers to go")


def test_each_combination_of_a_matrix_has_its_container_or_none(server: Cluster, docker: DockerEngine) -> None:
    """The image comes from the matrix; an empty one means the server itself."""
    docker("tag", IMAGE, f"{IMAGE}-other")
    text = (
        "jobs:\n  a:\n    runs-on: box\n"
        f"    strategy: {{matrix: {{image: ['{IMAGE}', '{IMAGE}-other', '']}}}}\n"
        "    container:\n      image: ${{ matrix.image }}\n      env: {OF: '${{ matrix.image }}'}\n"
        '    steps:\n      - run: echo "in ${OF:-no container}"\n'
    )
    run = server.start(text)

    assert server.wait_for(run)["conclusion"] == "success", server.lines(run)
    wait_for_lines(server, run, f"in {IMAGE}", f"in {IMAGE}-other", "in no container")


def test_each_server_of_a_group_has_its_own_container_and_one_without_an_engine_says_so(
    server: Cluster, docker: DockerEngine
) -> None:
    """`target: each` leaves out no server silently."""
    server.add_agent("box-2", "box", settings=setting(docker))
    missing = f"unix://{server.folder}/none.sock"
    server.add_agent("box-3", "box", settings=f'docker-host = "{missing}"')
    text = workflow("      - run: echo in a container of $WATERFLOW_AGENT\n", IN_CONTAINER)
    run = server.start(text.replace("runs-on: box", "runs-on: {group: box, target: each}"))

    assert server.wait_for(run)["conclusion"] == "failure"
    wait_for_lines(server, run, "in a container of box-1", "in a container of box-2")
    text = str(server.run(run)["jobs"][0]["reason"]["text"])
    assert "a[box-3]" in text, text
    assert "needs a Docker engine" in text, text


def test_a_container_may_run_as_another_user(server: Cluster, docker: DockerEngine) -> None:
    """Its scripts write to the job's directory and return outputs, as those of root do; later steps read the files."""
    run = server.start(
        workflow(
            '      - id: one\n        run: id -u; echo text > file; echo "user=$(id -u)" >> "$GITHUB_OUTPUT"\n'
            '      - run: echo "${{ steps.one.outputs.user }} $(cat file)" && rm file\n',
            f"    container: {{image: {IMAGE}, options: --user 12345:12345}}\n",
        )
    )

    assert server.wait_for(run)["conclusion"] == "success", server.lines(run)
    wait_for_lines(server, run, "12345 text")


def open_to_users_of_steps(cluster: Cluster) -> None:
    """Lets other users enter the directories above the agents' data, as `/var/lib` does.

    Skips the test where only root can run this Python.
    """
    try:
        subprocess.run([sys.executable, "-c", ""], user="nobody", extra_groups=[], cwd="/", env={}, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"users of steps cannot run {sys.executable} here: {error}")
    for folder in (cluster.folder, *cluster.folder.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)


def test_an_engine_that_the_user_of_steps_may_not_use_does_not_count(
    empty_cluster: Cluster, docker: DockerEngine
) -> None:
    """The report names the user, and what to do; that the agent itself may use the engine does not matter."""
    open_to_users_of_steps(empty_cluster)
    empty_cluster.start_daemon()
    empty_cluster.add_agent("box-1", "box", settings=f'step-user = "nobody"\n{setting(docker)}')

    path = docker.address.removeprefix("unix://")
    text = f"user nobody may not use {path}; add the user to the socket's group"
    assert engine_of(empty_cluster, "box-1") == {"version": "", "problem": text}


def test_steps_of_a_user_without_rights_use_containers_and_leave_nothing_behind(
    empty_cluster: Cluster, tmp_path: Path
) -> None:
    """Only the users of steps need the engine. What the container has written as root is theirs afterwards, and goes.

    Another user of the container could not use the directory, and the reason says which ones can.
    """
    open_to_users_of_steps(empty_cluster)
    (tmp_path / "engine").mkdir()
    engine = started(tmp_path / "engine", "--group", "nogroup")
    try:
        empty_cluster.start_daemon()
        empty_cluster.add_agent("box-1", "box", settings=f'step-user = "nobody"\n{setting(engine)}')
        assert engine_of(empty_cluster, "box-1")["problem"] == ""
        script = "id -u; mkdir -p deep/er; echo x > deep/er/file; chmod -R go-rwx deep"
        run = empty_cluster.start(
            workflow(f"      - run: {script}\n      - run: cat deep/er/file; exit 1\n", IN_CONTAINER)
        )

        assert empty_cluster.wait_for(run)["conclusion"] == "failure", empty_cluster.lines(run)
        wait_for_lines(empty_cluster, run, "0", "x")
        wait_until(lambda: not of_jobs(engine), "the containers to go")
        # The directory of a failed job is kept for a re-run, so its files can be looked at.
        (kept,) = (empty_cluster.agent_dir("box-1") / "work" / ".kept").glob("*/*")
        wait_until(lambda: {os.stat(path).st_uid for path in kept.rglob("*")} == {65534}, "the files to change hands")
        assert kept.stat().st_uid == os.geteuid()

        container = f"    container: {{image: {IMAGE}, options: --user 4242}}\n"
        other = empty_cluster.start(workflow("      - run: echo never\n", container))
        assert empty_cluster.wait_for(other)["conclusion"] == "failure"
        text = str(empty_cluster.run(other)["jobs"][0]["reason"]["text"])
        assert "runs as user 4242, who cannot use the job's directory" in text, text
        assert "options: --user 65534" in text, text
        wait_until(lambda: not of_jobs(engine), "the containers to go")
    finally:
        engine.close()
