"""Reports and cancels that come late, early or too large, on Temporal's real server."""

from __future__ import annotations

import asyncio
import random

from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueRequest, RespondActivityTaskFailedRequest

from tests.integration.temporal.gateway_harness import CALL_TIMEOUT, Cluster, Daemon, answered, lost_attempt, until
from tests.integration.temporal.server import Namespace
from waterflow_agent.attempts import Outcome
from waterflowd.engine import events, inputs
from waterflowd.model.statuses import Conclusion
from waterflowd.temporal import orders

ONE = "jobs: {a: {runs-on: web, steps: [{run: work}]}}"
TWO_JOBS = "jobs: {a: {runs-on: web, steps: [{run: x}]}, b: {runs-on: web, steps: [{run: y}]}}"


async def test_a_report_about_a_lost_attempt_is_kept_as_evidence(namespace: Namespace) -> None:
    """The daemon has ended the attempt, because its server was rebooted; then the agent reports what it has found out."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent, run, lost = await lost_attempt(cluster, daemon)
        await daemon.finished(agent, lost).arrives()
        late = await run.recorded(events.LateReport)
        assert (late.job, late.outcome) == (lost.attempt.job, Outcome.SUCCESS)


async def test_a_result_that_is_too_large_fails_its_step(namespace: Namespace) -> None:
    """With a sentence; the run does not stall. What can be compressed may be larger."""
    noise = random.Random(1).randbytes(500_000).hex()
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(TWO_JOBS)
        first, second = await daemon.offered(agent, 2)
        await daemon.finished(agent, first, outputs={"x": "y" * 1_000_000}).arrives()
        # Random digits take half a byte each.
        await daemon.finished(agent, second, outputs={"x": noise, "y": noise[::-1]}).arrives()
        assert (await run.result()).conclusion is Conclusion.FAILURE
        ended = [event for event in await run.events() if isinstance(event, events.AttemptFinished)]
        assert {event.outcome for event in ended} == {Outcome.FAILURE, Outcome.SUCCESS}
        [failed] = [event for event in ended if event.outcome is Outcome.FAILURE]
        assert "WF812" in failed.reason.text
        assert "pass large data in files" in failed.reason.text


async def test_a_cancel_survives_the_session_in_which_its_attempt_has_not_arrived(namespace: Namespace) -> None:
    """Another gateway has the attempt's activity at that moment, so this one cannot leave the cancel with it."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(ONE)
        [task] = await daemon.offered(agent)
        daemon.bye(agent)
        service = cluster.client.workflow_service
        queue = TaskQueue(name=orders.agent_queue(agent))
        poll = PollActivityTaskQueueRequest(namespace=namespace.name, task_queue=queue, identity="another")
        # Not repeated: an answer that was lost has taken the activity.
        taken = await service.poll_activity_task_queue(poll, timeout=CALL_TIMEOUT * 6)
        assert taken.activity_id == orders.task_activity(task, agent)
        daemon.hello(agent)
        await run.send(inputs.CancelRun(by="alice"))
        session = daemon.gateway.attempts.session(agent)
        assert session is not None
        await until(lambda: session.cancels, "the cancel")
        daemon.bye(agent)
        failed = RespondActivityTaskFailedRequest(namespace=namespace.name, task_token=taken.task_token)
        await answered(lambda: service.respond_activity_task_failed(failed, timeout=CALL_TIMEOUT))
        daemon.hello(agent)

        async def stop() -> None:
            """If the attempt arrives before the cancel, the agent gets both."""
            await until(lambda: daemon.cancels(agent), "the cancel")
            await daemon.finished(agent, task, outcome=Outcome.CANCELLED).arrives()

        stopping = asyncio.create_task(stop())
        assert (await run.result()).conclusion is Conclusion.CANCELLED
        stopping.cancel()
