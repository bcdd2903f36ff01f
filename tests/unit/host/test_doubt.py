"""When in doubt, the host runs nothing twice, acknowledges only what it can keep, and never waits for ever."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState
from waterflowd.engine import events
from waterflowd.model.ids import RunId
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.host import HostWorld


async def test_a_started_step_that_its_agent_does_not_know_any_more_is_lost_and_not_offered_again() -> None:
    """G3: the agent's journal is lost, so a new offer could run the step a second time."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        run = await world.start()
        (key,) = world.link.offers()
        world.started(agent, key)
        await world.settle()
        world.link.take()

        world.agents.disconnected(agent, "cut")
        world.hello(agent, instance="instance-2")
        await world.settle()

        assert world.link.offers() == []
        found = world.log.run(run.id)
        assert found is not None
        assert found.conclusion is Conclusion.LOST


async def test_nothing_is_acknowledged_behind_a_report_of_a_stalled_run_until_the_next_session() -> None:
    """Acknowledgements are cumulative: acknowledging a later report would make the agent forget the stalled run's result."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        first, second = await world.start(), await world.start()
        keys = {key.attempt.run: key for key in world.link.offers()}
        world.world.stalled[first.id] = "a test said so"
        acknowledged: list[str] = []

        world.finished(agent, keys[first.id], lambda: acknowledged.append("first"))
        world.finished(agent, keys[second.id], lambda: acknowledged.append("second"))
        await world.settle()

        assert acknowledged == []
        found = world.log.run(second.id)
        assert found is not None
        assert found.conclusion is Conclusion.SUCCESS, "the other run goes on all the same"
        third = await world.start()
        del world.world.stalled[first.id]
        world.agents.disconnected(agent, "cut")
        world.hello(agent, held=[messages.HeldAttempt(key, AttemptState.FINISHED) for key in keys.values()])
        await world.settle()
        world.finished(agent, keys[first.id], lambda: acknowledged.append("first"))
        await world.settle()
        assert acknowledged == ["first"]
        assert third.id in world.world.runs


async def test_a_task_that_cannot_be_made_keeps_one_run_back_and_not_its_agent() -> None:
    """The settlement continues without the run that fails in it, and the daemon keeps running."""

    def lower(run: object, *_: object) -> messages.Task:
        raise ValueError(f"no task of {run!r:.10}")

    async with HostWorld() as good:
        agent = good.enroll("web-1", "web")
        good.hello(agent)
        run = await good.start()
        state = good.log.reopened()
    async with HostWorld(state, lower=lower) as world:
        world.enroll("web-1", "web")
        world.hello(agent)
        await world.settle()

        assert world.is_alive
        assert RunId(run.id) in world.world.stalled


async def test_an_agent_that_never_answers_a_stop_does_not_keep_the_run() -> None:
    """G7: one minute after the grace period of the cancel, the attempt is lost and the run ends."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        run = await world.start()
        await world.driver.cancel(run.id, "uid:0")
        await world.advance(69_000)
        assert run.id in world.world.runs

        await world.advance(2_000)

        found = world.log.run(run.id)
        assert found is not None
        assert found.conclusion is Conclusion.CANCELLED
        (ended,) = [event for event in world.events(run.id) if isinstance(event, events.AttemptFinished)]
        assert "did not confirm the stop" in ended.reason.text


async def test_nothing_new_begins_while_the_disk_is_low() -> None:
    """Open runs may finish in the remaining space; new starts are refused and can be retried later."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        run = await world.start()
        (key,) = world.link.offers()
        world.log.is_disk_low = True

        with pytest.raises(Retryable, match="almost full"):
            await world.start()

        world.finished(agent, key)
        await world.settle()
        found = world.log.run(run.id)
        assert found is not None
        assert found.conclusion is Conclusion.SUCCESS
