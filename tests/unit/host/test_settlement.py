"""A connecting agent is told only what is in the log, however far ahead of it the driver's runs are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, HeldAttempt
from waterflowd.model.statuses import Outcome
from waterflowd.testing.host import ONE_STEP, HostWorld, request, until


@asynccontextmanager
async def commit_on_its_way(world: HostWorld) -> AsyncIterator[None]:
    """Runs the body behind a batch that is not durable yet, then waits until everything is settled."""
    world.log.hold()
    starting = asyncio.create_task(world.driver.start(request()))
    await until(lambda: world.driver.is_ahead)
    yield
    world.log.release()
    await starting
    await world.settle()


async def test_agent_that_connects_during_a_commit_hears_of_it_only_when_it_is_durable() -> None:
    """An offer, a cancel or a release that is sent earlier could rest on events that a crash would lose."""
    async with HostWorld() as world:
        agent = world.enroll("s", "web")
        world.hello(agent)
        async with commit_on_its_way(world):
            world.hello(agent, session="1" * 32)
            assert world.link.sent == []
        assert len(set(world.link.offers())) == 1


async def test_session_that_ended_before_the_commit_hears_nothing() -> None:
    """The next session starts its own settlement."""
    async with HostWorld() as world:
        agent = world.enroll("s", "web")
        world.hello(agent)
        async with commit_on_its_way(world):
            world.hello(agent, session="1" * 32)
            world.agents.disconnected(agent, "cut")
            sent: Counter[type] = Counter()
            world.link.watch = lambda agent, message: sent.update([type(message)])

        # The link has no session, so it drops the batch's own offer.
        assert sent == {messages.Offer: 1}


async def test_attempt_whose_end_is_not_durable_yet_is_not_forgotten() -> None:
    """After a crash the attempt is open again, and an agent that had forgotten it would never accept it a second time."""
    async with HostWorld() as world:
        agent = world.enroll("s", "web")
        world.hello(agent)
        run = await world.start(ONE_STEP)
        (key,) = world.link.offers()
        world.log.hold()
        cancelling = asyncio.create_task(world.driver.cancel(run.id, "test", is_forced=True))
        await until(lambda: world.driver.is_ahead)
        world.link.take()

        assert world.hello(agent, session="1" * 32, held=[HeldAttempt(key, AttemptState.ACCEPTED)]) == []

        world.log.release()
        await cancelling
        await world.settle()
        assert any(isinstance(message, messages.Cancel) and message.key == key for message in world.link.take())


async def test_slot_that_is_owed_is_asked_for_once_after_failed_commits() -> None:
    """Each recovery from a full disk requests the slot again; a slot taken twice would never be freed."""
    async with HostWorld() as world:
        run = await world.start(ONE_STEP)
        world.log.fail_next(*[Retryable("WF302", "no space left", after_s=1.0)] * 2)
        agent = world.enroll("s", "web")
        world.hello(agent)
        await until(lambda: bool(world.link.offers()), seconds=10.0)
        (key,) = set(world.link.offers())

        world.finished(agent, key)
        await world.settle()

        assert world.kinds(run.id)[-1] == "RunCompleted"
        assert world.placed() == {}
        assert world.world.placement.waiting == 0


async def test_report_that_waits_for_its_turn_comes_before_the_settlement() -> None:
    """The agent's next start does not know its earlier refusal, so the attempt is over and is not offered again."""
    async with HostWorld() as world:
        agent = world.enroll("s", "web")
        world.hello(agent)
        run = await world.start(ONE_STEP)
        (key,) = world.link.offers()
        async with commit_on_its_way(world):
            world.link.take()

            world.finished(agent, key, outcome=Outcome.REFUSED, exit_code=None)
            world.hello(agent, session="1" * 32, instance="instance-2")

        assert "AttemptFinished" in world.kinds(run.id)
        assert key not in world.link.offers()


async def test_offer_for_an_earlier_start_of_the_agent_is_not_sent() -> None:
    """The agent would refuse it; the settlement offers it again."""
    async with HostWorld() as world:
        agent = world.enroll("s", "web")
        world.hello(agent)
        async with commit_on_its_way(world):
            world.hello(agent, session="1" * 32, instance="instance-2")

        offers = [message.task.instance for _, message in world.link.sent if isinstance(message, messages.Offer)]
        assert offers == ["instance-2"]


async def test_a_directory_that_was_made_after_the_hello_goes_with_its_job() -> None:
    """The attempt was accepted when the session started, and its result arrives in the batch of the settlement."""
    async with HostWorld() as world:
        agent = world.enroll("s", "web")
        world.hello(agent)
        run = await world.start(ONE_STEP)
        (key,) = world.link.offers()
        async with commit_on_its_way(world):
            world.link.take()

            world.hello(agent, session="1" * 32, held=[HeldAttempt(key, AttemptState.ACCEPTED)], jobs=[])
            world.finished(agent, key)

        assert world.kinds(run.id)[-1] == "RunCompleted"
        assert messages.Release(key.attempt.run, key.attempt.job) in world.link.take()
