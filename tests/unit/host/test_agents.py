"""Agents: the log and the agent's state are settled before anything new is sent, for each row of the table in agents.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, HeldAttempt
from waterflowd.engine import events
from waterflowd.engine.rules import leases
from waterflowd.host import driver as driver_module
from waterflowd.model.ids import AgentId, AttemptId, RunId
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import RunSummary
from waterflowd.model.statuses import Conclusion, Outcome, Status
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import LOST_AFTER_MS, ONE_STEP, TWO_STEPS, HostHarness

ON_LOST_RETRY = "jobs: {a: {runs-on: web, steps: [{run: work, on-lost: retry}]}}"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "DISK_FULL_PAUSE_S", 0.0)


async def running(host: HostHarness, workflow: str = ONE_STEP) -> tuple[AgentId, RunSummary, messages.TaskId]:
    """Returns an agent to which one attempt was offered and which has not reported anything about it."""
    agent = host.enroll("web-1", "web")
    host.hello(agent)
    summary = await host.start(workflow)
    (key,) = host.link.offers()
    host.link.take()
    return agent, summary, key


async def again(
    host: HostHarness, agent: AgentId, *held: HeldAttempt, boot_id: str = "boot-1"
) -> list[messages.TaskId]:
    """Reconnects the agent with these attempts, and returns the attempts that it should forget."""
    host.agents.disconnected(agent, "cut")
    forget = host.hello(agent, held=list(held), boot_id=boot_id)
    await host.settle()
    return forget


def stays_away(host: HostHarness, agent: AgentId, duration_ms: int) -> None:
    """Lets the agent's timer expire this long after its session ended, in all."""
    host.agents._away_since[agent] = asyncio.get_running_loop().time() - duration_ms / 1000
    host.agents._give_up(agent)


def row(host: HostHarness, summary: RunSummary) -> RunSummary:
    found = host.log.run(summary.id)
    assert found is not None
    return found


@pytest.mark.parametrize("held", [None, AttemptState.ACCEPTED, AttemptState.STARTED])
async def test_an_attempt_of_another_boot_without_a_result_is_lost(held: AttemptState | None) -> None:
    """After a reboot the outcome is unknown; the attempt is not offered again."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        await again(host, agent, *([HeldAttempt(key, held)] if held else []), boot_id="boot-2")
        assert row(host, summary).conclusion is Conclusion.LOST
        assert host.link.offers() == []
        (finished,) = [event for event in host.events(summary.id) if isinstance(event, events.AttemptFinished)]
        assert finished.reason.code is ReasonCode.OUTCOME_UNKNOWN


async def test_an_attempt_of_another_boot_with_a_result_is_reported() -> None:
    """A result that was journalled before the reboot counts."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        await again(host, agent, HeldAttempt(key, AttemptState.FINISHED), boot_id="boot-2")
        assert row(host, summary).status is not Status.COMPLETED
        host.finished(agent, key)
        await host.settle()
        assert row(host, summary).conclusion is Conclusion.SUCCESS


async def test_an_attempt_unknown_to_its_agent_is_offered_again() -> None:
    """The agent never accepted the offer, so it gets the same attempt again under the same lease."""
    async with HostHarness() as host:
        agent, _, key = await running(host)
        assert await again(host, agent) == []
        assert host.link.offers() == [key]


@pytest.mark.parametrize("held", [AttemptState.ACCEPTED, AttemptState.STARTED, AttemptState.FINISHED])
async def test_an_attempt_that_both_have_continues(held: AttemptState) -> None:
    """Neither an offer nor a cancel is sent: the agent is executing the attempt, or its report will follow."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        assert await again(host, agent, HeldAttempt(key, held)) == []
        assert host.link.sent == []
        host.finished(agent, key)
        await host.settle()
        assert row(host, summary).conclusion is Conclusion.SUCCESS


@pytest.mark.parametrize("held", [AttemptState.ACCEPTED, AttemptState.STARTED])
async def test_an_outstanding_cancel_is_sent_again(held: AttemptState) -> None:
    """The first one may have been lost with the session."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        await host.driver.cancel(summary.id, "uid:0")
        host.link.take()
        await again(host, agent, HeldAttempt(key, held))
        (cancel,) = host.link.take()
        assert isinstance(cancel, messages.Cancel)
        assert (cancel.key, cancel.force) == (key, False)


async def test_a_cancelled_attempt_that_was_never_accepted_is_offered_and_cancelled() -> None:
    """Its result then arrives like any other: every attempt ends with a report."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        await host.driver.cancel(summary.id, "uid:0")
        host.link.take()
        await again(host, agent)
        offer, cancel = host.link.take()
        assert isinstance(offer, messages.Offer)
        assert isinstance(cancel, messages.Cancel)
        assert offer.task.key == cancel.key == key


async def over(host: HostHarness) -> tuple[AgentId, RunSummary, messages.TaskId]:
    """Returns an agent with an attempt that the daemon has already cancelled by force."""
    agent, summary, key = await running(host)
    await host.driver.cancel(summary.id, "uid:0", is_forced=True)
    await host.settle()
    host.link.take()
    assert row(host, summary).status is Status.COMPLETED
    return agent, summary, key


async def test_an_ended_attempt_that_was_only_accepted_is_forgotten() -> None:
    """The agent drops it unstarted, with its job's directory if that exists by then."""
    async with HostHarness() as host:
        agent, _, key = await over(host)
        assert await again(host, agent, HeldAttempt(key, AttemptState.ACCEPTED)) == [key]
        cancel, release = host.link.take()
        assert isinstance(cancel, messages.Cancel)
        assert cancel.force
        assert release == messages.Release(key.attempt.run, key.attempt.job, is_kept=True)


async def test_an_ended_attempt_that_still_runs_is_killed() -> None:
    """Its report is only recorded as evidence."""
    async with HostHarness() as host:
        agent, summary, key = await over(host)
        assert await again(host, agent, HeldAttempt(key, AttemptState.STARTED)) == []
        (cancel,) = host.link.take()
        assert isinstance(cancel, messages.Cancel)
        assert (cancel.key, cancel.force) == (key, True)
        host.finished(agent, key)
        await host.settle()
        assert host.kinds(summary.id)[-1] == "LateReport"
        assert row(host, summary).conclusion is Conclusion.CANCELLED


async def test_a_late_result_is_acknowledged_and_recorded_once() -> None:
    """However often it arrives, in one frame or several, it is recorded once and the run does not change."""
    async with HostHarness() as host:
        agent, summary, key = await over(host)
        acknowledged: list[int] = []
        for number in range(5):
            host.finished(agent, key, lambda number=number: acknowledged.append(number))  # type: ignore[misc]
        await until(lambda: len(acknowledged) == 5)
        host.finished(agent, key)
        await host.settle()
        assert host.kinds(summary.id).count("LateReport") == 1
        assert row(host, summary).conclusion is Conclusion.CANCELLED


async def test_an_attempt_of_an_older_epoch_is_forgotten() -> None:
    """An attempt under another lease is forgotten, and its result is recorded as evidence but never applied."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        stale = messages.TaskId(key.attempt, key.epoch + 1)
        assert await again(
            host, agent, HeldAttempt(stale, AttemptState.ACCEPTED), HeldAttempt(key, AttemptState.STARTED)
        ) == [stale]
        host.finished(agent, stale, outcome=Outcome.FAILURE, exit_code=1)
        await host.settle()
        assert row(host, summary).status is not Status.COMPLETED
        assert host.kinds(summary.id)[-1] == "LateReport"
        host.finished(agent, key)
        await host.settle()
        assert row(host, summary).conclusion is Conclusion.SUCCESS


async def test_another_agents_report_changes_nothing() -> None:
    """It is recorded against its sender, and leaves no trace in the run: the link identifies an agent, not the message."""
    async with HostHarness() as host:
        _, summary, key = await running(host)
        intruder = host.enroll("web-2", "web")
        host.hello(intruder)
        before = host.kinds(summary.id)
        acknowledged: list[bool] = []
        host.finished(intruder, key, lambda: acknowledged.append(True))
        await until(lambda: bool(acknowledged))
        await host.settle()
        assert row(host, summary).status is not Status.COMPLETED
        assert host.kinds(summary.id) == before
        assert host.link.rejected == [(intruder, "WF215")]


async def test_a_false_report_does_not_hide_the_late_one() -> None:
    """An agent of another group reports first about an ended attempt; the evidence of the agent that had it is recorded."""
    async with HostHarness() as host:
        agent, summary, key = await over(host)
        intruder = host.enroll("db-1", "db")
        host.hello(intruder)
        for outcome in Outcome:
            host.finished(intruder, key, outcome=outcome)
        await host.settle()
        assert "LateReport" not in host.kinds(summary.id)
        assert {sender for sender, _ in host.link.rejected} == {intruder}
        host.finished(agent, key)
        await host.settle()
        assert host.kinds(summary.id)[-1] == "LateReport"
        (late,) = [event for event in host.events(summary.id) if isinstance(event, events.LateReport)]
        assert late.agent == agent


@pytest.mark.parametrize("run", ["", "0" * 26, "x" * 5_000, "\x00", "é"])
async def test_a_report_about_an_unknown_run_is_acknowledged_and_dropped(run: str) -> None:
    """After a restore the daemon may know less than its agents: they must not repeat it forever."""
    async with HostHarness() as host:
        agent, _, key = await running(host)
        acknowledged: list[bool] = []
        foreign = messages.TaskId(
            AttemptId(RunId(run), key.attempt.job, key.attempt.step, key.attempt.number), key.epoch
        )
        host.started(agent, foreign)
        host.finished(agent, foreign, lambda: acknowledged.append(True))
        await until(lambda: bool(acknowledged))
        assert host.is_alive


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
async def test_a_hostile_result_only_ends_its_step(changes: dict[str, Any]) -> None:
    """Whatever the wire accepts, the run ends, and its row and events can be shown."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        host.finished(agent, key, **{"outcome": Outcome.FAILURE, **changes})
        await until(lambda: row(host, summary).status is Status.COMPLETED)
        assert row(host, summary).conclusion is Conclusion.FAILURE
        assert not host.state.stalled
        assert host.is_alive


async def test_a_server_offline_beyond_lost_after_loses_its_attempts() -> None:
    """They are lost after `lost-after`, and not before."""
    async with HostHarness() as host:
        agent, summary, _ = await running(host)
        host.agents.disconnected(agent, "cut")
        timer = host.agents._lost_timers[agent]
        assert timer.when() - asyncio.get_running_loop().time() <= LOST_AFTER_MS / 1000
        stays_away(host, agent, LOST_AFTER_MS)
        await until(lambda: row(host, summary).status is Status.COMPLETED)
        (finished,) = [event for event in host.events(summary.id) if isinstance(event, events.AttemptFinished)]
        assert (finished.outcome, finished.reason.code) == (Outcome.LOST, ReasonCode.SERVER_LOST)


async def test_a_server_that_reconnects_in_time_loses_nothing() -> None:
    """Reconnecting cancels the timer; giving up a connected server has no effect."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        await again(host, agent, HeldAttempt(key, AttemptState.STARTED))
        assert agent not in host.agents._lost_timers
        host.agents._give_up(agent)
        await host.settle()
        assert row(host, summary).status is not Status.COMPLETED


async def test_a_lost_attempt_that_may_run_again_runs_elsewhere_and_its_late_result_is_evidence() -> None:
    """The lost server returns with a result: the second attempt counts."""
    async with HostHarness() as host:
        agent, summary, key = await running(host, ON_LOST_RETRY)
        host.agents.disconnected(agent, "cut")
        stays_away(host, agent, LOST_AFTER_MS)
        await host.settle()
        await host.advance(10_000)
        host.hello(agent, held=[HeldAttempt(key, AttemptState.FINISHED)])
        host.finished(agent, key, outcome=Outcome.FAILURE, exit_code=1)
        await host.settle()
        assert "LateReport" in host.kinds(summary.id)
        (second,) = host.link.offers()
        assert second.attempt.number == key.attempt.number + 1
        host.finished(agent, second)
        await host.settle()
        assert row(host, summary).conclusion is Conclusion.SUCCESS


async def test_after_a_restart_a_server_that_never_reconnects_loses_its_attempts() -> None:
    """Recovery starts the timer again for every server that has an attempt."""
    async with HostHarness() as first:
        agent, summary, _ = await running(first)
    async with first.crashed() as host:
        assert agent in host.agents._lost_timers
        stays_away(host, agent, LOST_AFTER_MS)
        await until(lambda: row(host, summary).status is Status.COMPLETED)


async def test_after_a_restart_an_attempt_keeps_its_lease() -> None:
    """The new daemon has another generation, but the attempt's epoch stays: the agent's report is accepted."""
    async with HostHarness() as first:
        agent, summary, key = await running(first)
        first.started(agent, key)
        await first.settle()
    async with first.crashed() as host:
        host.hello(agent, held=[HeldAttempt(key, AttemptState.STARTED)])
        assert host.link.sent == []
        host.finished(agent, key)
        await host.settle()
        assert row(host, summary).conclusion is Conclusion.SUCCESS


async def test_nothing_that_is_not_durable_is_sent_to_an_agent_that_connects() -> None:
    """An agent that reconnects during a commit gets its offers after the commit, not before (G3)."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        await host.settle()
        host.log.hold()
        start = asyncio.create_task(host.start())
        await until(lambda: bool(host.log._held))
        host.agents.disconnected(agent, "cut")
        host.hello(agent)
        for _ in range(5):
            await asyncio.sleep(0)
        assert host.link.offers() == []
        host.log.release()
        await start
        await until(lambda: bool(host.link.offers()))


async def test_an_attempt_is_forgotten_only_when_its_end_is_durable() -> None:
    """A cancel that may still fail must not make the agent drop its attempt."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        host.log.hold()
        cancel = asyncio.create_task(host.driver.cancel(summary.id, "uid:0", is_forced=True))
        await until(lambda: bool(host.log._held))
        host.agents.disconnected(agent, "cut")
        forget = host.hello(agent, held=[HeldAttempt(key, AttemptState.STARTED)])
        for _ in range(5):
            await asyncio.sleep(0)
        assert forget == []
        assert host.link.sent == []
        host.log.release()
        await cancel


async def test_reports_of_one_frame_are_acknowledged_together_and_in_the_log() -> None:
    """`durable` is called once for all of them, when the last one is in the log."""
    async with HostHarness() as host:
        agent, summary, key = await running(host, TWO_STEPS)
        at_acknowledgement: list[list[str]] = []
        reports: list[messages.Started | messages.Finished] = [messages.Started(key, 1)]
        host.log.fail_next(Retryable("WF302", "the disk is full"))
        host.agents.received(agent, reports, lambda: at_acknowledgement.append(host.kinds(summary.id)))
        await until(lambda: bool(at_acknowledgement))
        assert at_acknowledgement[0][-1] == "AttemptStarted"


async def test_the_events_of_a_run_name_only_agents_that_had_it() -> None:
    """Every agent in a dispatch event got the offer."""
    async with HostHarness() as host:
        agent, summary, key = await running(host)
        assert [event.agent for event in host.events(summary.id) if isinstance(event, events.AttemptDispatched)] == [
            agent
        ]
        assert key.attempt.run == summary.id


RETRIED = "jobs: {a: {runs-on: web, retry: {max-attempts: 2, on: [lost]}, steps: [{run: work, stop: {grace: 9m}}]}}"
#: The daemon waits this long for a step of `RETRIED`, longer than `lost-after` because of its grace period.
LEASE_OVER_MS = leases.over_after_ms(leases.lease_ms(LOST_AFTER_MS), 540_000)


async def test_an_attempt_with_a_lease_is_lost_when_its_lease_has_ended() -> None:
    """Until then its server may still be stopping it, and another one must not start it."""
    async with HostHarness() as host:
        agent, summary, _ = await running(host, RETRIED)
        host.agents.disconnected(agent, "cut")
        stays_away(host, agent, LOST_AFTER_MS)
        await host.settle()
        assert "AttemptFinished" not in host.kinds(summary.id)
        stays_away(host, agent, LEASE_OVER_MS - 1_000)
        await host.settle()
        assert "AttemptFinished" not in host.kinds(summary.id)

        stays_away(host, agent, LEASE_OVER_MS)
        await host.settle()

        (finished,) = [event for event in host.events(summary.id) if isinstance(event, events.AttemptFinished)]
        assert (finished.outcome, finished.reason.code) == (Outcome.LOST, ReasonCode.SERVER_LOST)
        assert "JobRetryScheduled" in host.kinds(summary.id)


async def test_a_revoked_agent_keeps_the_lease_of_its_attempts() -> None:
    """It cannot be told to stop them, so they are lost as for a server that is away."""
    async with HostHarness() as host:
        agent, summary, _ = await running(host, RETRIED)
        host.agents.disconnected(agent, "revoked")

        host.agents.lose(agent, "revoked by ada", ReasonCode.SERVER_LOST)
        await host.settle()

        assert "AttemptFinished" not in host.kinds(summary.id)
        stays_away(host, agent, LEASE_OVER_MS)
        await host.settle()
        assert "JobRetryScheduled" in host.kinds(summary.id)


async def test_a_daemon_that_has_started_counts_from_its_start() -> None:
    """It does not know when the server was cut off."""
    async with HostHarness() as host:
        agent, summary, _ = await running(host, RETRIED)
    async with host.crashed() as again:
        begun_at = again.agents._away_since[agent]
        assert asyncio.get_running_loop().time() - begun_at < 60
        again.agents._give_up(agent)
        await again.settle()
        assert "AttemptFinished" not in again.kinds(summary.id)


async def test_a_lost_record_of_an_attempt_with_a_lease_is_not_its_end() -> None:
    """The step may still run under a runner that the agent does not know; that runner gets no confirmations."""
    async with HostHarness() as host:
        agent, summary, key = await running(host, RETRIED)
        host.started(agent, key)
        await host.settle()
        await again(host, agent)
        assert "AttemptFinished" not in host.kinds(summary.id)
        timer = host.agents._doubtful[key]
        assert timer.when() - asyncio.get_running_loop().time() > (LEASE_OVER_MS - 60_000) / 1000

        attempt = host.agents._attempts.find(agent, key.attempt)
        assert attempt is not None
        host.agents._lose_doubtful(agent, attempt, host.state.runs[summary.id].reason)
        await host.settle()

        assert "JobRetryScheduled" in host.kinds(summary.id)
