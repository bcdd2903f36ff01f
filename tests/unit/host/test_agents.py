"""Agents: the log and the agent's state are reconciled before new work, by each row of the table in agents.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, HeldAttempt
from waterflowd.engine import events
from waterflowd.host import driver as driver_module
from waterflowd.model.ids import AgentId, AttemptId, RunId
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import RunSummary
from waterflowd.model.statuses import Conclusion, Outcome, Status
from waterflowd.testing.host import LOST_AFTER_MS, ONE_STEP, TWO_STEPS, HostWorld, until

ON_LOST_RETRY = "jobs: {a: {runs-on: web, steps: [{run: work, on-lost: retry}]}}"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "DISK_FULL_PAUSE_S", 0.0)


async def running(world: HostWorld, workflow: str = ONE_STEP) -> tuple[AgentId, RunSummary, messages.TaskId]:
    """Returns an agent to which one attempt was offered and which has not reported anything about it."""
    agent = world.enroll("web-1", "web")
    world.hello(agent)
    summary = await world.start(workflow)
    (key,) = world.link.offers()
    world.link.take()
    return agent, summary, key


async def again(world: HostWorld, agent: AgentId, *held: HeldAttempt, boot_id: str = "boot-1") -> list[messages.TaskId]:
    """Reconnects the agent with these attempts, and returns the attempts that it should forget."""
    world.agents.disconnected(agent, "cut")
    forget = world.hello(agent, held=list(held), boot_id=boot_id)
    await world.settle()
    return forget


def row(world: HostWorld, summary: RunSummary) -> RunSummary:
    found = world.log.run(summary.id)
    assert found is not None
    return found


@pytest.mark.parametrize("held", [None, AttemptState.ACCEPTED, AttemptState.STARTED])
async def test_open_on_another_boot_and_not_finished_is_lost(held: AttemptState | None) -> None:
    """After a reboot the outcome of the attempt is unknown; nothing of it is offered again."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        await again(world, agent, *([HeldAttempt(key, held)] if held else []), boot_id="boot-2")
        assert row(world, summary).conclusion is Conclusion.LOST
        assert world.link.offers() == []
        (finished,) = [event for event in world.events(summary.id) if isinstance(event, events.AttemptFinished)]
        assert finished.reason.code is ReasonCode.OUTCOME_UNKNOWN


async def test_open_on_another_boot_and_finished_is_its_report() -> None:
    """A result that was journaled before the reboot counts."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        await again(world, agent, HeldAttempt(key, AttemptState.FINISHED), boot_id="boot-2")
        assert row(world, summary).status is not Status.COMPLETED
        world.finished(agent, key)
        await world.settle()
        assert row(world, summary).conclusion is Conclusion.SUCCESS


async def test_open_on_this_boot_and_unknown_to_the_agent_is_offered_again() -> None:
    """The agent never accepted the offer, so it gets the same attempt again under the same lease."""
    async with HostWorld() as world:
        agent, _, key = await running(world)
        assert await again(world, agent) == []
        assert world.link.offers() == [key]


@pytest.mark.parametrize("held", [AttemptState.ACCEPTED, AttemptState.STARTED, AttemptState.FINISHED])
async def test_what_both_have_goes_on(held: AttemptState) -> None:
    """Neither an offer nor a cancel is sent: the agent is executing the attempt, or its report will follow."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        assert await again(world, agent, HeldAttempt(key, held)) == []
        assert world.link.sent == []
        world.finished(agent, key)
        await world.settle()
        assert row(world, summary).conclusion is Conclusion.SUCCESS


@pytest.mark.parametrize("held", [AttemptState.ACCEPTED, AttemptState.STARTED])
async def test_a_cancel_that_is_wanted_is_said_again(held: AttemptState) -> None:
    """The first cancel may have been lost with the session, so it is sent again."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        await world.driver.cancel(summary.id, "uid:0")
        world.link.take()
        await again(world, agent, HeldAttempt(key, held))
        (cancel,) = world.link.take()
        assert isinstance(cancel, messages.Cancel)
        assert (cancel.key, cancel.force) == (key, False)


async def test_a_cancelled_attempt_that_was_never_accepted_is_offered_and_cancelled() -> None:
    """Its result then arrives like any other: every attempt ends with a result."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        await world.driver.cancel(summary.id, "uid:0")
        world.link.take()
        await again(world, agent)
        offer, cancel = world.link.take()
        assert isinstance(offer, messages.Offer)
        assert isinstance(cancel, messages.Cancel)
        assert offer.task.key == cancel.key == key


async def over(world: HostWorld) -> tuple[AgentId, RunSummary, messages.TaskId]:
    """Returns an agent with an attempt that the daemon has already cancelled by force."""
    agent, summary, key = await running(world)
    await world.driver.cancel(summary.id, "uid:0", is_forced=True)
    await world.settle()
    world.link.take()
    assert row(world, summary).status is Status.COMPLETED
    return agent, summary, key


async def test_what_is_over_and_only_accepted_is_forgotten() -> None:
    """The agent drops the attempt without starting it, and the job's directory if it exists by then."""
    async with HostWorld() as world:
        agent, _, key = await over(world)
        assert await again(world, agent, HeldAttempt(key, AttemptState.ACCEPTED)) == [key]
        cancel, release = world.link.take()
        assert isinstance(cancel, messages.Cancel)
        assert cancel.force
        assert release == messages.Release(key.attempt.run, key.attempt.job)


async def test_what_is_over_and_still_runs_is_ended_by_force() -> None:
    """The attempt is killed, and its report is only recorded as evidence."""
    async with HostWorld() as world:
        agent, summary, key = await over(world)
        assert await again(world, agent, HeldAttempt(key, AttemptState.STARTED)) == []
        (cancel,) = world.link.take()
        assert isinstance(cancel, messages.Cancel)
        assert (cancel.key, cancel.force) == (key, True)
        world.finished(agent, key)
        await world.settle()
        assert world.kinds(summary.id)[-1] == "LateReport"
        assert row(world, summary).conclusion is Conclusion.CANCELLED


async def test_a_late_result_is_acknowledged_and_recorded_once() -> None:
    """However often the result arrives, in one frame or several, it is recorded once and the run does not change."""
    async with HostWorld() as world:
        agent, summary, key = await over(world)
        acknowledged: list[int] = []
        for number in range(5):
            world.finished(agent, key, lambda number=number: acknowledged.append(number))  # type: ignore[misc]
        await until(lambda: len(acknowledged) == 5)
        world.finished(agent, key)
        await world.settle()
        assert world.kinds(summary.id).count("LateReport") == 1
        assert row(world, summary).conclusion is Conclusion.CANCELLED


async def test_an_attempt_of_an_older_epoch_is_not_this_one() -> None:
    """An attempt under another lease is forgotten, and its result is recorded as evidence but never applied."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        stale = messages.TaskId(key.attempt, key.epoch + 1)
        assert await again(
            world, agent, HeldAttempt(stale, AttemptState.ACCEPTED), HeldAttempt(key, AttemptState.STARTED)
        ) == [stale]
        world.finished(agent, stale, outcome=Outcome.FAILURE, exit_code=1)
        await world.settle()
        assert row(world, summary).status is not Status.COMPLETED
        assert world.kinds(summary.id)[-1] == "LateReport"
        world.finished(agent, key)
        await world.settle()
        assert row(world, summary).conclusion is Conclusion.SUCCESS


async def test_another_agents_report_changes_nothing() -> None:
    """A report by another agent is only evidence: the link identifies an agent, not the content of its messages."""
    async with HostWorld() as world:
        _, summary, key = await running(world)
        intruder = world.enroll("web-2", "web")
        world.hello(intruder)
        world.finished(intruder, key)
        await world.settle()
        assert row(world, summary).status is not Status.COMPLETED
        assert world.kinds(summary.id)[-1] == "LateReport"


@pytest.mark.parametrize("run", ["", "0" * 26, "x" * 5_000, "\x00", "é"])
async def test_a_report_about_no_run_is_acknowledged_and_dropped(run: str) -> None:
    """After a restore the daemon may know less than its agents, so they must not repeat such a report for ever."""
    async with HostWorld() as world:
        agent, _, key = await running(world)
        acknowledged: list[bool] = []
        foreign = messages.TaskId(
            AttemptId(RunId(run), key.attempt.job, key.attempt.step, key.attempt.number), key.epoch
        )
        world.started(agent, foreign)
        world.finished(agent, foreign, lambda: acknowledged.append(True))
        await until(lambda: bool(acknowledged))
        assert world.is_alive


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": {"a": (1 << 64) - 1}},
        {"outputs": {"a": b"bytes"}},
        {"outputs": {"a": {1: 2}}},
        {"outputs": {"a" * 100_000: "b" * 3_000_000}},
        {"env": {"A": "x" * 3_000_000}},
        {"exit_code": -(1 << 63), "started_at": -1, "finished_at": (1 << 64) - 1, "output_bytes": -1},
        {"reason_code": "a code of the future", "reason_text": "\x1b[31m" + "x" * 100_000},
    ],
)
async def test_a_hostile_result_ends_its_step_and_harms_nobody(changes: dict[str, Any]) -> None:
    """Whatever the wire accepts, the run ends, and its row and events can be shown."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        world.finished(agent, key, **{"outcome": Outcome.FAILURE, **changes})
        await until(lambda: row(world, summary).status is Status.COMPLETED)
        assert row(world, summary).conclusion is Conclusion.FAILURE
        assert not world.world.stalled
        assert world.is_alive


async def test_a_server_that_stays_away_loses_what_it_holds() -> None:
    """Its attempts are lost after `lost-after`, and not before."""
    async with HostWorld() as world:
        agent, summary, _ = await running(world)
        world.agents.disconnected(agent, "cut")
        timer = world.agents._lost_timers[agent]
        assert timer.when() - asyncio.get_running_loop().time() <= LOST_AFTER_MS / 1000
        world.agents._give_up(agent)
        await until(lambda: row(world, summary).status is Status.COMPLETED)
        (finished,) = [event for event in world.events(summary.id) if isinstance(event, events.AttemptFinished)]
        assert (finished.outcome, finished.reason.code) == (Outcome.LOST, ReasonCode.SERVER_LOST)


async def test_a_server_that_comes_back_in_time_loses_nothing() -> None:
    """Reconnecting cancels the timer, and giving up a connected server has no effect."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        await again(world, agent, HeldAttempt(key, AttemptState.STARTED))
        assert agent not in world.agents._lost_timers
        world.agents._give_up(agent)
        await world.settle()
        assert row(world, summary).status is not Status.COMPLETED


async def test_a_lost_attempt_that_may_run_again_runs_elsewhere_and_its_late_result_is_evidence() -> None:
    """When the lost server reconnects with a result, the second attempt is still the one that counts."""
    async with HostWorld() as world:
        agent, summary, key = await running(world, ON_LOST_RETRY)
        world.agents.disconnected(agent, "cut")
        world.agents._give_up(agent)
        await world.settle()
        await world.advance(10_000)
        world.hello(agent, held=[HeldAttempt(key, AttemptState.FINISHED)])
        world.finished(agent, key, outcome=Outcome.FAILURE, exit_code=1)
        await world.settle()
        assert "LateReport" in world.kinds(summary.id)
        (second,) = world.link.offers()
        assert second.attempt.number == key.attempt.number + 1
        world.finished(agent, second)
        await world.settle()
        assert row(world, summary).conclusion is Conclusion.SUCCESS


async def test_after_a_restart_a_server_that_never_comes_back_is_given_up() -> None:
    """Recovery starts the timer again for every server that holds an attempt."""
    async with HostWorld() as first:
        agent, summary, _ = await running(first)
    async with first.crashed() as world:
        assert agent in world.agents._lost_timers
        world.agents._give_up(agent)
        await until(lambda: row(world, summary).status is Status.COMPLETED)


async def test_after_a_restart_an_attempt_keeps_its_lease() -> None:
    """The new daemon has a new generation, but the attempt keeps its epoch, so the agent's report is accepted."""
    async with HostWorld() as first:
        agent, summary, key = await running(first)
        first.started(agent, key)
        await first.settle()
    async with first.crashed() as world:
        world.hello(agent, held=[HeldAttempt(key, AttemptState.STARTED)])
        assert world.link.sent == []
        world.finished(agent, key)
        await world.settle()
        assert row(world, summary).conclusion is Conclusion.SUCCESS


async def test_nothing_that_is_not_durable_is_sent_to_an_agent_that_connects() -> None:
    """An agent that reconnects while a commit is in flight gets its offers after the commit, not before (G3)."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        await world.settle()
        world.log.hold()
        start = asyncio.create_task(world.start())
        await until(lambda: bool(world.log._held))
        world.agents.disconnected(agent, "cut")
        world.hello(agent)
        for _ in range(5):
            await asyncio.sleep(0)
        assert world.link.offers() == []
        world.log.release()
        await start
        await until(lambda: bool(world.link.offers()))


async def test_what_a_held_commit_ends_is_not_forgotten_before_it_is_durable() -> None:
    """The agent must not drop its attempt because of a cancel that may still fail to commit."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        world.log.hold()
        cancel = asyncio.create_task(world.driver.cancel(summary.id, "uid:0", is_forced=True))
        await until(lambda: bool(world.log._held))
        world.agents.disconnected(agent, "cut")
        forget = world.hello(agent, held=[HeldAttempt(key, AttemptState.STARTED)])
        for _ in range(5):
            await asyncio.sleep(0)
        assert forget == []
        assert world.link.sent == []
        world.log.release()
        await cancel


async def test_reports_of_one_frame_are_acknowledged_together_and_in_the_log() -> None:
    """`durable` is called for all of them together, when the last one is in the log."""
    async with HostWorld() as world:
        agent, summary, key = await running(world, TWO_STEPS)
        at_acknowledgement: list[list[str]] = []
        reports: list[messages.Started | messages.Finished] = [messages.Started(key, 1)]
        world.log.fail_next(Retryable("WF302", "the disk is full"))
        world.agents.received(agent, reports, lambda: at_acknowledgement.append(world.kinds(summary.id)))
        await until(lambda: bool(at_acknowledgement))
        assert at_acknowledgement[0][-1] == "AttemptStarted"


async def test_the_events_of_a_run_name_only_agents_that_had_it() -> None:
    """Every agent that is named in a dispatch got the offer."""
    async with HostWorld() as world:
        agent, summary, key = await running(world)
        assert [event.agent for event in world.events(summary.id) if isinstance(event, events.AttemptDispatched)] == [
            agent
        ]
        assert key.attempt.run == summary.id
