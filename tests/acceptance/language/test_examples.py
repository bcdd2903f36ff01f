"""Each example runs on a real daemon and real agents, and ends as its comments say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.conftest import MakeCluster
from tests.integration.transfer.test_s3 import KEYS, Bucket, bucket, moto
from tests.patience import wait_until

__all__ = ["bucket", "moto"]

EXAMPLES = Path(__file__).parents[3] / "examples"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to run an example."""

    file: str
    #: Options of `waterflowctl run`.
    options: tuple[str, ...] = ()
    #: The command's exit code: 0 for a run that succeeded, 1 for one that failed.
    code: int = 0
    #: Some of the lines that the steps print.
    prints: tuple[str, ...] = ()
    #: Lines that the steps must not print.
    never_prints: tuple[str, ...] = ()


CASES = [
    Case(file="hello-world.yml", prints=("Hello from Waterflow!",)),
    Case(
        file="deploy.yml",
        prints=("42 tables are safe", "frontend for schema 7", "backend for schema 7", "shop is up"),
    ),
    Case(file="on-push.yml", prints=("event:  cli", "commit: none no commit"), never_prints=("this would publish",)),
    Case(
        file="inputs.yml",
        options=("-i", "version=1.4.2", "-i", 'hosts=["a","b"]'),
        prints=("image:    registry.example.org/shop:1.4.2", "replicas: 4 on a, b", "this was a dry run"),
        never_prints=("releasing to staging",),
    ),
    Case(
        file="inputs.yml",
        options=("-i", "version=1.4.2", "-i", "environment=production", "-i", "dry-run=false"),
        prints=("releasing to production",),
        never_prints=("this was a dry run",),
    ),
    Case(file="inputs.yml", options=("-i", "version=latest"), code=5),
    Case(
        file="environment.yml",
        prints=("shop-eu at debug", "ports: 16161", "shop-eu-build-17 on port 8080", "first line", "second line"),
    ),
    Case(
        file="clean-up.yml",
        prints=("worked", "published", "cleaned up", "test ended with success"),
        never_prints=("the work ended with exit code 3",),
    ),
    Case(
        file="clean-up.yml",
        options=("-i", "break=true"),
        code=1,
        prints=("the work ended with exit code 3", "cleaned up", "test ended with failure"),
        never_prints=("published",),
    ),
    Case(
        file="continue-on-error.yml",
        prints=("outcome:    failure", "conclusion: success", "the check found something", "went on"),
    ),
    Case(file="retry.yml", prints=("attempt 1", "attempt 2", "attempt 3", "it took 3 attempts")),
    Case(file="timeouts.yml", prints=("serving", "closing files", "failure")),
    Case(
        file="nightly-backup.yml",
        options=("--var", "settle=200ms"),
        prints=("the copy is good", "keeping the last 7"),
        never_prints=("no backup tonight",),
    ),
    Case(
        file="matrix.yml",
        prints=(
            "testing postgres 1.20 --fast",
            "testing postgres 2.0 --fast",
            "testing mysql 1.20 ",
            "testing sqlite 3 ",
            "instance 3 of 4",
            "shard b",
        ),
        never_prints=("testing mysql 2.0 ",),
    ),
    Case(
        file="rolling-update.yml",
        options=("-i", "version=2.0.0"),
        prints=("update: success", '      "version": "2.0.0"'),
    ),
    Case(
        file="control-flow.yml",
        prints=(
            "alpha goes first (prepared yes)",
            "beta follows",
            "look at the cache",
            "build the index",
            "attempt 3",
            "live",
        ),
        never_prints=("attempt 4",),
    ),
    Case(file="concurrency.yml", prints=("deploying to staging", "migrating")),
    Case(file="concurrency.yml", options=("-i", "environment=production"), prints=("deploying to production",)),
    # It calls a file that is not sent with it; a test below starts it from a repository.
    Case(file="reusable.yml", code=5),
    Case(file="own-node.yml", code=5),
    Case(file="start-another.yml", code=5),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, make_cluster: MakeCluster) -> Iterator[Cluster]:
    """One cluster for all examples, with the groups that they use, and a repository."""
    made = make_cluster(tmp_path_factory.mktemp("examples"))
    try:
        made.make_repository()
        made.daemon_environment["WATERFLOW_SECRET_FORGE_TOKEN"] = "forged"
        made.daemon_environment["WATERFLOW_SECRET_S3_KEY"] = KEYS["access-key"]
        made.daemon_environment["WATERFLOW_SECRET_S3_SECRET"] = KEYS["secret-key"]
        made.start_daemon()
        made.add_agent("web-1", "web-servers")
        made.add_agent("web-2", "web-servers")
        made.add_agent("db-1", "db-servers")
        yield made
    finally:
        made.close()


def test_every_example_has_a_case() -> None:
    """Every example file has a case."""
    by_others = {
        *("build-and-deploy.yml", "cache.yml", "containers.yml", "inspect-servers.yml", "reusable-build.yml"),
        "s3-backup.yml",
    }
    assert {case.file for case in CASES} | by_others == {file.name for file in EXAMPLES.glob("*.yml")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join([case.file, *case.options]))
def test_an_example_ends_as_its_comments_say(cluster: Cluster, case: Case) -> None:
    """When started as its comment shows, it exits with the code and prints the expected lines."""
    ended = cluster.ctl("run", str(EXAMPLES / case.file), *case.options)
    assert ended.returncode == case.code, ended.stdout + ended.stderr
    if case.prints or case.never_prints:
        run = cluster.api("GET", "/v1/runs?limit=1").json()["runs"][0]["id"]
        wait_until(lambda: set(case.prints) <= set(cluster.lines(run)), f"run {run} to print all of {case.prints}")
        lines = cluster.lines(run)
        assert not set(case.never_prints) & set(lines), lines


def test_the_example_with_an_approval_waits_for_it(cluster: Cluster) -> None:
    """The last step of control-flow.yml does not run before it is approved."""
    started = cluster.ctl("run", str(EXAMPLES / "control-flow.yml"), "-i", "ask=true", "--detach")
    assert started.returncode == 0, started.stderr
    run = cluster.api("GET", "/v1/runs?limit=1").json()["runs"][0]["id"]
    (requested,) = wait_until(lambda: cluster.run(run)["approvals"], "the question")
    assert "Roll out to alpha, beta" in requested["reason"]["text"]
    assert "live" not in cluster.lines(run)
    assert cluster.ctl("approve", run).returncode == 0
    assert cluster.wait_for(run)["conclusion"] == "success"
    wait_until(lambda: "live" in cluster.lines(run), "the last step's output")


def test_the_example_of_several_files_starts_from_a_repository(cluster: Cluster) -> None:
    """reusable.yml works when it is pushed together with the workflow that it calls and the composite step."""
    names = {"workflows/reusable.yml": "reusable.yml", "reusable-build.yml": "reusable-build.yml"}
    step = "steps/announce/step.yml"
    files = {path: (EXAMPLES / name).read_text() for path, name in {**names, step: step}.items()}
    revision = cluster.push(cluster.clone, files)
    row = wait_until(
        lambda: next(iter(cluster.api("GET", f"/v1/runs?revision={revision}").json()["runs"]), None), "the run"
    )

    found = cluster.wait_for(row["id"])
    assert found["conclusion"] == "success", found
    assert sorted(cluster.lines(row["id"], 3)) == [
        "/SRV/BUILDS/WEB.TAR IS READY",
        "building web with 2 jobs",
        "it said /SRV/BUILDS/WEB.TAR IS READY",
    ]


def test_the_example_with_an_own_node_starts_from_a_repository(cluster: Cluster) -> None:
    """own-node.yml works when it is pushed together with the class that its step uses."""
    node = "nodes/release/notes.py"
    schema = "nodes/release/notes.schema.json"
    names = {"workflows/own-node.yml": "own-node.yml", node: node, schema: schema}
    revision = cluster.push(cluster.clone, {path: (EXAMPLES / name).read_text() for path, name in names.items()})
    row = wait_until(
        lambda: next(iter(cluster.api("GET", f"/v1/runs?revision={revision}").json()["runs"]), None), "the run"
    )

    found = cluster.wait_for(row["id"])
    assert found["conclusion"] == "success", found
    lines = cluster.lines(row["id"], 6)
    assert {"## Fixes", "- the cart keeps its order", "3 changes in 2 parts"} <= set(lines), lines


def test_the_backup_to_s3_is_uploaded_and_verified(cluster: Cluster, bucket: Bucket) -> None:
    """The backup is stored under its two names, and the fetched copy has the checksum of what was sent."""
    path = ("--var", f"endpoint={bucket.endpoint}", "--var", "bucket=bucket")
    ended = cluster.ctl("run", str(EXAMPLES / "s3-backup.yml"), *path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    latest, day = sorted(bucket.keys(), key=len)
    assert bucket.get(latest) == bucket.get(day) != b""
