"""`kill -9` of the daemon and of the agent inside a loop, a parallel, an approval and a sleep: every step runs once.

Each step reports that it has started, waits for a file, and reports that it has ended, so the state at each kill is
known.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

WORKFLOW = """jobs:
  a:
    runs-on: web
    steps:
      - run: echo "$WATERFLOW_STEP" >> PLACE/marks
      - id: rows
        uses: loop
        with:
          items: [x, y, z]
          steps:
            - &held
              run: |
                echo "begin $WATERFLOW_STEP" >> PLACE/marks
                touch "PLACE/$(echo $WATERFLOW_STEP | tr / :)"
                while test ! -e "PLACE/go-$(echo $WATERFLOW_STEP | tr / :)"; do sleep 0.05; done
                echo "end $WATERFLOW_STEP" >> PLACE/marks
                echo "done=$WATERFLOW_STEP" >> "$WATERFLOW_OUTPUT"
            - uses: condition
              with: {if: item != 'y', then: [{run: 'echo "${{ item }} $WATERFLOW_STEP" >> PLACE/marks'}]}
      - id: both
        uses: parallel
        with:
          branches:
            - [*held, {run: 'echo "$WATERFLOW_STEP" >> PLACE/marks'}]
            - [*held]
            - [{uses: sleep, with: {duration: 1500ms}}, {run: 'echo "$WATERFLOW_STEP" >> PLACE/marks'}]
      - {id: go, uses: approval, with: {message: Go on?}}
      - {id: nap, uses: sleep, with: {duration: 2s}}
      - run: echo "$WATERFLOW_STEP ${{ len(steps.rows.outputs.results) }} ${{ steps.go.outputs.approved }}" >> PLACE/marks
"""


class Crashes:
    """One run in a cluster, and the crashes that happen to it."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.place = directory
        self.run = cluster.start(WORKFLOW.replace("PLACE", str(directory)))

    def wait_for(self, step: str) -> None:
        """Waits until the step has started."""
        wait_until((self.place / step.replace("/", ":")).exists, f"{step} to begin")

    def let_go(self, step: str) -> None:
        """Lets the step end."""
        (self.place / f"go-{step.replace('/', ':')}").touch()

    def wait_for_mark(self, mark: str) -> None:
        """Waits until the marker file has the line."""
        wait_until(lambda: mark in self.marks(), mark)

    def marks(self) -> list[str]:
        """Returns the lines of the marker file."""
        path = self.place / "marks"
        return path.read_text().splitlines() if path.exists() else []

    def step_reason(self, step: str) -> str:
        """Returns the code of the step's reason."""
        steps = {row["id"]: row for row in self.cluster.run(self.run)["jobs"][0]["steps"]}
        return str(steps[step]["reason"]["code"])

    def history(self) -> list[tuple[str, str | None]]:
        """Returns the types of the run's events and their steps, which a late reader still sees."""
        return [(event["type"], event.get("step")) for event in self.cluster.events(self.run)]

    def restart_both(self) -> None:
        """Kills the daemon and the agent, and starts both."""
        self.cluster.kill_daemon()
        self.cluster.kill_agent("web-1")
        self.cluster.start_daemon()
        self.cluster.start_agent("web-1")


def test_a_run_survives_kills_in_a_loop_a_parallel_an_approval_and_a_sleep(
    empty_cluster: Cluster, tmp_path: Path
) -> None:
    """Steps that end while both are down count, waiting parts keep waiting, and no mark appears twice."""
    directory = tmp_path / "place"
    directory.mkdir()
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    crashes = Crashes(cluster, directory)

    crashes.wait_for("rows[0]/1")
    cluster.kill_daemon()
    crashes.let_go("rows[0]/1")
    crashes.wait_for_mark("end rows[0]/1")
    cluster.start_daemon()
    crashes.wait_for("rows[1]/1")
    cluster.kill_agent("web-1")
    crashes.let_go("rows[1]/1")
    crashes.wait_for_mark("end rows[1]/1")
    cluster.start_agent("web-1")
    crashes.wait_for("rows[2]/1")
    crashes.restart_both()
    crashes.let_go("rows[2]/1")

    crashes.wait_for("both[0]/1")
    crashes.wait_for("both[1]/1")
    cluster.kill_daemon()
    crashes.let_go("both[0]/1")
    crashes.wait_for_mark("end both[0]/1")
    cluster.kill_agent("web-1")
    cluster.start_daemon()
    cluster.start_agent("web-1")
    crashes.let_go("both[1]/1")

    wait_until(lambda: crashes.step_reason("go") == "waiting-approval", "the approval")
    crashes.restart_both()
    assert crashes.step_reason("go") == "waiting-approval"
    assert cluster.api("POST", f"/v1/runs/{crashes.run}/approve", json={}).status_code == 200
    wait_until(lambda: ("step-sleeping", "nap") in crashes.history(), "the sleep")
    crashes.restart_both()
    found = cluster.wait_for(crashes.run)

    assert found["conclusion"] == "success", found
    held = ["rows[0]/1", "rows[1]/1", "rows[2]/1", "both[0]/1", "both[1]/1"]
    expected = [f"{word} {step}" for step in held for word in ("begin", "end")]
    expected += ["1", "x rows[0]/2/1", "z rows[2]/2/1", "both[0]/2", "both[2]/2", "6 3 true"]
    assert Counter(crashes.marks()) == Counter(expected)


def _held(directory: Path, name: str, more: str) -> str:
    return f"""concurrency: {{group: deploy, {more}}}
jobs:
  a:
    runs-on: {{group: web, target: each}}
    retry: {{max-attempts: 2, initial-interval: 1500ms}}
    steps:
      - run: |
          echo "begin {name}" >> {directory}/marks
          while test ! -e {directory}/{name}; do sleep 0.05; done
          echo "end {name}" >> {directory}/marks
          test $(grep -c "begin {name}" {directory}/marks) = 2
"""


def test_queues_and_pending_job_retries_survive_kills(empty_cluster: Cluster, tmp_path: Path) -> None:
    """The holder and the queue of a concurrency group are in the log, and so is the time of a job's next try."""
    directory = tmp_path / "place"
    directory.mkdir()
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    first = cluster.start(_held(directory, "first", ""))
    wait_until((directory / "marks").exists, "the first to run")
    second = cluster.start(_held(directory, "second", ""))
    assert cluster.run(second)["status"] == "waiting"
    cluster.kill_daemon()
    (directory / "first").touch()
    cluster.start_daemon()
    wait_until(lambda: any(event["type"] == "job-retry-scheduled" for event in cluster.events(first)), "the pause")
    cluster.kill_daemon()
    cluster.kill_agent("web-1")
    (directory / "second").touch()
    cluster.start_daemon()
    cluster.start_agent("web-1")

    assert [cluster.wait_for(run)["conclusion"] for run in (first, second)] == ["success", "success"]
    marks = (directory / "marks").read_text().splitlines()
    assert marks == [f"{word} {name}" for name in ("first", "second") for _ in range(2) for word in ("begin", "end")]
