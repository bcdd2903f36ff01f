"""The gateway on Temporal's real server: what agents get, when they are acknowledged, and what survives."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest

from tests.integration.temporal.gateway_harness import Cluster, Daemon, Run, held, until
from tests.integration.temporal.server import LOST_TASK_S, Namespace, Server
from tests.patience import PATIENCE_S
from waterflow_agent.attempts import AttemptId, AttemptNo, JobId, Outcome, RunId, StepId
from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages as wire
from waterflowd.dispatch import lowering
from waterflowd.engine import events, inputs
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.statuses import Conclusion
from waterflowd.temporal.gateway import gateway, offers, slots
from waterflowd.temporal.gateway.secret_reader import Secrets
from waterflowd.temporal.workflow import shell

ONE = "jobs: {a: {runs-on: web, steps: [{run: work}]}}"
TWO_STEPS = "jobs: {a: {runs-on: web, steps: [{run: work}, {run: more}]}}"
ACCEPTED, STARTED, FINISHED = wire.AttemptState
#: Occupies a slot.
OTHER = AttemptId(RunId("other"), JobId("a"), StepId("1"), AttemptNo(1))
#: Tests wait for it, and on a busy machine an attempt must be offered earlier.
SHORT_LOST_AFTER_MS = 5_000


async def test_a_run_goes_through_its_steps(namespace: Namespace) -> None:
    """Each step is offered once, to the server of its job; afterwards no slot is taken."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(TWO_STEPS)
        for count in (1, 2):
            task = (await daemon.offered(agent, count))[-1]
            await daemon.finished(agent, task).arrives()
        summary = await run.result()
        assert summary.conclusion is Conclusion.SUCCESS
        assert [task.attempt.step for task in daemon.tasks(agent)] == ["1", "2"]
        assert daemon.taken() == 0


@pytest.mark.parametrize("state", [ACCEPTED, STARTED])
async def test_an_attempt_that_the_agent_has_is_not_offered_again(
    namespace: Namespace, state: wire.AttemptState
) -> None:
    """After a lost connection the activity comes again, and finds the agent at work."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(ONE)
        [task] = await daemon.offered(agent)
        if state is STARTED:
            await daemon.started(agent, task).arrives()
        daemon.bye(agent)
        assert daemon.taken() == 0
        daemon.hello(agent, [held(task, state)])
        await until(lambda: _is_attached(daemon, task), "the activity")
        assert daemon.taken() == 1
        await daemon.finished(agent, task).arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        assert daemon.tasks(agent) == [task]
        assert daemon.cancels(agent) == []


async def test_an_offer_that_was_lost_is_made_again_under_the_same_name(namespace: Namespace) -> None:
    """The agent did not get it: its session ended too early. The name makes it one start if it did."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(ONE)
        [task] = await daemon.offered(agent)
        daemon.bye(agent)
        daemon.hello(agent)
        assert await daemon.offered(agent, 2) == [task, task]
        await daemon.finished(agent, task).arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS


async def test_an_agent_without_a_record_of_a_running_attempt_does_not_get_it_again(namespace: Namespace) -> None:
    """It would run twice. The heartbeats tell that it had started, also to another gateway."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as first:
        agent = cluster.enroll("one", "web")
        first.hello(agent)
        run = await cluster.start(ONE)
        [task] = await first.offered(agent)
        await first.started(agent, task).arrives()
        first.bye(agent)
        async with Daemon.running(cluster) as second:
            second.hello(agent)
            assert (await run.result()).conclusion is Conclusion.LOST
            finished = await run.recorded(events.AttemptFinished)
            assert finished.outcome is Outcome.LOST
            assert "has lost its record of the running step" in finished.reason.text
            assert second.tasks(agent) == []


async def test_an_attempt_of_an_earlier_boot_is_lost(namespace: Namespace) -> None:
    """The server was rebooted after the dispatch, so nobody knows what the attempt has done."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(ONE)
        await daemon.offered(agent)
        daemon.bye(agent)
        daemon.hello(agent, boot_id="boot-2")
        finished = await run.recorded(events.AttemptFinished)
        assert finished.outcome is Outcome.LOST
        assert "was rebooted while the step ran" in finished.reason.text


async def test_a_report_is_acknowledged_only_when_temporal_has_confirmed_it(
    namespace: Namespace, temporal_server: Server
) -> None:
    """While Temporal is away the agent keeps its reports; afterwards they arrive, each once, and nothing else is lost."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(TWO_STEPS, task_timeout_s=LOST_TASK_S)
        [task] = await daemon.offered(agent)
        temporal_server.kill()
        try:
            acknowledged = daemon.finished(agent, task)
            daemon.bye(agent)
            daemon.hello(agent, [held(task, FINISHED)])
            again = daemon.finished(agent, task)
            # Heartbeats, and the delivery, fail meanwhile.
            await asyncio.sleep(2)
            assert not acknowledged.has_arrived
            assert not again.has_arrived
        finally:
            temporal_server.start()
        await again.arrives()
        tasks = await daemon.offered(agent, 2)
        assert [each.attempt.step for each in tasks] == ["1", "2"]
        await daemon.finished(agent, tasks[1]).arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        assert daemon.taken() == 0


async def test_leases_are_not_extended_while_temporal_is_away(namespace: Namespace, temporal_server: Server) -> None:
    """Temporal may end the attempt meanwhile, and something else may start elsewhere: so the agent must stop it in time."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        port = daemon.gateway.attempts
        assert not port.confirms(agent)
        daemon.hello(agent)
        await cluster.start(ONE)
        [task] = await daemon.offered(agent)
        await until(lambda: port.confirms(agent), "answers")
        temporal_server.kill()
        try:
            await until(lambda: not port.confirms(agent), "missing answers")
        finally:
            temporal_server.start()
        await until(lambda: port.confirms(agent), "answers")
        # After a new handshake nobody knows whether the run still waits, until the activity has arrived.
        daemon.bye(agent)
        daemon.hello(agent, [held(task)])
        assert not port.confirms(agent)
        await until(lambda: _is_attached(daemon, task), "the activity")
        await until(lambda: port.confirms(agent), "answers")


async def test_a_gateway_without_temporal_sends_its_agents_to_others(
    namespace: Namespace, temporal_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, until Temporal answers again."""
    monkeypatch.setattr(gateway, "ABSENT_AFTER_S", 0.5)
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        assert daemon.gateway.absence() == ""
        temporal_server.kill()
        try:
            await until(daemon.gateway.absence, "the absence")
            assert "has not reached Temporal for 0.5 s" in daemon.gateway.absence()
        finally:
            temporal_server.start()
        await until(lambda: not daemon.gateway.absence(), "the end of the absence")


async def test_acknowledgements_come_in_order(namespace: Namespace) -> None:
    """They are cumulative: a report that nobody waits for must not acknowledge those before it."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        await cluster.start(ONE)
        [task] = await daemon.offered(agent)
        first = daemon.finished(agent, task)
        foreign = msgspec.structs.replace(task, attempt=msgspec.structs.replace(task.attempt, job=JobId("other")))
        second = daemon.finished(agent, foreign)
        assert daemon.link.rejected == [(agent, "WF215")]
        # Temporal's confirmation cannot have arrived yet, because nothing was awaited.
        assert not second.has_arrived
        await second.arrives()
        assert first.has_arrived


async def test_another_gateway_completes_what_a_dead_one_has_offered(namespace: Namespace) -> None:
    """The agent comes with its result, long before the heartbeat of the dead gateway is missed."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as first:
        agent = cluster.enroll("one", "web")
        first.hello(agent)
        run = await cluster.start(ONE)
        [task] = await first.offered(agent)
        await first.kill()
        async with Daemon.running(cluster) as second:
            second.hello(agent, [held(task, FINISHED)])
            await second.finished(agent, task).arrives()
            assert (await run.result()).conclusion is Conclusion.SUCCESS
            assert second.tasks(agent) == []


async def test_another_gateway_takes_over_what_is_running(namespace: Namespace) -> None:
    """It gets the activity with everything that belongs to it: the files of the job, the slot, the start, the cancel."""
    workflow = "jobs: {a: {runs-on: web, checkout: true, steps: [{run: work}]}}"
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as first:
        agent = cluster.enroll("one", "web")
        first.hello(agent)
        run = await cluster.start(workflow)
        [task] = await first.offered(agent)
        await first.started(agent, task).arrives()
        await run.recorded(events.AttemptStarted)
        await run.send(inputs.CancelRun(by="alice"))
        await until(lambda: first.cancels(agent), "a cancel")
        await first.kill()
        async with Daemon.running(cluster) as second:
            second.hello(agent, [held(task)])
            with pytest.raises(Retryable, match="has not arrived yet"):
                second.gateway.attempts.checkout(agent, task)
            await until(lambda: _is_attached(second, task), "the activity")
            # It may come twice: with the attempt, and because the first gateway ended before it had confirmed it.
            await until(lambda: second.cancels(agent), "the cancel")
            assert second.cancels(agent)[0] == first.cancels(agent)[0]
            found = second.gateway.attempts.checkout(agent, task)
            assert found is not None
            assert found.repository == "ops"
            assert second.taken() == 1
            await second.finished(agent, task, outcome=Outcome.CANCELLED).arrives()
            assert (await run.result()).conclusion is Conclusion.CANCELLED
            assert second.tasks(agent) == []


async def test_attempts_survive_that_their_run_continues_as_a_new_execution(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new execution schedules their activities again: an attempt that the agent has is neither offered nor stopped."""
    monkeypatch.setattr(shell, "HISTORY_EVENTS_MAX", 50)
    monkeypatch.setattr(slots, "GRANT_S", 1.0)
    steps = ", ".join("{run: x}" for _ in range(6))
    workflow = f"jobs: {{long: {{runs-on: db, steps: [{{run: x}}]}}, a: {{runs-on: web, steps: [{steps}]}}}}"
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        web, db = cluster.enroll("one", "web"), cluster.enroll("two", "db")
        daemon.hello(web)
        daemon.hello(db)
        run = await cluster.start(workflow)
        [long] = await daemon.offered(db)
        await daemon.started(db, long).arrives()
        for count in range(1, 7):
            await daemon.finished(web, (await daemon.offered(web, count))[-1]).arrives()
        execution = (await cluster.client.get_workflow_handle(run.handle.id).describe()).run_id
        assert execution != run.handle.result_run_id
        await daemon.finished(db, long).arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        tasks = daemon.tasks(web)
        assert len(tasks) == len(set(tasks)) == 6
        assert daemon.tasks(db) == [long]
        assert daemon.cancels(db) == []
        # A slot that was granted to the former execution, too late for its attempt, is free after a moment.
        await until(lambda: not daemon.taken(), "free slots")


async def test_the_run_hears_of_an_agent_that_does_not_return(namespace: Namespace) -> None:
    """Its activity waits in its queue for `lost-after`. A late result is recorded as evidence, and acknowledged."""
    async with (
        Cluster.running(namespace, lost_after_ms=SHORT_LOST_AFTER_MS) as cluster,
        Daemon.running(cluster) as daemon,
    ):
        agent, other = cluster.enroll("one", "web"), cluster.enroll("two", "db")
        daemon.hello(agent)
        daemon.hello(other)
        workflow = "jobs: {a: {runs-on: web, steps: [{run: x}]}, b: {runs-on: db, steps: [{run: y}]}}"
        run = await cluster.start(workflow)
        [task] = await daemon.offered(agent)
        [open_task] = await daemon.offered(other)
        daemon.bye(agent)
        finished = await run.recorded(events.AttemptFinished)
        assert finished.outcome is Outcome.LOST
        assert finished.reason.code is ReasonCode.SERVER_LOST
        # The other job keeps the run open.
        daemon.hello(agent, [held(task, FINISHED)])
        await daemon.finished(agent, task).arrives()
        assert (await run.recorded(events.LateReport)).agent == agent
        await daemon.finished(other, open_task).arrives()
        assert (await run.result()).conclusion is Conclusion.LOST
        assert daemon.tasks(agent) == [task]


async def test_an_attempt_that_no_run_waits_for_is_stopped(namespace: Namespace) -> None:
    """The run has given the agent up, which comes back while the step still runs and the run is open."""
    async with (
        Cluster.running(namespace, lost_after_ms=SHORT_LOST_AFTER_MS) as cluster,
        Daemon.running(cluster, missing_s=1.0) as daemon,
    ):
        agent, other = cluster.enroll("one", "web"), cluster.enroll("two", "db")
        daemon.hello(agent, slots=1)
        daemon.hello(other)
        workflow = "jobs: {a: {runs-on: web, steps: [{run: x}]}, b: {runs-on: db, steps: [{run: y}]}}"
        run = await cluster.start(workflow)
        [task] = await daemon.offered(agent)
        await daemon.offered(other)
        daemon.bye(agent)
        await run.recorded(events.AttemptFinished)
        daemon.hello(agent, [held(task)], slots=1)
        await until(lambda: daemon.cancels(agent), "a cancel")
        assert [(each.key, each.force) for each in daemon.cancels(agent)] == [(task, True)]
        # Until it has stopped it occupies the slot.
        assert daemon.placement.server(agent).free == 0
        await daemon.finished(agent, task, outcome=Outcome.CANCELLED).arrives()
        assert daemon.placement.server(agent).free == 1


async def test_what_belongs_to_a_run_that_was_closed_is_stopped_and_acknowledged(namespace: Namespace) -> None:
    """An operator has terminated the run, while the agent was connected or while it was away."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start("jobs: {a: {runs-on: web, steps: [{run: x}]}, b: {runs-on: web, steps: [{run: y}]}}")
        first, second = await daemon.offered(agent, 2)
        await run.handle.terminate("by the operator")
        await until(lambda: len(daemon.cancels(agent)) == 2, "cancels")
        await daemon.finished(agent, first, outcome=Outcome.CANCELLED).arrives()
        daemon.bye(agent)
        daemon.hello(agent, [held(second)], jobs=[(run.id, "a"), (run.id, "b")])

        def released() -> list[str]:
            return [message.job for _, message in daemon.link.sent if isinstance(message, wire.Release)]

        await until(released, "the settlement")
        assert released() == ["a", "b"]
        # A heartbeat may have found it at the same time.
        assert {each.key for each in daemon.cancels(agent)[2:]} == {second}
        await daemon.finished(agent, second, outcome=Outcome.CANCELLED).arrives()
        assert daemon.taken() == 0


async def test_slots_are_never_overcommitted(namespace: Namespace) -> None:
    """Two slots, seven jobs: at no time does the agent have three attempts, and at the end no slot is taken."""
    jobs = ", ".join(f"j{number}: {{runs-on: web, steps: [{{run: x}}, {{run: y}}]}}" for number in range(7))
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent, slots=2)
        run = await cluster.start(f"jobs: {{{jobs}}}")
        done = 0
        while done < 14:
            tasks = await daemon.offered(agent, done + 1)
            assert len(tasks) - done <= 2
            assert daemon.taken() <= 2
            if done == 5:
                # In the middle of it the connection is lost.
                daemon.bye(agent)
                daemon.hello(agent, [held(task) for task in tasks[done:]], slots=2)
            await daemon.finished(agent, tasks[done]).arrives()
            done += 1
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        tasks = daemon.tasks(agent)
        assert len(set(tasks)) == len(tasks) == 14
        assert daemon.taken() == 0


async def test_a_job_that_no_server_can_take_does_not_hold_up_the_others(namespace: Namespace) -> None:
    """It waits for a server with its label. The group has one slot, which other jobs get meanwhile."""
    workflow = "jobs: {a: {runs-on: {group: web, labels: {gpu: a100}}, steps: [{run: x}]}}"
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent, slots=1)
        labelled = await cluster.start(workflow)
        await until(lambda: daemon.placement.waiting, "a request that cannot be granted")
        other = await cluster.start(ONE)
        await daemon.finished(agent, await _offer_of(daemon, other.id)).arrives()
        assert (await other.result()).conclusion is Conclusion.SUCCESS
        daemon.bye(agent)
        daemon.hello(agent, slots=1, labels={"gpu": "a100"})
        await daemon.finished(agent, await _offer_of(daemon, labelled.id)).arrives()
        assert (await labelled.result()).conclusion is Conclusion.SUCCESS


async def test_a_request_that_this_gateway_cannot_grant_goes_to_another_one(namespace: Namespace) -> None:
    """The first gateway has a free slot in the group, but the server with the label connects to the second one."""
    workflow = "jobs: {a: {runs-on: {group: web, labels: {gpu: a100}}, steps: [{run: x}]}}"
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as one, Daemon.running(cluster) as two:
        plain, labelled = cluster.enroll("one", "web"), cluster.enroll("two", "web")
        one.hello(plain, slots=1)
        run = await cluster.start(workflow)
        await until(lambda: one.placement.waiting, "a request that cannot be granted")
        two.hello(labelled, slots=1, labels={"gpu": "a100"})
        [task] = await two.offered(labelled)
        await two.finished(labelled, task).arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        assert one.tasks(plain) == []
        await until(lambda: not one.placement.waiting, "the end of the request")
        assert (one.taken(), two.taken()) == (0, 0)


async def test_a_job_on_each_server_begins_when_the_first_one_is_enrolled(namespace: Namespace) -> None:
    """It does not wait for its timer, which asks again later in case no daemon has the run in memory."""
    workflow = "jobs: {a: {runs-on: {group: web, target: each, offline: wait}, steps: [{run: x}]}}"
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        run = await cluster.start(workflow)
        await run.recorded(events.JobWaiting)
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        [task] = await daemon.offered(agent)
        await daemon.finished(agent, task).arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        fired = EventType.EVENT_TYPE_TIMER_FIRED
        assert fired not in [event.event_type for event in (await run.handle.fetch_history()).events]


async def test_a_slot_that_was_granted_for_nothing_is_free_again(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was terminated between the grant and the attempt."""
    monkeypatch.setattr(slots, "GRANT_S", 0.5)
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent, slots=1)
        run = await cluster.start(ONE)
        await until(lambda: daemon.taken(), "a grant")
        await run.handle.terminate("by the operator")
        daemon.bye(agent)
        await until(lambda: not daemon.taken(), "a free slot")
        daemon.hello(agent, slots=1)
        second = await cluster.start(ONE)
        task = await _offer_of(daemon, second.id)
        await daemon.finished(agent, task).arrives()
        assert (await second.result()).conclusion is Conclusion.SUCCESS


async def test_no_secret_is_stored_in_temporal(namespace: Namespace) -> None:
    """The agent gets the value. The event history, what the cluster says about the run, and the draft do not have it."""
    value = "correct-horse-battery-staple"
    workflow = "jobs: {a: {runs-on: web, steps: [{run: deploy, env: {TOKEN: '${{ secrets.TOKEN }}'}}]}}"
    read: list[str] = []

    def reads(request: lowering.SecretRequest, name: str) -> str:
        if len(read) < 2:
            read.append(name)
            raise Retryable("WF626", "it is being read")
        return value

    secrets = Secrets(read=reads, missing=lambda request: [])
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster, secrets=secrets) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(workflow)
        for count in (1, 2):
            await until(lambda count=count: len(read) == count, "a read")  # type: ignore[misc]
            assert daemon.tasks(agent) == []
            daemon.gateway.secrets_read()
        [task] = await daemon.offered(agent)
        [offer] = [message for _, message in daemon.link.sent if isinstance(message, wire.Offer)]
        assert offer.task.env == {"TOKEN": value}
        assert offer.task.secrets == [value]
        await daemon.started(agent, task).arrives()
        described = (await run.handle.describe()).raw_description.SerializeToString()
        daemon.bye(agent)
        daemon.hello(agent, [held(task)])
        await until(lambda: _is_attached(daemon, task), "the activity")
        await daemon.finished(agent, task).arrives()
        await run.result()
        request = GetWorkflowExecutionHistoryRequest(namespace=namespace.name)
        request.execution.workflow_id = run.handle.id
        stored = (await cluster.client.workflow_service.get_workflow_execution_history(request)).SerializeToString()
        assert b"waterflow" in stored
        assert value.encode() not in stored + described
        # Payloads are sealed; what is in them has no secret either.
        for fact in await run.events():
            assert value not in str(fact)


async def test_a_missing_secret_denies_the_slot(namespace: Namespace) -> None:
    """The attempt fails before it occupies a slot, with the name of the secret."""
    workflow = "jobs: {a: {runs-on: web, steps: [{run: x, env: {TOKEN: '${{ secrets.TOKEN }}'}}]}}"
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(workflow)
        assert (await run.result()).conclusion is Conclusion.FAILURE
        assert "no source has the secret TOKEN" in str(await run.events())
        assert daemon.tasks(agent) == []


async def test_a_run_says_which_secret_it_waits_for(namespace: Namespace) -> None:
    """Before it has a server, and which one it waits for later: the reason is that of the source, and each is told once."""
    steps = "[{run: x, env: {TOKEN: '${{ secrets.ONE }}'}}, {run: x, env: {TOKEN: '${{ secrets.TWO }}'}}]"
    sealed = {"ONE", "TWO"}

    def missing(request: lowering.SecretRequest) -> list[str]:
        for name in filter(None, request.names.values()):
            if name in sealed:
                raise Retryable("WF626", f"waiting for secret {name}: Vault is sealed")
        return []

    async def waits(run: Run) -> list[str]:
        found = [each.reason for each in await run.events() if isinstance(each, events.AttemptWaiting)]
        return [cause.text for cause in found if cause.code is ReasonCode.SECRET_WAITING]

    async def waiting(run: Run, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if len(await waits(run)) == count:
                    return
                await asyncio.sleep(0.1)

    secrets = Secrets(read=lambda request, name: "value", missing=missing)
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster, secrets=secrets) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(f"jobs: {{a: {{runs-on: web, steps: {steps}}}}}")
        for number, name in enumerate(("ONE", "TWO"), 1):
            await waiting(run, number)
            assert daemon.tasks(agent) == []
            sealed.remove(name)
            daemon.gateway.secrets_read()
            [task] = await daemon.offered(agent)
            await daemon.finished(agent, task).arrives()
            daemon.link.sent.clear()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        assert await waits(run) == [f"waiting for secret {name}: Vault is sealed" for name in ("ONE", "TWO")]


async def test_groups_are_isolated(namespace: Namespace) -> None:
    """An agent of db gets nothing of web, though it has free slots and says that it holds the attempt already."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        web, db = cluster.enroll("one", "web"), cluster.enroll("two", "db")
        daemon.hello(db)
        run = await cluster.start(ONE)
        await until(lambda: "group/db" in _queues(daemon), "the queue of db")
        await run.waits_for("place/a/1/1")
        # The claim must not decide where the attempt is placed.
        claimed = wire.TaskId(AttemptId(run.id, JobId("a"), StepId("1"), AttemptNo(1)), 1)
        daemon.hello(db, [held(claimed)])
        daemon.hello(web)
        [task] = await daemon.offered(web)
        assert task == claimed
        assert daemon.tasks(db) == []
        # Nor can it report about it.
        await daemon.finished(db, claimed, outcome=Outcome.FAILURE).arrives()
        await daemon.finished(web, task).arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        assert not [event for event in await run.events() if getattr(event, "agent", web) != web]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_an_attempt_waits_for_a_slot_of_its_jobs_server(namespace: Namespace, is_cancelled: bool) -> None:
    """Something else has got the only slot between two steps: the second one is queued, says why, and can be cancelled."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent, slots=1)
        run = await cluster.start(TWO_STEPS)
        [first] = await daemon.offered(agent)
        daemon.placement.hold(agent, OTHER)
        await daemon.finished(agent, first).arrives()

        await _waits_for_a_slot(run, "2")
        assert daemon.tasks(agent) == [first]
        if is_cancelled:
            await run.send(inputs.CancelRun(by="alice"))
            assert (await run.result()).conclusion is Conclusion.CANCELLED
        daemon.placement.free(agent, OTHER)
        daemon.gateway.attempts.servers_changed()
        if is_cancelled:
            await until(lambda: not daemon.placement.waiting, "the end of the request")
            assert daemon.tasks(agent) == [first]
        else:
            [_, second] = await daemon.offered(agent, 2)
            await daemon.started(agent, second).arrives()
            assert (await run.recorded(events.AttemptStarted)).step == "2"
            await daemon.finished(agent, second).arrives()
            assert (await run.result()).conclusion is Conclusion.SUCCESS
        await until(lambda: not daemon.taken(), "a free slot")


async def test_a_server_may_reboot_while_an_attempt_waits_for_a_slot(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it has started, so it is offered in the new boot. What was offered in the earlier one is lost."""
    monkeypatch.setattr(offers, "NOTE_AFTER_S", 0.0)
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent, slots=1)
        run = await cluster.start(TWO_STEPS)
        [first] = await daemon.offered(agent)
        daemon.placement.hold(agent, OTHER)
        await daemon.finished(agent, first).arrives()
        # The wait was noted before, for the next gateway, or for this one after the agent's return.
        await _waits_for_a_slot(run, "2")

        daemon.bye(agent)
        daemon.placement.free(agent, OTHER)
        daemon.hello(agent, slots=1, boot_id="boot-2")
        await daemon.offered(agent, 2)
        offered = [message.task.boot_id for _, message in daemon.link.sent if isinstance(message, wire.Offer)]
        assert offered == ["boot-1", "boot-2"]

        # Now it was offered; after another boot it is not offered again.
        daemon.bye(agent)
        daemon.hello(agent, slots=1, boot_id="boot-3")
        assert (await run.result()).conclusion is Conclusion.LOST
        assert "rebooted while the step ran" in str(await run.events())
        assert len(daemon.tasks(agent)) == 2


async def test_a_secret_that_is_missing_in_a_later_step_fails_it(namespace: Namespace) -> None:
    """Its attempt was dispatched in the turn, and ends before the agent hears of it."""
    workflow = "jobs: {a: {runs-on: web, steps: [{run: x}, {run: x, env: {TOKEN: '${{ secrets.TOKEN }}'}}]}}"
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(workflow)
        [task] = await daemon.offered(agent)
        await daemon.finished(agent, task).arrives()
        assert (await run.result()).conclusion is Conclusion.FAILURE
        [*_, ended] = [event for event in await run.events() if isinstance(event, events.AttemptFinished)]
        assert ended.reason.code is ReasonCode.SECRET_MISSING
        assert "no source has the secret TOKEN" in ended.reason.text
        assert daemon.tasks(agent) == [task]


async def test_an_attempt_that_was_not_offered_yet_is_cancelled_without_its_agent(namespace: Namespace) -> None:
    """It waits for a secret; the agent never hears of it."""

    def reads(request: lowering.SecretRequest, name: str) -> str:
        raise Retryable("WF626", "it is being read")

    workflow = "jobs: {a: {runs-on: web, steps: [{run: x, env: {TOKEN: '${{ secrets.TOKEN }}'}}]}}"
    secrets = Secrets(read=reads, missing=lambda request: [])
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster, secrets=secrets) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(workflow)
        await run.recorded(events.AttemptDispatched)
        await run.send(inputs.CancelRun(by="alice"))
        assert (await run.result()).conclusion is Conclusion.CANCELLED
        assert daemon.tasks(agent) == []


def _is_attached(daemon: Daemon, task: wire.TaskId) -> bool:
    return any(
        attempt.task == task and attempt.is_attached
        for session in daemon.gateway.attempts._sessions.values()
        for attempt in session.attempts.values()
    )


def _queues(daemon: Daemon) -> list[str]:
    return [f"group/{group}" for group in daemon.gateway._queues._groups]


async def _waits_for_a_slot(run: Run, step: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for event in await run.events():
                if isinstance(event, events.AttemptWaiting) and event.step == step:
                    assert event.reason.code is ReasonCode.NO_FREE_SLOT
                    return
            await asyncio.sleep(0.1)


async def _offer_of(daemon: Daemon, run: str) -> wire.TaskId:
    def found() -> list[wire.TaskId]:
        return [
            message.task.key
            for _, message in daemon.link.sent
            if isinstance(message, wire.Offer) and message.task.key.attempt.run == run
        ]

    await until(found, f"an offer of {run}")
    return found()[0]
