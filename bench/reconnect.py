"""A thousand agents reconnect at once: how long it takes to settle all of them after a restart of the daemon."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from bench.figures import Row
from bench.light_agents import Crew, Member
from bench.restart import BOOT_ID, STEPS, history, past
from tests.acceptance.cluster import Cluster
from waterflow_agent.keys import KeyPair
from waterflow_agent.testing import task_id
from waterflowd.app import bootstrap
from waterflowd.dispatch.keys import load_server_keys
from waterflowd.fleet.events import AgentApproved
from waterflowd.host.run_summary import summary
from waterflowd.model import ids, plan
from waterflowd.model.ids import AgentId
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.store.opening import open_store

AGENTS = 1_000
#: Every link has a separate ZeroMQ context, with two threads and a dozen file descriptors.
AGENTS_PER_PROCESS = 250
PATIENCE_S = 120.0


async def _fill(data_dir: Path) -> list[Member]:
    """Writes a log with `AGENTS` agents, each of which has started the last step of a run."""
    content = past()
    compiled, plan_hash = plan.decode(content), plan.content_hash(content)
    at = time.time_ns() // 1_000_000 - 10_000_000
    members: list[Member] = []
    approved: list[AgentApproved] = []
    batch = Batch(appends=[], plans={plan_hash: content}, summaries=[], keys={}, counters={})
    for number in range(AGENTS):
        public, secret = (half.decode() for half in zmq.curve_keypair())
        keys = KeyPair(public=public, secret=secret)
        agent = AgentId(keys.fingerprint)
        approved.append(
            AgentApproved(at=at, by="bench", agent=agent, public_key=public, name=f"light-{number}", groups=("web",))
        )
        run, happened = history(plan_hash, compiled, number + 1, at + number, is_open=True, agent=agent)
        batch.appends.append(StreamAppend(stream=ids.run_stream(run.id), expected=0, at=at + number, events=happened))
        batch.summaries.append(summary(run))
        members.append(Member(keys, task_id(run.id, "one", str(STEPS), 1, 1)))
    batch.appends.append(StreamAppend(stream=ids.FLEET, expected=0, at=at + AGENTS, events=approved))
    with open_store(data_dir, bootstrap.UNIONS) as store:
        await store.log.append(batch)
    return members


def _metric(cluster: Cluster, name: str) -> float:
    """The value of a metric of the daemon; 0 if it has no value yet."""
    for line in cluster.api("GET", "/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    return 0.0


def _wait(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < deadline, "the agents did not come in time"
        time.sleep(0.1)


def reconnect(folder: Path) -> list[Row]:
    """Time from the restart of a killed daemon until a thousand agents are connected and their attempts are settled."""
    cluster = Cluster(folder)
    members = asyncio.run(_fill(folder / "daemon"))
    crews: list[subprocess.Popen[bytes]] = []
    try:
        cluster.start_daemon()
        server_key = load_server_keys(folder / "daemon").public
        for begin in range(0, AGENTS, AGENTS_PER_PROCESS):
            crew = Crew(
                f"tcp://127.0.0.1:{cluster.work_port}", server_key, BOOT_ID, members[begin : begin + AGENTS_PER_PROCESS]
            )
            file = folder / f"crew-{begin}"
            file.write_bytes(msgspec.msgpack.encode(crew))
            crews.append(cluster.spawn("bench.light_agents", str(file), log=folder / "crews.log"))
        _wait(lambda: _metric(cluster, 'waterflow_agents{state="connected"}') == AGENTS)
        cluster.kill_daemon()
        began = time.perf_counter()
        cluster.start_daemon()
        ready_s = time.perf_counter() - began
        _wait(lambda: _metric(cluster, 'waterflow_agents{state="connected"}') == AGENTS)
        connected_s = time.perf_counter() - began
        _wait(lambda: _metric(cluster, "waterflow_runs_open") == 0)
        settled_s = time.perf_counter() - began
    finally:
        for process in crews:
            process.kill()
            process.wait()
        cluster.close()
    return [
        Row(
            f"{AGENTS:,} agents with a running step each: from the daemon's start to all settled",
            f"{settled_s:.1f} s",
            "10 s",
            settled_s <= 10,
            f"ready after {ready_s:.1f} s, all connected after {connected_s:.1f} s, all results durable at the end",
        )
    ]
