"""Messages to a connecting agent depend only on the log, however far the driver's runs are ahead of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, HeldAttempt
from waterflowd.model.statuses import Outcome
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import ONE_STEP, HostHarness, request


@asynccontextmanager
async def commit_on_its_way(host: HostHarness) -> AsyncIterator[None]:
    """Runs the body behind a batch that is not durable yet, then waits until everything is settled."""
    host.log.hold()
    starting = asyncio.create_task(host.driver.start(request()))
    await until(lambda: host.driver.is_ahead)
    yield
    host.log.release()
    await starting
    await host.settle()


async def test_agent_that_connects_during_a_commit_is_informed_only_when_it_is_durable() -> None:
    """An earlier offer, cancel or release could depend on events that a crash removes."""
    async with HostHarness() as host:
        agent = host.enroll("s", "web")
        host.hello(agent)
        async with commit_on_its_way(host):
            host.hello(agent, session="1" * 32)
            assert host.link.sent == []
        assert len(set(host.link.offers())) == 1


async def test_session_that_ended_before_the_commit_gets_no_message() -> None:
    """The next session starts its own settlement."""
    async with HostHarness() as host:
        agent = host.enroll("s", "web")
        host.hello(agent)
        async with commit_on_its_way(host):
            host.hello(agent, session="1" * 32)
            host.agents.disconnected(agent, "cut")
            sent: Counter[type] = Counter()
            host.link.watch = lambda agent, message: sent.update([type(message)])

        # The link has no session, so it drops the batch's own offer.
        assert sent == {messages.Offer: 1}


async def test_attempt_whose_end_is_not_durable_yet_is_not_forgotten() -> None:
    """After a crash the attempt is open again, and an agent that had forgotten it would never accept it a second time."""
    async with HostHarness() as host:
        agent = host.enroll("s", "web")
        host.hello(agent)
        run = await host.start(ONE_STEP)
        (key,) = host.link.offers()
        host.log.hold()
        cancelling = asyncio.create_task(host.driver.cancel(run.id, "test", is_forced=True))
        await until(lambda: host.driver.is_ahead)
        host.link.take()

        assert host.hello(agent, session="1" * 32, held=[HeldAttempt(key, AttemptState.ACCEPTED)]) == []

        host.log.release()
        await cancelling
        await host.settle()
        assert any(isinstance(message, messages.Cancel) and message.key == key for message in host.link.take())


async def test_slot_is_requested_once_after_failed_commits() -> None:
    """Each recovery from a full disk requests slots again; a slot that was taken twice would never be freed."""
    async with HostHarness() as host:
        run = await host.start(ONE_STEP)
        host.log.fail_next(*[Retryable("WF302", "no space left", after_s=1.0)] * 2)
        agent = host.enroll("s", "web")
        host.hello(agent)
        await until(lambda: bool(host.link.offers()), seconds=10.0)
        (key,) = set(host.link.offers())

        host.finished(agent, key)
        await host.settle()

        assert host.kinds(run.id)[-1] == "RunCompleted"
        assert host.placed() == {}
        assert host.state.placement.waiting == 0


async def test_queued_report_precedes_the_settlement() -> None:
    """After a refusal that the agent's next instance does not know, the attempt has ended and is not offered again."""
    async with HostHarness() as host:
        agent = host.enroll("s", "web")
        host.hello(agent)
        run = await host.start(ONE_STEP)
        (key,) = host.link.offers()
        async with commit_on_its_way(host):
            host.link.take()

            host.finished(agent, key, outcome=Outcome.REFUSED, exit_code=None)
            host.hello(agent, session="1" * 32, instance="instance-2")

        assert "AttemptFinished" in host.kinds(run.id)
        assert key not in host.link.offers()


async def test_offer_for_an_earlier_start_of_the_agent_is_not_sent() -> None:
    """The agent would refuse it; the settlement offers the task again."""
    async with HostHarness() as host:
        agent = host.enroll("s", "web")
        host.hello(agent)
        async with commit_on_its_way(host):
            host.hello(agent, session="1" * 32, instance="instance-2")

        offers = [message.task.instance for _, message in host.link.sent if isinstance(message, messages.Offer)]
        assert offers == ["instance-2"]


async def test_a_directory_created_after_the_hello_is_removed_with_its_job() -> None:
    """The attempt was accepted when the session began, and its result arrives in the batch of the settlement."""
    async with HostHarness() as host:
        agent = host.enroll("s", "web")
        host.hello(agent)
        run = await host.start(ONE_STEP)
        (key,) = host.link.offers()
        async with commit_on_its_way(host):
            host.link.take()

            host.hello(agent, session="1" * 32, held=[HeldAttempt(key, AttemptState.ACCEPTED)], jobs=[])
            host.finished(agent, key)

        assert host.kinds(run.id)[-1] == "RunCompleted"
        assert messages.Release(key.attempt.run, key.attempt.job, is_kept=True) in host.link.take()
