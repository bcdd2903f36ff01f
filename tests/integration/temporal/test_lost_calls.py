"""Calls that nothing answers, because the network loses them or no turn takes them: nothing waits forever or is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.worker import Worker

from tests.chance import IS_FULL
from tests.integration.temporal import doors
from tests.integration.temporal.gateway_harness import Cluster, Daemon, Run, ended, lost_attempt, until
from tests.integration.temporal.server import KEYS, Namespace, Server, new_namespace
from tests.patience import PATIENCE_S
from waterflow_agent.attempts import AttemptId, AttemptNo, JobId, RunId, StepId
from waterflow_agent.errors import Retryable
from waterflow_agent.wire.messages import TaskId
from waterflowd.engine import events
from waterflowd.model.ids import AgentId, run_stream
from waterflowd.model.statuses import Conclusion
from waterflowd.temporal import cluster as clusters
from waterflowd.temporal import updates, workers
from waterflowd.temporal.gateway import activity_client
from waterflowd.temporal.gateway.activity_client import ActivityClient
from waterflowd.temporal.reading.run_watch import RunWatch
from waterflowd.temporal.reading.stream_reader import StreamReader
from waterflowd.temporal.sealing import converter
from waterflowd.temporal.workflow import messages

ONE = "jobs: {a: {runs-on: web, steps: [{run: work}]}}"
AGENT, RUN = AgentId("SHA256:one"), RunId("01K6000000000000000000000A")
TASK = TaskId(AttemptId(RUN, JobId("a"), StepId("1"), AttemptNo(1)), 1)


@pytest.mark.parametrize("calls", [True, False], ids=["the call", "the answer"])
async def test_a_report_arrives_once_although_the_network_loses(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, calls: bool
) -> None:
    """The daemon cannot know whether Temporal has it, so it reports again, and the agent is acknowledged."""
    network = doors.Network(namespace.server.address)
    async with (
        doors.listening(network.serve) as address,
        Cluster.running(namespace) as cluster,
        Daemon.running(cluster, address=address) as daemon,
    ):
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(ONE)
        [task] = await daemon.offered(agent)
        monkeypatch.setattr(activity_client, "CALL_TIMEOUT", timedelta(seconds=1))
        network.cut(calls=calls)
        acknowledged = daemon.finished(agent, task)
        await until(lambda: "cannot deliver a report about" in caplog.text, "the loss")
        assert not acknowledged.has_arrived
        monkeypatch.undo()
        network.heal()
        await acknowledged.arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        assert len([event for event in await run.events() if isinstance(event, events.AttemptFinished)]) == 1


async def test_a_lost_call_of_the_gateway_ends(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call has a time limit, and says that Temporal did not confirm it."""
    monkeypatch.setattr(activity_client, "CALL_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr(activity_client, "ANSWER_TIMEOUT", timedelta(seconds=1))
    network = doors.Network(namespace.server.address)
    async with doors.listening(network.serve) as address:
        client = ActivityClient(await namespace.client(address=address))
        network.cut()
        await _is_unconfirmed(
            lambda: client.complete(AGENT, TASK, b""),
            lambda: client.heartbeat(AGENT, TASK, b""),
            lambda: client.give_back(AGENT, TASK, "why"),
            lambda: client.signal(RUN, b""),
            lambda: client.look(RUN),
            lambda: client.taken(run_stream(RUN)),
        )
        assert not await client.answers()


async def test_a_lost_connection_attempt_ends(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own time limit for the first call is longer than the daemon waits."""
    network = doors.Network(namespace.server.address)
    async with doors.listening(network.serve) as address:
        settings = clusters.ClusterSettings(address=address, namespace=namespace.name)
        tried = clusters.try_connection

        async def cut_afterwards(settings: clusters.ClusterSettings) -> None:
            await tried(settings)
            network.cut()
            monkeypatch.setattr(clusters, "CONNECT_S_MAX", 0.5)

        monkeypatch.setattr(clusters, "try_connection", cut_afterwards)
        with pytest.raises(Retryable, match=r"did not answer within 0\.5 s"):
            await clusters.connect(settings, converter.data_converter(KEYS), "d1")


@pytest.mark.skipif(not IS_FULL, reason="part of `make nightly`: the time limit of Temporal's client is 30 s")
async def test_a_lost_call_without_a_time_limit_of_ours_ends(namespace: Namespace) -> None:
    """Temporal's client has one for every call: 30 s, and 70 s for those that wait for news."""
    network = doors.Network(namespace.server.address)
    async with doors.listening(network.serve) as address:
        client = await namespace.client(address=address)
        activities, reader = ActivityClient(client), StreamReader(client)
        network.cut()
        await _is_unconfirmed(
            lambda: activities.request(RUN, "report", b""),
            lambda: activities.open_runs(10),
            lambda: reader.read(run_stream(RUN)),
            lambda: anext(reader.follow(run_stream(RUN))),
            RunWatch(client).look,
        )


async def test_a_request_that_waits_for_a_turn_can_be_cancelled(namespace: Namespace) -> None:
    """Temporal's client reports a cancel like a lost answer, after which the daemon would ask again."""
    network = doors.Network(namespace.server.address)
    async with doors.listening(network.serve) as address:
        client = await namespace.client(address=address)
        activities = ActivityClient(client)
        network.cut()
        asking = [
            asyncio.create_task(activities.request(RUN, "report", b"")),
            asyncio.create_task(updates.ask(client, run_stream(RUN), b"")),
        ]
        await until(lambda: network.has_lost, "the calls")
        for task in asking:
            task.cancel()
        await asyncio.wait(asking, timeout=PATIENCE_S)
        assert all(task.cancelled() for task in asking)


async def test_a_gateway_stops_while_a_stalled_run_does_not_take_a_report(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report waits until a person has intervened; a daemon that is stopped must not."""

    def broken(request: object) -> object:
        raise RuntimeError("a bug")

    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent, run, lost = await lost_attempt(cluster, daemon)
        monkeypatch.setattr(cluster.turns, "_turn", broken)
        acknowledged = daemon.finished(agent, lost)
        await _stalls(run)
        assert not acknowledged.has_arrived
        await daemon.stop()


@activity.defn
async def work() -> None:
    """Never called."""


async def test_a_worker_stops_although_its_cluster_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some clusters end the polls of a stopping worker themselves, and Temporal's client waits for that without a limit."""
    monkeypatch.setattr(workers, "STOP_S_MAX", 0.5)
    server = Server(tmp_path, {"frontend.enableCancelWorkerPollsOnShutdown": "true"})
    try:
        namespace = await new_namespace(server)
        network = doors.Network(server.address)
        async with doors.listening(network.serve) as address:
            client = await namespace.client(address=address)
            working = asyncio.create_task(workers.run(Worker(client, task_queue="queue", activities=[work])))
            await _is_polled(namespace, "queue")
            network.cut()
            await ended(working)
        assert "the worker of queue did not stop within 0.5 s" in caplog.text
    finally:
        server.close()


async def _is_unconfirmed(*calls: Callable[[], Awaitable[object]]) -> None:
    """All calls end with the error after which the daemon tries again."""
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
    assert [outcome.code if isinstance(outcome, Retryable) else outcome for outcome in outcomes] == ["WF802"] * len(
        calls
    )


async def _stalls(run: Run) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            info = (await run.handle.describe()).raw_description.workflow_execution_info
            if messages.STALLED_ATTRIBUTE in info.search_attributes.indexed_fields:
                return
            await asyncio.sleep(0.05)


async def _is_polled(namespace: Namespace, queue: str) -> None:
    client = await namespace.client()
    request = DescribeTaskQueueRequest(
        namespace=namespace.name,
        task_queue=TaskQueue(name=queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    )
    async with asyncio.timeout(PATIENCE_S):
        while not (await client.workflow_service.describe_task_queue(request)).pollers:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
