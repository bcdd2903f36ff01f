"""What a step costs in Temporal's history: the real engine, a real gateway, ids that do not compress. No figure is a time."""

from __future__ import annotations

import base64
import os
from typing import NamedTuple
from uuid import uuid4

from tests.integration.temporal.gateway_harness import Cluster, Daemon
from tests.integration.temporal.server import Namespace
from waterflowd.fleet.events import AgentApproved
from waterflowd.model.ids import AgentId
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.host import START_AT

#: The goals for each further step of a job. That for state transitions is 4.5; heartbeats and repeated tasks on a busy machine
#: count as well, so they are only printed.
EVENTS_MAX = 8.5
BYTES_MAX = 2_500
SHORT, LONG = 10, 40


class Cost(NamedTuple):
    """What Temporal stores of a run."""

    events: float
    size: float
    #: Writes of the workflow's state to Temporal's database.
    transitions: float


async def test_a_step_costs_little(namespace: Namespace) -> None:
    """Each further step of a job: its attempt, one turn, and nothing else."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = AgentId("SHA256:" + base64.b64encode(os.urandom(32)).decode().rstrip("="))
        cluster.registry.apply(
            AgentApproved(at=START_AT, by="ada", agent=agent, public_key="k", name="web-1", groups=("web",))
        )
        daemon.hello(agent, boot_id=str(uuid4()))
        short, long = await _cost(cluster, daemon, SHORT), await _cost(cluster, daemon, LONG)
    step = Cost(*((more - less) / (LONG - SHORT) for less, more in zip(short, long, strict=True)))
    print(f"a step: {step.events:.2f} events, {step.size:.0f} bytes, {step.transitions:.2f} state transitions")
    assert step.events <= EVENTS_MAX
    assert step.size <= BYTES_MAX


async def _cost(cluster: Cluster, daemon: Daemon, steps: int) -> Cost:
    [agent] = cluster.registry.agents
    before = len(daemon.tasks(agent))
    run = await cluster.start(f"jobs: {{a: {{runs-on: web, steps: [{', '.join(['{run: make test}'] * steps)}]}}}}")
    for count in range(steps):
        task = (await daemon.offered(agent, before + count + 1))[-1]
        await daemon.finished(agent, task).arrives()
    assert (await run.result()).conclusion is Conclusion.SUCCESS
    described = (await run.handle.describe()).raw_description.workflow_execution_info
    return Cost(described.history_length, described.history_size_bytes, described.state_transition_count)
