"""What operators do every day, from a push to three servers: deploy, inspect, back up; also with daemon kills."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.gate import Gate
from tests.integration.nodes.test_compose import plugins
from tests.integration.nodes.test_docker import IMAGE, engine
from tests.integration.transfer.test_s3 import KEYS, Bucket, bucket, moto
from tests.integration.transfer.transfer_harness import Request, served
from tests.patience import wait_until

pytestmark = pytest.mark.timeout(1200)

__all__ = ["bucket", "engine", "moto", "plugins"]

GROUPS = ("database", "backend", "frontend")
#: One service, which is healthy once its gate file exists.
COMPOSE = """services:
  {name}:
    image: {image}
    command: [sleep, "600"]
    init: true
    network_mode: none
    environment: {{VERSION: "${{VERSION}}"}}
    volumes: ["{gates}:/gates:ro"]
    healthcheck: {{test: [CMD, cat, "/gates/{name}"], interval: 1s, timeout: 10s, retries: 600}}
"""


JOB = """  {name}:
    runs-on: {name}
    {needs}
    steps:
      - uses: docker/compose-up
        id: up
        with:
          file: deploy/{name}.yml
          project: wf-{name}
          wait: true
          env: {{VERSION: "${{{{ vars.version }}}}"}}
      - run: echo "{name} is ${{{{ steps.up.outputs.services[0].health }}}}"
"""


@pytest.fixture
def cluster(empty_cluster: Cluster) -> Cluster:
    """Three servers, each in its own group, and a repository."""
    empty_cluster.make_repository()
    empty_cluster.start_daemon()
    for group in GROUPS:
        empty_cluster.add_agent(f"{group}-1", group)
    return empty_cluster


def newest(cluster: Cluster, count: int) -> str:
    """Returns the id of the newest run once there are `count` runs."""
    found = wait_until(
        lambda: rows if len(rows := cluster.api("GET", "/v1/runs").json()["runs"]) == count else None, f"{count} runs"
    )
    return str(found[0]["id"])


def done(cluster: Cluster, run: str) -> dict[str, Any]:
    """Returns the completed run, which has to succeed."""
    found = cluster.wait_for(run, patience_s=240)
    assert found["conclusion"] == "success", cluster.lines(run)
    return found


# Deploy -----------------------------------------------------------------------------------------------------------------


class Shop:
    """A shop of three services on one engine, deployed by compose files of the repository."""

    def __init__(self, cluster: Cluster, engine: str, plugins: str) -> None:
        self.cluster = cluster
        self.env = {"DOCKER_HOST": engine, "DOCKER_CONFIG": plugins}
        self.gates = cluster.folder / "gates"
        self.gates.mkdir()
        self.files = {f"deploy/{name}.yml": COMPOSE.format(name=name, image=IMAGE, gates=self.gates) for name in GROUPS}
        env = ", ".join(f"{name}: '{value}'" for name, value in self.env.items())
        jobs = "".join(
            JOB.format(name=name, needs=f"needs: {before}" if before else "")
            for name, before in zip(GROUPS, (None, *GROUPS), strict=False)
        )
        self.workflow = f"name: deploy\non: {{push: {{}}}}\nvars: {{version: 'VERSION'}}\nenv: {{{env}}}\njobs:\n{jobs}"

    def deploy(self, version: str) -> None:
        self.cluster.push(
            self.cluster.clone,
            {**self.files, "workflows/deploy.yml": self.workflow.replace("VERSION'", f"{version}'", 1)},
        )

    def open(self, *names: str) -> None:
        """Makes these services healthy."""
        for name in names:
            (self.gates / name).write_text("open")

    def docker(self, *arguments: str) -> str:
        return subprocess.check_output(["docker", *arguments], env=os.environ | self.env, text=True)

    def containers(self) -> dict[str, tuple[str, str]]:
        """Returns the id and version of each project's container."""
        found = {}
        for name in GROUPS:
            for container in self.docker(
                "ps", "--quiet", "--filter", f"label=com.docker.compose.project=wf-{name}"
            ).split():
                env = self.docker("inspect", "--format", '{{join .Config.Env ","}}', container)
                version = re.search(r"VERSION=([^,\s]*)", env)
                found[name] = (container, version[1] if version else "")
        return found


@pytest.fixture
def shop(cluster: Cluster, engine: str, plugins: str) -> Iterator[Shop]:
    shop = Shop(cluster, engine, plugins)
    yield shop
    containers = shop.docker("ps", "--all", "--quiet").split()
    if containers:
        shop.docker("rm", "--force", *containers)


@pytest.mark.slow
@pytest.mark.root
def test_a_deployment_runs_on_three_groups_in_order(cluster: Cluster, shop: Shop) -> None:
    """Each group waits until the previous one is healthy; the next push deploys the next version everywhere."""
    shop.deploy("v1")
    run = newest(cluster, 1)
    wait_until(lambda: set(shop.containers()) == {"database"}, "the database's container")
    shop.open("database")
    wait_until(lambda: set(shop.containers()) == {"database", "backend"}, "the backend's container")
    shop.open("backend", "frontend")
    done(cluster, run)
    message = ["backend is healthy", "database is healthy", "frontend is healthy"]
    wait_until(lambda: sorted(cluster.lines(run))[-3:] == message, "what the services are")

    shop.deploy("v2")
    done(cluster, newest(cluster, 2))
    assert {name: version for name, (_, version) in shop.containers().items()} == dict.fromkeys(GROUPS, "v2")


@pytest.mark.slow
@pytest.mark.root
def test_a_deployment_continues_when_the_daemon_dies_during_compose(cluster: Cluster, shop: Shop) -> None:
    """It is killed while the database becomes healthy: nothing is started twice, and the other two services follow."""
    shop.deploy("v1")
    run = newest(cluster, 1)
    before = wait_until(shop.containers, "the database's container")
    cluster.kill_daemon()
    shop.open(*GROUPS)
    cluster.start_daemon()

    done(cluster, run)

    after = shop.containers()
    assert set(after) == set(GROUPS)
    assert after["database"] == before["database"]
    tries = [event for event in cluster.events(run) if event["type"] == "attempt-dispatched"]
    assert len(tries) == 2 * len(GROUPS)


# Inspection -------------------------------------------------------------------------------------------------------------

INSPECTION = """name: inspect
on: {{push: {{}}}}
jobs:
  look:
    runs-on: {{group: all-servers, target: each}}
    steps:
      - uses: http/wait
        with: {{url: "{url}/health", interval: 1s, timeout: 300s}}
      - uses: http/request
        id: health
        with: {{url: "{url}/health"}}
      - run: sh inspect.sh "$STATUS"
        env: {{STATUS: "${{{{ steps.health.outputs.json.status }}}}"}}
"""


def test_an_inspection_runs_on_every_server(cluster: Cluster) -> None:
    """The inspection uses a script of the repository, and a service that starts late."""
    requested = 0

    def answer(request: Request) -> None:
        nonlocal requested
        requested += 1
        if requested <= 3:
            request.reply(503)
        else:
            request.reply(200, b'{"status": "fine"}', content_type="application/json")

    with served(answer) as server:
        files = {
            "inspect.sh": 'echo "$WATERFLOW_AGENT is $1"\n',
            "workflows/inspect.yml": INSPECTION.format(url=server.url),
        }
        cluster.push(cluster.clone, files)
        run = newest(cluster, 1)
        done(cluster, run)
    message = ["backend-1 is fine", "database-1 is fine", "frontend-1 is fine"]
    wait_until(
        lambda: sorted(line for line in cluster.lines(run) if line.endswith(" is fine")) == message, "three answers"
    )


# Backup -----------------------------------------------------------------------------------------------------------------

BACKUP = """name: backup
on: {{push: {{}}}}
jobs:
  backup:
    runs-on: database
    steps:
      - run: head -c {size} /dev/zero | tr '\\0' x > shop.sql
      - uses: file/transfer
        id: send
        with:
          source: shop.sql
          destination: s3://bucket/shop/{{date}}/shop.sql
          endpoint: {endpoint}
          access-key: {access}
          secret-key: {secret}
      - run: echo "$SUM"
        env: {{SUM: "${{{{ steps.send.outputs.checksum }}}}"}}
"""
SIZE = 20 << 20


def backup(endpoint: str) -> dict[str, str]:
    """Returns the workflow's file."""
    text = BACKUP.format(size=SIZE, endpoint=endpoint, access=KEYS["access-key"], secret=KEYS["secret-key"])
    return {"workflows/backup.yml": text}


def arrived(cluster: Cluster, run: str, bucket: Bucket) -> None:
    """Checks that the whole backup is stored once, under the day's name."""
    (key,) = bucket.keys()
    assert re.fullmatch(r"shop/\d{4}-\d{2}-\d{2}/shop\.sql", key)
    content = bucket.get(key)
    assert content == b"x" * SIZE
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" in cluster.lines(run)
    assert bucket.uploads() == []


@pytest.mark.slow
def test_a_backup_is_stored_under_its_date(cluster: Cluster, bucket: Bucket) -> None:
    """The backup is complete, and its checksum is an output."""
    cluster.push(cluster.clone, backup(bucket.endpoint))
    run = newest(cluster, 1)
    done(cluster, run)
    arrived(cluster, run, bucket)


@pytest.mark.slow
def test_a_backup_completes_when_the_daemon_dies_during_the_upload(cluster: Cluster, bucket: Bucket) -> None:
    """The daemon is killed when half of the parts have been sent: the step continues and is not repeated."""
    with Gate(bucket.endpoint, after_bytes=SIZE // 2) as gate:
        cluster.push(cluster.clone, backup(gate.url))
        run = newest(cluster, 1)
        wait_until(gate.is_reached, "half of the backup to be sent")
        cluster.kill_daemon()
        gate.open()
        cluster.start_daemon()
        done(cluster, run)
    arrived(cluster, run, bucket)
    attempts = [step["attempts"] for step in cluster.run(run)["jobs"][0]["steps"]]
    assert [len(tries) for tries in attempts] == [1, 1, 1]
