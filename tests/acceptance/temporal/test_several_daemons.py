"""Two daemons with one Temporal server, and agents that know both: each is killed in the middle of a run, which continues.

The second daemon begins with a copy of the first one's data directory: agents, tokens and the server's key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from tests.acceptance.temporal.conftest import AGENTS, Pair
from tests.acceptance.temporal_cluster import TemporalCluster
from tests.patience import wait_until
from waterflowd.temporal.workflow import messages

STEPS = 30


def _workflow(marker: Path) -> str:
    steps = ", ".join(
        f"{{run: 'echo {number} >> {marker}-${{{{ agent.name }}}}; sleep 0.3'}}" for number in range(STEPS)
    )
    # The labels are known to the daemon that takes the turn, also if the agents are connected to the other one.
    servers = "{group: both, labels: {zone: a}, target: each, offline: wait}"
    return f"jobs: {{all: {{runs-on: {servers}, steps: [{steps}]}}}}"


@pytest.mark.slow
def test_another_daemon_continues_what_a_killed_one_has_begun(daemon_pair: Pair, tmp_path: Path) -> None:
    """There and back: the agents connect elsewhere, and no step runs twice."""
    one, two = daemon_pair
    marker = tmp_path / "marker"
    files = [Path(f"{marker}-{name}") for name in AGENTS]
    run = one.start(_workflow(marker))
    wait_until(lambda: all(file.exists() for file in files), "the first steps")
    _kill(one, two, run, files)
    one.start_daemon()
    _kill(two, one, run, files)

    found = one.wait_for(run)
    assert found["conclusion"] == "success", (found["reason"], one.events(run))
    for file in files:
        assert file.read_text().split() == [str(number) for number in range(STEPS)]


@pytest.mark.slow
def test_every_daemon_knows_the_open_and_stalled_runs_of_all(daemon_pair: Pair) -> None:
    """An operator resets the workflow of a run, which stalls; both say so, and that it continues after `retry`."""
    one, two = daemon_pair
    started = sum(_metric(each, 'waterflow_runs_started_total{trigger="api"}') for each in daemon_pair)
    run = one.start("jobs: {all: {runs-on: both, steps: [{uses: approval, with: {approvers: []}}, {run: echo done}]}}")
    for each in daemon_pair:
        wait_until(lambda each=each: _metric(each, "waterflow_runs_open") == 1, "the open run")  # type: ignore[misc]
    assert sum(_metric(each, 'waterflow_runs_started_total{trigger="api"}') for each in daemon_pair) == started + 1
    wait_until(lambda: one.run(run)["approvals"], "the request for an approval")

    asyncio.run(_reset(one, run))

    for each in daemon_pair:
        wait_until(lambda each=each: _metric(each, "waterflow_runs_stalled") == 1, "the stalled run")  # type: ignore[misc]
        [problem] = [text for text in each.api("GET", "/v1/status").json()["problems"] if run in text]
        assert "reset" in problem
    asyncio.run(_retry(one, run))
    for each in daemon_pair:
        wait_until(lambda each=each: _metric(each, "waterflow_runs_stalled") == 0, "the run to continue")  # type: ignore[misc]
        assert not [text for text in each.api("GET", "/v1/status").json()["problems"] if run in text]
    wait_until(lambda: two.ctl("approve", run, "all").returncode == 0, "the approval")
    assert one.wait_for(run)["conclusion"] == "success"
    for each in daemon_pair:
        wait_until(lambda each=each: _metric(each, "waterflow_runs_open") == 0, "the end")  # type: ignore[misc]
    assert sum(_metric(each, 'waterflow_runs_completed_total{conclusion="success"}') for each in daemon_pair) >= 1


async def _reset(cluster: TemporalCluster, run: str) -> None:
    client = await cluster.namespace.client()
    history = await client.get_workflow_handle(f"run/{run}").fetch_history()
    completed = [
        each.event_id for each in history.events if each.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    ]
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=f"run/{run}"),
        reason="a test",
        request_id=uuid4().hex,
        workflow_task_finish_event_id=completed[-1],
    )
    await client.workflow_service.reset_workflow_execution(request)


async def _retry(cluster: TemporalCluster, run: str) -> None:
    client = await cluster.namespace.client()
    await client.get_workflow_handle(f"run/{run}").signal(messages.RETRY_SIGNAL)


def _metric(cluster: TemporalCluster, name: str) -> int:
    lines = cluster.api("GET", "/metrics").text.splitlines()
    return next((int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(f"{name} ")), 0)


def _kill(daemon: TemporalCluster, other: TemporalCluster, run: str, files: Sequence[Path]) -> None:
    """Kills a daemon. Returns when each server has done another step after the one that it may have been at."""
    before = [_steps(file) for file in files]
    daemon.kill_daemon()
    killed_at = time.monotonic()
    wait_until(lambda: other.connected() >= set(AGENTS), "the agents to be connected to the other daemon")
    connected_s = time.monotonic() - killed_at
    wait_until(
        lambda: all(_steps(file) >= min(count + 2, STEPS) for file, count in zip(files, before, strict=True)),
        "further steps on each server",
    )
    print(f"agents connected after {connected_s:.1f} s, all at work after {time.monotonic() - killed_at:.1f} s")


def _steps(file: Path) -> int:
    return len(file.read_text().splitlines())
