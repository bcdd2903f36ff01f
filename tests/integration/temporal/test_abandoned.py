"""Activities that Temporal believes a daemon has, and that it does not have: they continue without a timeout.

The test takes them from their queue in the daemon's name and drops the answer, as it happens when a process or the server is
killed, or a poll ends, at that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueRequest

from tests.integration.temporal.gateway_harness import Cluster, Daemon, Run, until
from tests.integration.temporal.server import LOST_TASK_S, Namespace, Server
from tests.patience import PATIENCE_S
from waterflowd.model.ids import AgentId
from waterflowd.model.statuses import Conclusion
from waterflowd.temporal import orders

ONE = "jobs: {a: {runs-on: web, steps: [{run: work}]}}"


async def test_what_a_killed_process_had_taken_continues_with_the_next_one(namespace: Namespace) -> None:
    """It had taken the request for a slot, which no agent can tell the next process of."""
    async with Cluster.running(namespace) as cluster:
        agent = cluster.enroll("one", "web")
        run = await cluster.start(ONE)
        await _take_and_drop(cluster, orders.group_queue("web"), "d1/killed")
        async with Daemon.running(cluster, name="d1") as daemon:
            daemon.hello(agent)
            await _succeeds(run, daemon, agent)
    assert await _timeouts(run) == []


async def test_what_was_taken_in_the_last_poll_of_a_session_is_not_lost(namespace: Namespace) -> None:
    """The agent's session ended before the answer had arrived. In its next session the agent does not know of the attempt."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent, slots=1)
        run = await cluster.start(ONE)
        await daemon.offered(agent)
        await _quiet(daemon)
        async with _unpolled(daemon):
            daemon.bye(agent)
            await _take_and_drop(cluster, orders.agent_queue(agent), daemon.identity)
        daemon.hello(agent, slots=1)
        await daemon.offered(agent, 2)
        await _succeeds(run, daemon, agent, 2)
    assert await _timeouts(run) == []


async def test_what_was_taken_when_the_server_was_killed_is_not_lost(
    namespace: Namespace, temporal_server: Server
) -> None:
    """The server had recorded that this daemon has the activity, which has never heard of it."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        run = await cluster.start(ONE, task_timeout_s=LOST_TASK_S)
        await _take_and_drop(cluster, orders.group_queue("web"), daemon.identity)
        await _quiet(daemon)
        daemon.hello(agent)
        temporal_server.kill()
        try:
            await until(lambda: daemon.gateway.abandoned.is_away, "the outage")
        finally:
            temporal_server.start()
        await _succeeds(run, daemon, agent)
    assert await _timeouts(run) == []


@pytest.mark.parametrize("identity", ["d2/running", "d1", "d1x/running"])
async def test_what_another_daemon_has_taken_is_left_to_it(namespace: Namespace, identity: str) -> None:
    """Also if its name is similar."""
    async with Cluster.running(namespace) as cluster:
        run = await cluster.start(ONE)
        await _take_and_drop(cluster, orders.group_queue("web"), identity)
        async with Daemon.running(cluster, name="d1") as daemon:
            await _quiet(daemon)
        found = await run.handle.describe()
        assert [each.last_worker_identity for each in found.raw_description.pending_activities] == [identity]
        assert [each.attempt for each in found.raw_description.pending_activities] == [1]


async def test_what_is_being_carried_out_is_not_given_back(namespace: Namespace) -> None:
    """A request that waits for a server, and an attempt that its agent has, are not taken twice."""
    waiting = "jobs: {a: {runs-on: {group: web, labels: {gpu: a100}}, steps: [{run: x}]}}"
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        runs = [await cluster.start(waiting), await cluster.start(ONE)]
        await daemon.offered(agent)
        await until(lambda: daemon.placement.waiting, "the request")
        await _quiet(daemon)
        for run in runs:
            found = await run.handle.describe()
            assert [each.attempt for each in found.raw_description.pending_activities] == [1]


async def _take_and_drop(cluster: Cluster, queue: str, identity: str) -> None:
    """Takes an activity from its queue and drops it."""
    request = PollActivityTaskQueueRequest(
        namespace=cluster.namespace.name, task_queue=TaskQueue(name=queue), identity=identity
    )
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await cluster.client.workflow_service.poll_activity_task_queue(
                request, timeout=timedelta(seconds=PATIENCE_S)
            )
            if answer.task_token:
                return


async def _succeeds(run: Run, daemon: Daemon, agent: AgentId, count: int = 1) -> None:
    task = (await daemon.offered(agent, count))[-1]
    await daemon.finished(agent, task).arrives()
    assert (await run.result()).conclusion is Conclusion.SUCCESS


async def _timeouts(run: Run) -> list[str]:
    """Activities whose last failure before they succeeded was a timeout."""
    started = [
        event.activity_task_started_event_attributes
        for event in (await run.handle.fetch_history()).events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
    ]
    return [str(each.last_failure) for each in started if each.last_failure.HasField("timeout_failure_info")]


async def _quiet(daemon: Daemon) -> None:
    """Waits until a search has found what there is to find."""
    abandoned = daemon.gateway.abandoned
    abandoned.look()
    await until(lambda: abandoned.is_idle, "the searches")


@asynccontextmanager
async def _unpolled(daemon: Daemon) -> AsyncIterator[None]:
    """Holds the searches until the test has taken what it wants to take."""
    port = daemon.gateway.attempts
    left, port.left = port.left, lambda: None
    yield
    port.left = left
    left()
