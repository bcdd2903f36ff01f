"""Unknown outcomes: the host runs nothing twice, acknowledges only what it keeps, and never waits forever."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState
from waterflowd.dispatch.lowering import Draft
from waterflowd.engine import Run, events, inputs
from waterflowd.engine.step import Progress, step
from waterflowd.host import turn
from waterflowd.model.ids import RunId
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.host import HostHarness


async def test_a_started_step_forgotten_by_its_agent_is_lost_and_not_offered_again() -> None:
    """G3: the agent's journal is lost, so an offer could run the step a second time."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        run = await host.start()
        (key,) = host.link.offers()
        host.started(agent, key)
        await host.settle()
        host.link.take()

        host.agents.disconnected(agent, "cut")
        host.hello(agent, instance="instance-2")
        await host.settle()

        assert host.link.offers() == []
        found = host.log.run(run.id)
        assert found is not None
        assert found.conclusion is Conclusion.LOST


async def test_nothing_is_acknowledged_behind_a_report_of_a_stalled_run_until_the_next_session() -> None:
    """Acknowledgements are cumulative: acknowledging a later report would make the agent forget the stalled run's result."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        first, second = await host.start(), await host.start()
        keys = {key.attempt.run: key for key in host.link.offers()}
        host.state.stalled[first.id] = "a test said so"
        acknowledged: list[str] = []

        host.finished(agent, keys[first.id], lambda: acknowledged.append("first"))
        host.finished(agent, keys[second.id], lambda: acknowledged.append("second"))
        await host.settle()

        assert acknowledged == []
        found = host.log.run(second.id)
        assert found is not None
        assert found.conclusion is Conclusion.SUCCESS, "the other run continues"
        third = await host.start()
        del host.state.stalled[first.id]
        host.agents.disconnected(agent, "cut")
        host.hello(agent, held=[messages.HeldAttempt(key, AttemptState.FINISHED) for key in keys.values()])
        await host.settle()
        host.finished(agent, keys[first.id], lambda: acknowledged.append("first"))
        await host.settle()
        assert acknowledged == ["first"]
        assert third.id in host.state.runs


async def test_a_report_that_stalls_its_run_is_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its facts are not recorded, so the agent must keep the result, and all that it sends in this session after it."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        bad, good = await host.start(), await host.start()
        keys = {key.attempt.run: key for key in host.link.offers()}

        def broken(run: Run, item: inputs.Input, now: int) -> Progress:
            if run.id == bad.id and isinstance(item, inputs.TaskFinished):
                raise RuntimeError("a bug")
            return step(run, item, now)

        monkeypatch.setattr(turn, "step", broken)
        acknowledged: list[str] = []

        host.finished(agent, keys[bad.id], lambda: acknowledged.append("bad"))
        host.finished(agent, keys[good.id], lambda: acknowledged.append("good"))
        await host.settle()

        assert "a bug" in host.state.stalled[bad.id]
        found = host.log.run(good.id)
        assert found is not None
        assert found.conclusion is Conclusion.SUCCESS, "the other run continues"
        assert acknowledged == []


async def test_a_failing_task_delays_one_run_and_not_its_agent() -> None:
    """The settlement continues without the failing run, and the daemon keeps running."""

    def fill(draft: Draft, instance: str) -> messages.Task:
        raise ValueError(f"no task of {draft!r:.10} for {instance}")

    async with HostHarness() as good:
        agent = good.enroll("web-1", "web")
        good.hello(agent)
        run = await good.start()
        state = good.log.reopened()
    async with HostHarness(state, fill=fill) as host:
        host.enroll("web-1", "web")
        host.hello(agent)
        await host.settle()

        assert host.is_alive
        assert RunId(run.id) in host.state.stalled


async def test_an_agent_that_never_confirms_a_stop_does_not_keep_the_run_open() -> None:
    """G7: one minute after the grace period of the cancel, the attempt is lost and the run ends."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        run = await host.start()
        await host.driver.cancel(run.id, "uid:0")
        await host.advance(69_000)
        assert run.id in host.state.runs

        await host.advance(2_000)

        found = host.log.run(run.id)
        assert found is not None
        assert found.conclusion is Conclusion.CANCELLED
        (ended,) = [event for event in host.events(run.id) if isinstance(event, events.AttemptFinished)]
        assert "did not confirm the stop" in ended.reason.text


async def test_new_runs_are_refused_while_the_disk_is_low() -> None:
    """Open runs may finish with the remaining space; a start gets `Retryable`."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        run = await host.start()
        (key,) = host.link.offers()
        host.log.is_disk_low = True

        with pytest.raises(Retryable, match="almost full"):
            await host.start()

        host.finished(agent, key)
        await host.settle()
        found = host.log.run(run.id)
        assert found is not None
        assert found.conclusion is Conclusion.SUCCESS
