"""The engine on Temporal, with Temporal's development server: what a step costs there, and how fast runs are.

The server, the daemon and the agents share this machine, so the rates are those of all of them together.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import statistics
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from temporalio.service import RPCError

from bench.figures import Row
from tests.acceptance.temporal_cluster import TemporalCluster
from tests.integration.temporal import gateway_harness as harness
from tests.integration.temporal.server import Server, new_namespace
from waterflow_agent.wire import messages as wire
from waterflowd.model.ids import AgentId

SHORT, LONG = 10, 40
RUNS, STEPS = 8, 25
KILLS = 3
LIGHT_AGENTS = (200, 1_000)
#: What Temporal itself sets.
DEFAULTS = {"history.transferProcessorMaxPollRPS": "20"}


class Cost(NamedTuple):
    """What Temporal stores."""

    events: float
    size: float
    #: Writes of the state of workflows to Temporal's database.
    transitions: float


def temporal(folder: Path) -> list[Row]:
    """All figures; none where the development server is not installed."""
    if not (Path(sysconfig.get_path("scripts")) / "temporal").exists():
        return []
    server = Server(_made(folder / "prepared"))
    try:
        cluster = _cluster(server, folder / "cluster")
        try:
            rows = [*_cost(cluster), *_rate(cluster), _continues(cluster)]
        finally:
            cluster.close()
        rows += _second_daemon(server, folder)
        rows += [asyncio.run(_many_servers(server, agents)) for agents in LIGHT_AGENTS]
    finally:
        server.close()
    server = Server(_made(folder / "default"), DEFAULTS)
    try:
        cluster = _cluster(server, folder / "default-cluster")
        try:
            _run(cluster, 1)
            return [*rows, _alone(cluster, "Temporal's own settings")]
        finally:
            cluster.close()
    finally:
        server.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _cluster(server: Server, folder: Path) -> TemporalCluster:
    """A cluster with a daemon and three agents, which are running."""
    cluster = TemporalCluster(_made(folder), server)
    cluster.start_daemon()
    for name in ("web-1", "web-2", "web-3"):
        cluster.add_agent(name, "web", slots=8)
    return cluster


def _no_op(steps: int) -> str:
    lines = "\n".join("      - {uses: log, with: {message: x}}" for _ in range(steps))
    return f"name: no-op\njobs:\n  one:\n    runs-on: web\n    steps:\n{lines}\n"


def _run(cluster: TemporalCluster, steps: int) -> str:
    run = cluster.start(_no_op(steps))
    assert cluster.wait_for(run)["conclusion"] == "success"
    return run


def _cost(cluster: TemporalCluster) -> list[Row]:
    """The cost of each further step of a job."""
    _run(cluster, 1)
    short, long = (asyncio.run(_stored(cluster, _run(cluster, steps))) for steps in (SHORT, LONG))
    step = Cost(*((more - less) / (LONG - SHORT) for less, more in zip(short, long, strict=True)))
    return [
        Row("Temporal: events a step", f"{step.events:.2f}", "8.5", step.events <= 8.5),
        Row("Temporal: bytes a step", f"{step.size:,.0f}", "2,500", step.size <= 2_500),
        Row("Temporal: state transitions a step", f"{step.transitions:.2f}", "4.5", step.transitions <= 4.5),
    ]


async def _stored(cluster: TemporalCluster, run: str) -> Cost:
    client = await cluster.namespace.client()
    info = (await client.get_workflow_handle(f"run/{run}").describe()).raw_description.workflow_execution_info
    return Cost(info.history_length, info.history_size_bytes, info.state_transition_count)


def _rate(cluster: TemporalCluster) -> list[Row]:
    """Steps a second of many runs at once, and from step to step of one run."""
    began = time.monotonic()
    with ThreadPoolExecutor(RUNS) as threads:
        runs = list(threads.map(lambda _: cluster.start(_no_op(STEPS)), range(RUNS)))
    for run in runs:
        assert cluster.wait_for(run)["conclusion"] == "success"
    rate = RUNS * STEPS / (time.monotonic() - began)
    return [
        _alone(cluster, "prepared cluster"),
        Row(f"Temporal: steps a second, {RUNS} runs", f"{rate:.0f}", "50", rate >= 50, "with server and agents"),
    ]


def _alone(cluster: TemporalCluster, note: str) -> Row:
    at = _dispatched(cluster, _run(cluster, LONG))
    median_ms = statistics.median(later - earlier for earlier, later in itertools.pairwise(at)) * 1000
    name = "Temporal: step to step, 1 run, p50"
    return Row(name, f"{median_ms:.0f} ms", "40 ms", median_ms <= 40, f"{note}, with server and agents")


def _second_daemon(server: Server, folder: Path) -> list[Row]:
    """What each daemon does for a step of the whole cluster; this machine may have too few processors for both of them."""
    one = TemporalCluster(_made(folder / "one"), server)
    two = TemporalCluster(_made(folder / "two"), server, one)
    try:
        one.start_daemon()
        one.stop_daemon()
        # All daemons have one key.
        shutil.copytree(one.folder / "daemon", two.folder / "daemon")
        one.start_daemon()
        for number in range(3):
            one.add_agent(f"one-{number}", "web", slots=8)
        _run(one, STEPS)
        [alone_ms] = _work_ms([one])
        two.start_daemon()
        for number in range(3):
            two.add_agent(f"two-{number}", "web", slots=8)
        _run(two, STEPS)
        both_ms = _work_ms([one, two])
    finally:
        two.close()
        one.close()
    gain = alone_ms / max(both_ms) - 1
    shares = " and ".join(f"{each:.1f} ms" for each in both_ms)
    return [
        Row("Temporal: processor time of a daemon a step", f"{alone_ms:.1f} ms", "8.3 ms", alone_ms <= 8.3),
        Row(
            "Temporal: gain of a second daemon", f"{gain:.0%}", "80 %", gain >= 0.8, f"processor time a step: {shares}"
        ),
    ]


def _work_ms(clusters: list[TemporalCluster]) -> list[float]:
    """The processor time of each daemon for a step of many runs."""
    before = [_processor_ms(cluster.daemon_pid) for cluster in clusters]
    with ThreadPoolExecutor(RUNS) as threads:
        starts = [threads.submit(clusters[number % len(clusters)].start, _no_op(STEPS)) for number in range(2 * RUNS)]
    for start in starts:
        assert clusters[0].wait_for(start.result())["conclusion"] == "success"
    after = [_processor_ms(cluster.daemon_pid) for cluster in clusters]
    return [(later - earlier) / (2 * RUNS * STEPS) for earlier, later in zip(before, after, strict=True)]


def _processor_ms(pid: int) -> float:
    """What a process and its children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own_ms = (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own_ms + sum(_processor_ms(int(child)) for child in children)


def _continues(cluster: TemporalCluster) -> Row:
    """From the kill of a daemon until the first step that is dispatched afterwards. Its restart is part of that."""
    waits = []
    for _ in range(KILLS):
        lines = "\n".join("      - run: sleep 0.2" for _ in range(60))
        run = cluster.start(f"jobs:\n  one:\n    runs-on: web\n    steps:\n{lines}\n")
        while len(_dispatched(cluster, run)) < 3:
            time.sleep(0.05)
        cluster.kill_daemon()
        killed_at = time.time()
        cluster.start_daemon()
        while not (later := [at for at in _dispatched(cluster, run) if at > killed_at]):
            time.sleep(0.05)
        waits.append(later[0] - killed_at)
        cluster.api("POST", f"/v1/runs/{run}/cancel", json={})
        cluster.wait_for(run)
    worst = max(waits)
    name = "Temporal: a run continues after its daemon was killed"
    return Row(name, f"{worst:.1f} s", "5 s", worst <= 5, f"the longest of {KILLS}, restart included")


def _dispatched(cluster: TemporalCluster, run: str) -> list[float]:
    """When attempts were dispatched."""
    events = [event for event in cluster.events(run) if event["type"] == "attempt-dispatched"]
    return [datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp() for event in events]


async def _many_servers(server: Server, count: int) -> Row:
    """One run on many servers, whose agents report the end of a step at once. Real gateway, without the network."""
    namespace = await new_namespace(server)
    async with harness.Cluster.running(namespace) as cluster, harness.Daemon.running(cluster) as daemon:
        agents = [cluster.enroll(f"web-{number}", "web") for number in range(count)]
        loop = asyncio.get_running_loop()

        def answer(agent: AgentId, message: wire.DaemonMessage) -> None:
            if isinstance(message, wire.Offer):
                loop.call_soon(daemon.finished, agent, message.task.key)

        daemon.link.watch = answer
        for agent in agents:
            daemon.hello(agent)
        began = time.monotonic()
        run = await cluster.start("jobs: {a: {runs-on: {group: web, target: each}, steps: [{run: x}]}}")
        await _ended(run)
        took_s = time.monotonic() - began
    goal_s = 45 * count / 1000
    name = f"Temporal: one run on {count:,} light agents"
    return Row(name, f"{took_s:.1f} s", f"{goal_s:.0f} s", took_s <= goal_s, f"{count / took_s:.0f} jobs a second")


async def _ended(run: harness.Run) -> None:
    """Waits until the run has ended; a busy server may lose a call."""
    while True:
        with contextlib.suppress(RPCError):
            await run.result()
            return
        await asyncio.sleep(0.1)
