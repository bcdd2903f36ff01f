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
from waterflowd.testing.host import HostWorld, until

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
    """The branches request slots at the same time, before the job has its server."""
    async with HostWorld() as world:
        agents = [world.enroll(f"web-{number}", "web") for number in range(2)]
        for agent, count in zip(agents, slots, strict=True):
            world.hello(agent, slots=count)
        await world.settle()
        run = await world.start(BRANCHES)
        done: set[messages.TaskId] = set()
        while len(done) < 3:
            await world.settle()
            offers = [key for key in world.link.offers() if key not in done]
            placed = world.placed()
            assert {len(keys) for keys in placed.values()} == {len(offers)}
            assert len(offers) <= max(slots)
            (agent,) = placed
            world.finished(agent, offers[0])
            done.add(offers[0])
        await world.settle()
        dispatched = [event for event in world.events(run.id) if isinstance(event, events.AttemptDispatched)]
        assert len({event.agent for event in dispatched}) == 1
        assert world.kinds(run.id)[-1] == "RunCompleted"
        assert not world.placed()
        assert world.world.placement.waiting == 0


async def test_of_two_who_decide_at_once_one_is_told_that_it_is_decided() -> None:
    """Only the decision in the log counts, and only its author is told that it was accepted."""
    async with HostWorld() as world:
        run = (await world.start(APPROVAL)).id
        await world.settle()
        words = [
            world.driver.decide(run, JobId("a"), StepId("1"), by, is_approved=is_approved)
            for by, is_approved in (("alice", True), ("bob", False))
        ]
        told = await asyncio.gather(*words, return_exceptions=True)
        given = [event.by for event in world.events(run) if isinstance(event, events.ApprovalGiven)]
        assert given == ["alice"]
        assert not isinstance(told[0], BaseException)
        assert isinstance(told[1], Rejected)
        assert (told[1].code, told[1].status) == ("WF606", 409)


async def test_a_commit_that_fails_does_not_change_the_order_of_a_queue() -> None:
    """A holder that got its place in a failed batch keeps its turn before those behind it."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        runs: list[RunId] = []
        for _ in range(3):
            world.clock.at += 1
            runs.append((await world.start(LOCKED)).id)
        await world.settle()
        for number, run in enumerate(runs):
            assert world.world.locks.holders("", "deploy")[0].run == run
            offer = world.link.offers()[-1]
            assert offer.attempt.run == run
            world.log.fail_next(FULL) if number == 0 else None
            world.finished(agent, offer)
            await world.settle()
            await until(lambda run=run: world.kinds(run)[-1] == "RunCompleted")  # type: ignore[misc]


async def test_a_queue_keeps_its_order_over_a_restart_and_a_newcomer_is_behind_it() -> None:
    """The order is restored from the log before any new request is handled."""
    async with HostWorld() as world:
        world.enroll("web-1", "web")
        runs: list[RunId] = []
        for _ in range(3):
            world.clock.at += 1
            runs.append((await world.start(LOCKED)).id)
    async with world.crashed() as again:
        newest = asyncio.create_task(again.start(LOCKED))
        await again.settle()
        runs.append((await newest).id)
        order = []
        for _ in runs:
            (holder,) = again.world.locks.holders("", "deploy")
            order.append(holder.run)
            await again.driver.cancel(holder.run, "somebody", is_forced=True)
            await again.settle()
        assert order == runs
        assert again.world.locks.holders("", "deploy") == []


async def test_a_restart_of_the_daemon_is_no_absence_of_a_server() -> None:
    """An instance that was waiting for a slot keeps waiting until the servers have had time to connect."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent, slots=0)
        run = await world.start(EACH)
        await world.settle()
        assert "AttemptFinished" not in world.kinds(run.id)
    again = world.crashed()
    again.enroll("web-1", "web")
    async with again:
        await again.settle()
        assert "AttemptFinished" not in again.kinds(run.id)
        again.hello(agent)
        await again.settle()
        assert [key.attempt.run for key in again.link.offers()] == [run.id]


async def test_a_server_that_stays_away_after_a_restart_fails_its_instance() -> None:
    """The instance fails when the server's time to connect has passed."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent, slots=0)
        run = await world.start(EACH)
        await world.settle()
    again = world.crashed()
    again.enroll("web-1", "web")
    async with again:
        await again.settle()
        again.agents._gathered()
        await again.settle()
        assert again.kinds(run.id)[-1] == "RunCompleted"


async def test_a_server_that_is_revoked_before_its_turn_does_not_hold_the_job_up() -> None:
    """It will never connect again, so the instance ends as for an offline server."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent, slots=0)
        run = await world.start(EACH)
        await world.settle()
        await world.enrollment.revoke(agent, "somebody")
        await world.settle()
        assert world.kinds(run.id)[-1] == "RunCompleted"


async def test_the_next_try_of_a_job_avoids_the_server_of_the_last_one() -> None:
    """Another server of the group is used, even if the first one has more free slots."""
    retried = "jobs: {a: {runs-on: web, retry: {max-attempts: 2, initial-interval: 1s}, steps: [{run: work}]}}"
    async with HostWorld() as world:
        first, second = world.enroll("web-1", "web"), world.enroll("web-2", "web")
        world.hello(first, slots=4)
        world.hello(second, slots=2)
        run = await world.start(retried)
        await world.settle()
        world.finished(first, world.link.offers()[0], outcome=Outcome.FAILURE, exit_code=1)
        await world.settle()
        await world.advance(2_000)
        assert list(world.placed()) == [second]
        world.finished(second, world.link.offers()[-1])
        await world.settle()
        assert world.kinds(run.id)[-1] == "RunCompleted"


async def test_a_job_on_each_server_begins_when_the_first_one_is_enrolled() -> None:
    """Until then the request stays pending, and its reason is shown."""
    async with HostWorld() as world:
        run = await world.start(EACH)
        await world.settle()
        assert world.kinds(run.id)[-1] == "JobWaiting"
        agent = world.enroll("web-1", "web")
        world.world.placement.enrollment_changed(agent, ("web",))
        world.driver.wake()
        await world.settle()
        assert "JobExpanded" in world.kinds(run.id)


async def test_who_holds_a_place_is_cancelled_for_a_newcomer_that_says_so() -> None:
    """The newcomer gets the place when the cancelled holder has ended."""
    newcomer = LOCKED.replace("deploy", "{group: deploy, cancel-in-progress: true}")
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        old = await world.start(LOCKED)
        await world.settle()
        (key,) = world.link.offers()
        new = await world.start(newcomer)
        await world.settle()
        assert "CancelRequested" in world.kinds(old.id)
        assert "RunStarted" not in world.kinds(new.id)
        world.finished(agent, key, outcome=Outcome.CANCELLED)
        await world.settle()
        assert world.kinds(old.id)[-1] == "RunCompleted"
        assert "RunStarted" in world.kinds(new.id)
