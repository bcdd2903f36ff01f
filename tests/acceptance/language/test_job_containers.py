"""Jobs with `container` and `services` on a real Docker engine, and what is left of them after kills and cancels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from docker import DockerClient

from tests.acceptance.cluster import Cluster
from tests.acceptance.language.job_containers import (
    IMAGE,
    IN_CONTAINER,
    docker,
    make_files,
    of_jobs,
    server,
    wait_for_lines,
    workflow,
)
from tests.integration.nodes.docker_engine import DockerEngine
from tests.integration.nodes.image_registry import registry
from tests.patience import PATIENCE_S, wait_until
from waterflow_agent.nodes.containers import labels, removal

__all__ = ["docker", "server"]

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(8 * PATIENCE_S)]

WEB = "mkdir -p /www; echo from-the-service > /www/index.html; exec httpd -f -p 8080 -h /www"


def test_scripts_run_in_the_container_and_give_files_outputs_and_variables_to_later_steps(
    server: Cluster, docker: DockerEngine
) -> None:
    """Directory, outputs, environment, search path and secrets work as on the server; the exit code is the script's."""
    run = server.start(
        workflow(
            """      - id: one
        run: |
          test "$(readlink /bin/sh)" = busybox && echo inside
          echo kept > file; mkdir tools; printf '#!/bin/sh\\necho tool' > tools/tool; chmod +x tools/tool
          echo "answer=42" >> "$GITHUB_OUTPUT"; echo "MODE=fast" >> "$GITHUB_ENV"
          echo "$PWD/tools" >> "$GITHUB_PATH"; echo "$OWN $JOB"
      - run: echo "$(cat file) ${{ steps.one.outputs.answer }} $MODE $(tool) $T"
        env: {T: "${{ secrets.TOKEN }}"}
      - uses: file/read
        id: outside
        with: {path: file}
      - run: echo "read ${{ steps.outside.outputs.content }}"; exit 7
""",
            f"    env: {{JOB: of-job}}\n    container: {{image: {IMAGE}, env: {{OWN: of-container}}}}\n",
        )
    )
    found = server.wait_for(run)

    assert found["conclusion"] == "failure", found
    assert "exit code 7" in str(found["jobs"][0]["reason"]), found
    wait_for_lines(server, run, "inside", "of-container of-job", "kept 42 fast tool ***", "read kept")


def test_a_service_is_reached_by_its_name_from_the_container_and_by_its_port_from_the_server(
    server: Cluster, docker: DockerEngine, tmp_path: Path
) -> None:
    """Steps begin when the service is healthy; `job.services` has its port."""
    (tmp_path / "serve").write_text(f"#!/bin/sh\n{WEB}\n")
    (tmp_path / "serve").chmod(0o755)
    image = f"{IMAGE}-web"
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY serve /serve\nCMD /serve\n")
    docker("build", "--quiet", "--tag", image, str(tmp_path))
    services = (
        f"    services:\n      web:\n        image: {image}\n        ports: [8080]\n"
        "        options: --health-cmd 'wget -qO- http://127.0.0.1:8080/' --health-interval 1s\n"
        "          --label io.waterflow.start=/another\n"
    )
    by_name = server.start(workflow("      - run: wget -qO- http://web:8080/\n", IN_CONTAINER + services))
    by_port = server.start(
        workflow(
            "      - run: 'exec 3<>/dev/tcp/127.0.0.1/${{ job.services.web.ports[8080] }};"
            ' printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3\'\n        shell: bash\n',
            services,
        )
    )

    for run in (by_name, by_port):
        assert server.wait_for(run)["conclusion"] == "success", server.lines(run)
        wait_for_lines(server, run, "from-the-service", "the service web is healthy")


@pytest.mark.parametrize("password", ["${{ secrets.TOKEN }}", "wrong", ""])
def test_an_image_of_a_private_registry_needs_its_credentials(
    server: Cluster, docker: DockerEngine, tmp_path: Path, password: str
) -> None:
    """They come from secrets, which are nowhere in the output; without the right ones, the registry's answer is the reason."""
    make_files(tmp_path / "image.tar")
    credentials = f"credentials: {{username: ci, password: '{password}'}}" if password else ""
    with registry() as images:
        images.go_on.set()
        images.login = "ci:a-secret-of-the-job"
        images.make((tmp_path / "image.tar").read_bytes(), Cmd=["sleep", "600"])
        container = f"    container:\n      image: {images.image}\n      {credentials}\n"
        run = server.start(workflow("      - run: test -L /bin/sh && echo inside\n", container))
        found = server.wait_for(run)

    if "secrets" in password:
        assert found["conclusion"] == "success", server.lines(run)
        wait_for_lines(server, run, "inside")
    else:
        text = str(found["jobs"][0]["reason"]["text"])
        assert "authentication required" in text or "no basic auth credentials" in text, text
    assert "a-secret-of-the-job" not in str(server.lines(run))


def test_an_unhealthy_service_fails_the_job_and_shows_its_log(server: Cluster, docker: DockerEngine) -> None:
    """No step runs; the reason names the service."""
    services = (
        f"    services:\n      db:\n        image: {IMAGE}\n"
        "        options: --health-cmd false --health-interval 1s --health-retries 1\n"
    )
    run = server.start(workflow("      - run: echo never\n", services))

    assert server.wait_for(run)["conclusion"] == "failure"
    assert "never" not in server.lines(run)
    assert "service db is unhealthy" in str(server.run(run)["jobs"][0]["reason"])


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_cancel_ends_the_script_in_the_container(server: Cluster, docker: DockerEngine, is_ignored: bool) -> None:
    """It gets the stop signal; a script that ignores it is killed after the grace period."""
    trap = 'trap "" TERM' if is_ignored else 'trap "echo stopping; exit 3" TERM'
    run = server.start(
        workflow(
            f"      - stop: {{grace: 1s}}\n        run: |\n          {trap}\n          echo ready\n"
            "          while :; do sleep 0.1 || true; done\n      - if: always()\n"
            "        run: ps | grep -c '[s]leep 0.1' || true\n",
            IN_CONTAINER,
        )
    )
    wait_until(lambda: "ready" in server.lines(run), "the script to run")
    assert server.api("POST", f"/v1/runs/{run}/cancel").status_code in (200, 202)

    assert server.wait_for(run)["conclusion"] == "cancelled"
    wait_until(lambda: server.lines(run)[-1:] == ["0"], "the last step to have counted what is left")
    assert ("stopping" in server.lines(run)) is not is_ignored


def test_a_script_in_a_container_survives_kills_of_agent_and_daemon(
    server: Cluster, docker: DockerEngine, tmp_path: Path
) -> None:
    """Both are killed while the script runs, and again with the job's end; nothing runs twice and nothing is left."""
    gate = tmp_path / "gate"
    gate.mkdir()
    run = server.start(
        workflow(
            "      - run: |\n          echo once >> count; echo waiting\n"
            "          while ! test -e /gate/open; do sleep 0.1; done\n      - run: cat count\n",
            f"    container: {{image: {IMAGE}, volumes: ['{gate}:/gate']}}\n",
        )
    )
    wait_until(lambda: "waiting" in server.lines(run), "the script to run")
    server.kill_agent("box-1")
    server.kill_daemon()
    server.start_daemon()
    server.start_agent("box-1")
    (gate / "open").touch()

    assert server.wait_for(run)["conclusion"] == "success", server.lines(run)
    wait_until(lambda: "once" in server.lines(run), "the line of the second step")
    assert [line for line in server.lines(run) if line in ("once", "waiting")] == ["waiting", "once"]


def test_containers_of_a_job_that_ended_without_its_agent_are_removed_when_the_agent_is_back(
    server: Cluster, docker: DockerEngine
) -> None:
    """The agent is killed, the run is cancelled by force, and the next agent removes what is left."""
    run = server.start(workflow("      - run: echo ready; sleep 600\n", IN_CONTAINER))
    wait_until(lambda: "ready" in server.lines(run), "the script to run")
    server.kill_agent("box-1")
    assert server.api("POST", f"/v1/runs/{run}/cancel", json={"force": True}).status_code in (200, 202)
    assert server.wait_for(run)["conclusion"] == "cancelled"
    assert of_jobs(docker)

    server.start_agent("box-1")

    wait_until(lambda: not of_jobs(docker), "the containers to go")


@pytest.mark.parametrize("has_ended", [False, True])
def test_files_that_a_container_writes_as_root_become_those_of_the_user_of_steps(
    docker: DockerEngine, tmp_path: Path, has_ended: bool
) -> None:
    """Users of steps that are not root could not delete them otherwise. The agent has moved the directories by then.

    The directories themselves stay those of the agent, and what a link points to is not touched.
    """
    place, temp, start = (str(tmp_path / name) for name in ("work", "temp", "start"))
    for path in (place, temp, start):
        os.mkdir(path)
    (tmp_path / "outside").touch()
    os.chown(start, 12000, 12000)
    identity = docker(
        *("create", "--label", f"{labels.JOB}={place}", "--label", f"{labels.START}={start}"),
        *("--label", f"{labels.TEMP}={temp}", "--volume", f"{temp}:{temp}"),
        *("--volume", f"{place}:{place}", "--volume", f"{start}:{start}", "--volume", f"{tmp_path}/outside:/outside"),
        *(IMAGE, "sh", "-c"),
        f"mkdir -p {temp}/b/c {place}/a && ln -s /outside {place}/a/link && touch {place}/a/file; sleep 600",
    )
    docker("start", identity)
    wait_until(lambda: os.path.exists(f"{place}/a/file"), "the file")
    moved = [f"{place}-moved", f"{temp}-moved"]
    os.rename(place, moved[0])
    os.rename(temp, moved[1])
    if has_ended:
        docker("kill", identity)
    client = DockerClient(docker.address)
    try:
        removal.give_files(client.containers.get(identity), 12345, 12346, [str(tmp_path / "gone"), *moved])

        written = [f"{moved[0]}/a", f"{moved[0]}/a/file", f"{moved[1]}/b", f"{moved[1]}/b/c"]
        assert {(os.stat(path).st_uid, os.stat(path).st_gid) for path in written} == {(12345, 12346)}
        assert {os.stat(path).st_uid for path in (*moved, start)} == {12000}
        assert os.stat(tmp_path / "outside").st_uid == os.geteuid()
        removal.remove(client, labels.JOB, place)
        assert of_jobs(docker) == []
    finally:
        client.close()
