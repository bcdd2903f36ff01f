"""The host's part of branches, concurrency groups and jobs on each server: slots, queues, restarts."""

from __future__ import annotations

import asyncio

import pytest

from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire import messages
from waterflowd.engine import events
from waterflowd.host import driver as driver_module
from waterflowd.model.ids import JobId, RunId, StepId
from waterflowd.model.statuses import Outcome
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import HostHarness

BRANCHES = """
jobs:
  a:
    runs-on: web
    steps:
      - uses: parallel
        with: {branches: [[{run: one}], [{run: two}], [{run: three}]]}
"""
LOCKED = "concurrency: deploy\njobs: {a: {runs-on: web, steps: [{run: work}]}}"
APPROVAL = "jobs: {a: {runs-on: web, steps: [{uses: approval}, {run: work}]}}"
EACH = "jobs: {a: {runs-on: {group: web, target: each}, steps: [{run: work}]}}"
FULL = Retryable("WF302", "the disk is full")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "DISK_FULL_PAUSE_S", 0.0)


@pytest.mark.parametrize("slots", [(2, 2), (4, 4), (1, 2)])
async def test_all_branches_of_a_job_run_on_its_server_and_hold_a_slot_each(slots: tuple[int, int]) -> None:
    """They request slots concurrently, before the job has its server."""
    async with HostHarness() as host:
        agents = [host.enroll(f"web-{number}", "web") for number in range(2)]
        for agent, count in zip(agents, slots, strict=True):
            host.hello(agent, slots=count)
        await host.settle()
        run = await host.start(BRANCHES)
        done: set[messages.TaskId] = set()
        while len(done) < 3:
            await host.settle()
            offers = [key for key in host.link.offers() if key not in done]
            placed = host.placed()
            assert {len(keys) for keys in placed.values()} == {len(offers)}
            assert len(offers) <= max(slots)
            (agent,) = placed
            host.finished(agent, offers[0])
            done.add(offers[0])
        await host.settle()
        dispatched = [event for event in host.events(run.id) if isinstance(event, events.AttemptDispatched)]
        assert len({event.agent for event in dispatched}) == 1
        assert host.kinds(run.id)[-1] == "RunCompleted"
        assert not host.placed()
        assert host.state.placement.waiting == 0


async def test_the_second_of_two_concurrent_decisions_is_rejected() -> None:
    """The log records the first decision; only its caller gets success."""
    async with HostHarness() as host:
        run = (await host.start(APPROVAL)).id
        await host.settle()
        words = [
            host.driver.decide(run, JobId("a"), StepId("1"), by, is_approved=is_approved)
            for by, is_approved in (("alice", True), ("bob", False))
        ]
        results = await asyncio.gather(*words, return_exceptions=True)
        approvers = [event.by for event in host.events(run) if isinstance(event, events.ApprovalDecided)]
        assert approvers == ["alice"]
        assert not isinstance(results[0], BaseException)
        assert isinstance(results[1], Rejected)
        assert (results[1].code, results[1].status) == ("WF606", 409)


async def test_a_commit_that_fails_does_not_change_the_order_of_a_queue() -> None:
    """A holder whose batch failed keeps its position before those behind it."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        runs: list[RunId] = []
        for _ in range(3):
            host.clock.at += 1
            runs.append((await host.start(LOCKED)).id)
        await host.settle()
        for number, run in enumerate(runs):
            assert host.state.locks.holders("", "deploy")[0].run == run
            offer = host.link.offers()[-1]
            assert offer.attempt.run == run
            host.log.fail_next(FULL) if number == 0 else None
            host.finished(agent, offer)
            await host.settle()
            await until(lambda run=run: host.kinds(run)[-1] == "RunCompleted")  # type: ignore[misc]


async def test_a_queue_keeps_its_order_across_a_restart() -> None:
    """The order comes from the log and is restored before any new request."""
    async with HostHarness() as host:
        host.enroll("web-1", "web")
        runs: list[RunId] = []
        for _ in range(3):
            host.clock.at += 1
            runs.append((await host.start(LOCKED)).id)
    async with host.crashed() as again:
        newest = asyncio.create_task(again.start(LOCKED))
        await again.settle()
        runs.append((await newest).id)
        order = []
        for _ in runs:
            (holder,) = again.state.locks.holders("", "deploy")
            order.append(holder.run)
            await again.driver.cancel(holder.run, "alice", is_forced=True)
            await again.settle()
        assert order == runs
        assert again.state.locks.holders("", "deploy") == []


async def test_a_restart_of_the_daemon_does_not_count_as_absence_of_a_server() -> None:
    """An instance that waits for its server keeps waiting until the servers had time to connect."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent, slots=0)
        run = await host.start(EACH)
        await host.settle()
        assert "AttemptFinished" not in host.kinds(run.id)
    again = host.crashed()
    again.enroll("web-1", "web")
    async with again:
        await again.settle()
        assert "AttemptFinished" not in again.kinds(run.id)
        again.hello(agent)
        await again.settle()
        assert [key.attempt.run for key in again.link.offers()] == [run.id]


async def test_a_server_that_does_not_reconnect_after_a_restart_fails_its_instance() -> None:
    """The instance fails when the server's time to connect has passed."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent, slots=0)
        run = await host.start(EACH)
        await host.settle()
    again = host.crashed()
    again.enroll("web-1", "web")
    async with again:
        await again.settle()
        again.agents._gathered()
        await again.settle()
        assert again.kinds(run.id)[-1] == "RunCompleted"


async def test_a_server_revoked_before_its_turn_does_not_block_the_job() -> None:
    """It will never connect again: the instance ends as for an absent server."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent, slots=0)
        run = await host.start(EACH)
        await host.settle()
        await host.enrollment.revoke(agent, "alice")
        await host.settle()
        assert host.kinds(run.id)[-1] == "RunCompleted"


async def test_a_retried_job_avoids_the_server_of_its_last_attempt() -> None:
    """Another server of the group is used, although the first one has more free slots."""
    retried = "jobs: {a: {runs-on: web, retry: {max-attempts: 2, initial-interval: 1s}, steps: [{run: work}]}}"
    async with HostHarness() as host:
        first, second = host.enroll("web-1", "web"), host.enroll("web-2", "web")
        host.hello(first, slots=4)
        host.hello(second, slots=2)
        run = await host.start(retried)
        await host.settle()
        host.finished(first, host.link.offers()[0], outcome=Outcome.FAILURE, exit_code=1)
        await host.settle()
        await host.advance(2_000)
        assert list(host.placed()) == [second]
        host.finished(second, host.link.offers()[-1])
        await host.settle()
        assert host.kinds(run.id)[-1] == "RunCompleted"


async def test_a_job_on_each_server_starts_when_the_first_one_is_enrolled() -> None:
    """Until then the request is kept, and the reason is shown."""
    async with HostHarness() as host:
        run = await host.start(EACH)
        await host.settle()
        assert host.kinds(run.id)[-1] == "JobWaiting"
        agent = host.enroll("web-1", "web")
        host.state.placement.enrollment_changed(agent, ("web",))
        host.driver.wake()
        await host.settle()
        assert "JobExpanded" in host.kinds(run.id)


async def test_cancel_in_progress_cancels_the_holder_of_the_lock() -> None:
    """The new run gets the lock once the other one has ended."""
    newcomer = LOCKED.replace("deploy", "{group: deploy, cancel-in-progress: true}")
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        old = await host.start(LOCKED)
        await host.settle()
        (key,) = host.link.offers()
        new = await host.start(newcomer)
        await host.settle()
        assert "CancelRequested" in host.kinds(old.id)
        assert "RunStarted" not in host.kinds(new.id)
        host.finished(agent, key, outcome=Outcome.CANCELLED)
        await host.settle()
        assert host.kinds(old.id)[-1] == "RunCompleted"
        assert "RunStarted" in host.kinds(new.id)
