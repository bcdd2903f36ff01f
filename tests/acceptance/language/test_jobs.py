"""The workflow language with real processes: where, how often and when jobs run, as their steps see it.

Steps print what they see or write it to a marker file; the daemon's view comes from the API. One cluster with three
servers serves all tests, so each test cleans up what it stops. `PLACE` in a workflow is the test's own folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster, is_running, jobs_of, run_to_end
from tests.acceptance.conftest import MakeCluster
from tests.patience import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, make_cluster: MakeCluster) -> Iterator[Cluster]:
    """A daemon and three servers of the group `web`; one of them is also in `big`, two have a label."""
    made = make_cluster(tmp_path_factory.mktemp("language"))
    try:
        made.start_daemon()
        made.add_agent("web-1", "web", "big", labels={"arch": "arm64"})
        made.add_agent("web-2", "web", labels={"arch": "amd64"})
        made.add_agent("web-3", "web")
        yield made
    finally:
        made.close()


MATRIX = """jobs:
  build:
    name: build ${{ matrix.os }}
    runs-on: web
    strategy:
      max-parallel: 2
      matrix:
        os: [linux, 'mac "os"', $HOME]
        version: [1.20]
        include: [{os: linux, extra: yes}]
    steps:
      - env: {OS: "${{ matrix.os }}"}
        run: |
          echo begin >> PLACE/marks
          test ! -e mine; touch mine
          until test $(grep -c begin PLACE/marks) -ge 2; do sleep 0.02; done
          sleep 0.2
          echo end >> PLACE/marks
          echo "$OS|${{ matrix.version }}|${{ matrix.extra }}|${{ strategy.job-total }}|$WATERFLOW_JOB"
"""


def test_a_matrix_runs_its_instances_with_their_values_within_max_parallel(cluster: Cluster, tmp_path: Path) -> None:
    """Values arrive unchanged, `max-parallel` holds across servers, and each instance has its own directory."""
    run, jobs = run_to_end(cluster, MATRIX, tmp_path)

    assert sorted(cluster.lines(run, 3)) == [
        "$HOME|1.20||3|build[HOME,1.20]",
        "linux|1.20|yes|3|build[linux,1.20,yes]",
        'mac "os"|1.20||3|build[mac-os,1.20]',
    ]
    assert jobs["build[linux,1.20,yes]"]["name"] == "build linux"
    marks = (tmp_path / "marks").read_text().split()
    at_once = [marks[:upto].count("begin") - marks[:upto].count("end") for upto in range(len(marks) + 1)]
    assert (marks.count("end"), max(at_once)) == (3, 2)


def test_fail_fast_stops_running_instances(cluster: Cluster, tmp_path: Path) -> None:
    """The other instance's process ends, and the run is a failure and not cancelled."""
    _, jobs = run_to_end(
        cluster,
        """jobs:
  build:
    runs-on: web
    strategy: {matrix: {kind: [long, bad, never]}, max-parallel: 2}
    steps:
      - run: |
          case $WATERFLOW_JOB in
          *long*) echo $$ > PLACE/new; mv PLACE/new PLACE/pid; exec sleep 300 ;;
          *bad*) while test ! -e PLACE/pid; do sleep 0.02; done; exit 3 ;;
          *) touch PLACE/never ;;
          esac
""",
        tmp_path,
        "failure",
    )

    assert {job["id"]: job["conclusion"] for job in jobs.values()} == {
        "build": "failure",
        "build[long]": "cancelled",
        "build[bad]": "failure",
        "build[never]": "cancelled",
    }
    assert not is_running(int((tmp_path / "pid").read_text()))
    assert not (tmp_path / "never").exists()


def test_labels_choose_among_the_servers_of_a_group(cluster: Cluster) -> None:
    """`runs-on` with labels selects a server that has all of them, and the `agent` context has the labels."""
    run, jobs = run_to_end(
        cluster,
        """jobs:
  arm:
    runs-on: {group: web, labels: {arch: arm64}}
    steps: [{run: 'echo ${{ agent.labels.arch }} ${{ agent.name }} ${{ runner.group }} $WATERFLOW_AGENT'}]
  amd:
    runs-on: {group: web, labels: {arch: amd64}}
    steps: [{run: 'echo ${{ agent.labels.arch }}'}]
  big:
    runs-on: big
    steps: [{run: 'echo big'}]
""",
    )

    assert [jobs[job]["agent"] for job in ("arm", "amd", "big")] == ["web-1", "web-2", "web-1"]
    assert sorted(cluster.lines(run, 3)) == ["amd64", "arm64 web-1 web web-1", "big"]


EACH = """jobs:
  roll:
    runs-on: {group: web, target: each, batch: [1, 100%], max-parallel: 1, pause: 300ms}
    outputs: {at: "${{ steps.here.outputs.at }}"}
    steps:
      - id: here
        run: |
          echo "$WATERFLOW_AGENT $WATERFLOW_JOB" >> PLACE/marks
          echo "at=${{ agent.name }}" >> "$WATERFLOW_OUTPUT"
  everywhere:
    needs: roll
    runs-on: all-servers
    steps:
      - run: echo "here ${{ needs.roll.servers['web-2'].outputs.at }}"
  after:
    needs: [roll, everywhere]
    runs-on: web
    steps:
      - run: echo "${{ needs.everywhere.result }} ${{ toJSON(needs.roll.outputs.at) }}"
"""


def test_a_rollout_runs_in_batches_with_a_pause(cluster: Cluster, tmp_path: Path) -> None:
    """Each server runs once, batch after batch, and each server's outputs can be read by its name."""
    run, jobs = run_to_end(cluster, EACH, tmp_path)

    assert (tmp_path / "marks").read_text().splitlines() == [f"web-{n} roll[web-{n}]" for n in (1, 2, 3)]
    assert sorted(cluster.lines(run, 4)) == ["here web-2", "here web-2", "here web-2", "success null"]
    assert {job: jobs[job]["agent"] for job in jobs if "[" in job} == {
        f"{job}[web-{n}]": f"web-{n}" for job in ("roll", "everywhere") for n in (1, 2, 3)
    }
    batches = [event["type"] for event in cluster.events(run) if event["type"].startswith("batch-")]
    assert batches == ["batch-completed", "batch-started"]


def test_past_max_failures_no_new_server_starts(cluster: Cluster, tmp_path: Path) -> None:
    """One failure is allowed; the second one stops the rollout before the third server."""
    _, jobs = run_to_end(
        cluster,
        """jobs:
  roll:
    runs-on: {group: web, target: each, max-parallel: 1, max-failures: 1}
    steps: [{run: 'echo $WATERFLOW_AGENT >> PLACE/marks; exit 4'}]
  kept-on:
    runs-on: {group: web, target: each, max-parallel: 1, max-failures: 50%}
    steps: [{run: 'test $WATERFLOW_AGENT != web-1'}]
""",
        tmp_path,
        "failure",
    )

    assert (tmp_path / "marks").read_text().split() == ["web-1", "web-2"]
    assert (jobs["roll[web-3]"]["conclusion"], jobs["roll[web-3]"]["reason"]["code"]) == ("skipped", "halted")
    assert [jobs[f"kept-on[web-{n}]"]["conclusion"] for n in (1, 2, 3)] == ["failure", "success", "success"]


OFFLINE = """jobs:
  fail:
    runs-on: {group: web, target: each}
    steps: [{run: 'true'}]
  skip:
    runs-on: {group: web, target: each, offline: skip}
    steps: [{run: 'true'}]
  short:
    runs-on: {group: web, target: each, offline: wait, wait-minutes: 0.005}
    steps: [{run: 'true'}]
  wait:
    runs-on: {group: web, target: each, offline: wait, wait-minutes: 10}
    steps: [{run: 'echo $WATERFLOW_AGENT >> PLACE/marks'}]
"""


def test_an_offline_server_fails_is_skipped_or_is_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    """`offline` decides which of these applies; a server that is waited for runs the job as soon as it is back."""
    cluster.stop_agent("web-3")
    wait_until(lambda: "web-3" not in cluster.connected(), "web-3 to be gone")

    def jobs() -> dict[str, Any]:
        return jobs_of(cluster.run(run))

    try:
        run = cluster.start(OFFLINE.replace("PLACE", str(tmp_path)))
        others = ("fail", "skip", "short", "wait[web-1]", "wait[web-2]")
        wait_until(lambda: all(jobs()[job]["status"] == "completed" for job in others), "the other jobs")
        found = jobs()
    finally:
        cluster.start_agent("web-3")
    ended = jobs_of(cluster.wait_for(run))

    assert (found["fail[web-3]"]["conclusion"], found["fail[web-1]"]["conclusion"]) == ("failure", "success")
    assert (found["skip[web-3]"]["conclusion"], found["skip"]["conclusion"]) == ("skipped", "success")
    assert found["short[web-3]"]["conclusion"] == "timed-out"
    assert "web-3" in found["wait[web-3]"]["steps"][0]["reason"]["text"]
    assert ended["wait[web-3]"]["conclusion"] == "success"
    assert sorted((tmp_path / "marks").read_text().split()) == ["web-1", "web-2", "web-3"]


def test_a_retried_job_starts_on_another_server_and_its_old_directory_is_removed(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The job restarts at its first step in a new directory; the first server's directory is removed at once."""
    run, jobs = run_to_end(
        cluster,
        """jobs:
  a:
    runs-on: web
    retry: {max-attempts: 2, initial-interval: 10ms}
    steps:
      - run: test ! -e mine; touch mine; echo "$WATERFLOW_AGENT $PWD" >> PLACE/marks
      - run: test $(wc -l < PLACE/marks) = 2
      - run: |
          old=$(head -n 1 PLACE/marks | cut -d ' ' -f 2)
          for n in $(seq 2400); do test -e "$old" || { echo tidied; exit; }; sleep 0.05; done
          exit 9
""",
        tmp_path,
    )

    (first, first_place), (second, second_place) = (
        line.split() for line in (tmp_path / "marks").read_text().splitlines()
    )
    assert first != second
    assert first_place != second_place
    assert jobs["a"]["agent"] == second
    assert cluster.lines(run, 1) == ["tidied"]


RERUN = """jobs:
  roll:
    runs-on: {group: web, target: each}
    strategy: {matrix: {part: [a, b]}}
    steps:
      - run: echo "$WATERFLOW_JOB" >> PLACE/marks
      - run: test "$WATERFLOW_AGENT ${{ matrix.part }}" != "web-2 b" || test -e PLACE/mended
  after:
    needs: roll
    runs-on: web
    steps: [{run: echo all of them}]
"""


def test_a_rerun_of_failed_jobs_runs_nothing_else(cluster: Cluster, tmp_path: Path) -> None:
    """A matrix is combined with the servers; the re-run executes only the failed instance, and what depends on it."""
    first, jobs = run_to_end(cluster, RERUN, tmp_path, "failure")
    assert {name: job["conclusion"] for name, job in jobs.items() if job["conclusion"] != "success"} == {
        "roll": "failure",
        "roll[web-2,b]": "failure",
        "after": "skipped",
    }
    (tmp_path / "mended").touch()
    answer = cluster.api("POST", f"/v1/runs/{first}/rerun", json={"failed": True})
    assert answer.status_code == 201, answer.text
    second = cluster.wait_for(answer.json()["id"])

    assert (second["conclusion"], second["rerun_of"]) == ("success", first)
    assert cluster.lines(second["id"], 1) == ["all of them"]
    marks = (tmp_path / "marks").read_text().split()
    once = [f"roll[web-{n},{part}]" for n in (1, 2, 3) for part in "ab"]
    assert sorted(marks) == sorted([*once, "roll[web-2,b]"])


# Concurrency ------------------------------------------------------------------------------------------------------------


def _locked(group: str, folder: Path, name: str, *, at: str, more: str = "") -> str:
    """Returns a workflow of one job that marks its start and continues when its file appears."""
    line = f"concurrency: {{group: {group}, {more}}}"
    return f"""{line if at == "run" else ""}
jobs:
  a:
    runs-on: web
    {line if at == "job" else ""}
    steps:
      - run: |
          echo begin {name} >> {folder}/marks
          echo $$ > {folder}/{name}.new; mv {folder}/{name}.new {folder}/{name}.pid
          for n in $(seq 6000); do test -e {folder}/{name}.go && break; sleep 0.02; done
          echo end {name} >> {folder}/marks
"""


@pytest.mark.parametrize("at", ["run", "job"])
def test_runs_of_one_concurrency_group_run_one_at_a_time(cluster: Cluster, tmp_path: Path, at: str) -> None:
    """Runs take turns in order of arrival; a `latest` replaces those that wait, and a `reject` does not wait."""
    group = f"turns-{at}"
    first = cluster.start(_locked(group, tmp_path, "first", at=at))
    wait_until((tmp_path / "first.pid").exists, "the first to run")
    for name in ("second", "third", "fourth"):
        (tmp_path / f"{name}.go").touch()
    second = cluster.start(_locked(group, tmp_path, "second", at=at))

    def reason() -> str:
        waiting = cluster.run(second)
        return str((waiting if at == "run" else waiting["jobs"][0])["reason"]["text"])

    # On Temporal another workflow knows who holds the slot.
    wait_until(lambda: first in reason(), "the reason to name the run that holds the slot")
    rejected = cluster.wait_for(cluster.start(_locked(group, tmp_path, "fourth", at=at, more="queue: reject")))
    third = cluster.start(_locked(group, tmp_path, "third", at=at, more="queue: latest"))
    replaced = cluster.wait_for(second)
    assert cluster.run(third)["status"] != "completed"
    (tmp_path / "first.go").touch()

    assert cluster.wait_for(first)["conclusion"] == cluster.wait_for(third)["conclusion"] == "success"
    assert rejected["conclusion"] == replaced["conclusion"] == "cancelled"
    assert (tmp_path / "marks").read_text().splitlines() == ["begin first", "end first", "begin third", "end third"]


@pytest.mark.parametrize("at", ["run", "job"])
def test_cancel_in_progress_ends_the_old_process_before_the_new_run_starts(
    cluster: Cluster, tmp_path: Path, at: str
) -> None:
    """The older run is cancelled and its process ends, and only then does the newer run get the lock."""
    group = f"newest-{at}"
    older = cluster.start(_locked(group, tmp_path, "older", at=at))
    wait_until((tmp_path / "older.pid").exists, "the older one to run")
    pid = int((tmp_path / "older.pid").read_text())
    (tmp_path / "newer.go").touch()
    newer = cluster.start(_locked(group, tmp_path, "newer", at=at, more="cancel-in-progress: true"))

    assert cluster.wait_for(newer)["conclusion"] == "success"
    assert cluster.wait_for(older)["conclusion"] == "cancelled"
    assert not is_running(pid)
    assert (tmp_path / "marks").read_text().splitlines() == ["begin older", "begin newer", "end newer"]
