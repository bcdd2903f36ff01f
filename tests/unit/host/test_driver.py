"""The driver: nothing is sent before it is durable, a failed commit has no effect, one bad run affects no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflow_agent.wire import messages
from waterflowd.dispatch import lowering
from waterflowd.engine import commands, inputs
from waterflowd.engine.state.runs import Run
from waterflowd.host import driver as driver_module
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId, StreamName, run_stream
from waterflowd.model.records import Record, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.reconcile import events as repository_events
from waterflowd.testing.host import ONE_STEP, TWO_STEPS, HostWorld, request, until
from waterflowd.testing.scenario import dump

FULL = Retryable("WF302", "the disk is full")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "DISK_FULL_PAUSE_S", 0.0)


async def _first(records: AsyncIterator[Record]) -> Record:
    return await anext(records)


async def test_nothing_leaves_before_the_commit() -> None:
    """While a commit is held, no offer is sent, no caller answered, no subscriber notified; afterwards all of them are."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        await world.settle()
        world.log.hold()
        start = asyncio.create_task(world.start())
        grown = asyncio.create_task(_first(world.feed.subscribe(None, world.log.last_seq)))
        await until(lambda: bool(world.log._held))
        await asyncio.sleep(0)
        assert not start.done()
        assert not grown.done()
        assert not world.link.sent
        world.log.release()
        summary = await start
        assert (await grown).event.number == 1
        await until(lambda: bool(world.link.offers()))
        assert world.link.offers()[0].attempt.run == summary.id


async def test_a_report_is_acknowledged_after_its_commit_only() -> None:
    """`durable` is called once the result is in the log, and not while the commit is held."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        summary = await world.start()
        world.log.hold()
        acknowledged: list[int] = []
        world.finished(agent, world.link.offers()[0], lambda: acknowledged.append(world.log.head(stream)))
        stream = run_stream(summary.id)
        before = world.log.head(stream)
        await until(lambda: bool(world.log._held))
        assert acknowledged == []
        world.log.release()
        await until(lambda: bool(acknowledged))
        assert acknowledged[0] > before


async def test_each_message_is_sent_after_the_event_that_it_follows_from() -> None:
    """When an offer is sent, its dispatch is already in the log."""
    async with HostWorld() as world:

        def is_logged(_: object, message: messages.DaemonMessage) -> None:
            if isinstance(message, messages.Offer):
                key = message.task.key
                dispatched = [e for e in world.events(key.attempt.run) if type(e).__name__ == "AttemptDispatched"]
                assert any(
                    (e.step, e.attempt, e.epoch) == (key.attempt.step, key.attempt.number, key.epoch)
                    for e in dispatched
                )

        world.link.watch = is_logged
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        await world.start(TWO_STEPS)
        world.finished(agent, world.link.offers()[-1])
        await until(lambda: len(world.link.offers()) == 2)
        assert world.is_alive


async def test_after_a_full_disk_the_touched_runs_are_what_the_log_says_and_go_on() -> None:
    """A failed commit has no effect: state, slots and timers match the log, and the report is not lost."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        summary = await world.start(TWO_STEPS)
        key = world.link.offers()[0]
        world.log.fail_next(FULL, FULL)
        acknowledged: list[str] = []
        world.finished(agent, key, lambda: acknowledged.append("first"))
        await until(lambda: bool(acknowledged))
        await until(lambda: len(world.link.offers()) == 2)
        assert world.log.commits[-1].appends
        assert dump(world.world.runs[summary.id]) == dump(world.queries.run(summary.id))
        assert len(world.placed()[agent]) == 1


async def test_a_report_that_met_a_full_disk_is_durable_before_a_later_one_is_acknowledged() -> None:
    """Acknowledgements are cumulative, so a report that failed is committed again before later ones, in order."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        first, second = await world.start(), await world.start()
        keys = {key.attempt.run: key for key in world.link.offers()}
        order: list[str] = []
        world.log.fail_next(FULL)
        world.finished(agent, keys[first.id], lambda: order.append("first"))
        await asyncio.sleep(0)
        world.finished(agent, keys[second.id], lambda: order.append("second"))
        await until(lambda: "second" in order)
        assert order == ["first", "second"]
        for run in (first, second):
            row = world.log.run(run.id)
            assert row is not None
            assert row.conclusion is Conclusion.SUCCESS


async def test_what_the_host_itself_has_to_say_survives_a_full_disk() -> None:
    """A lost attempt is not reported again, so it stays queued until it is durable, and no run waits for a lost server."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        summary = await world.start()
        world.agents.disconnected(agent, "cut")
        await world.settle()
        world.log.fail_next(FULL)
        world.agents._give_up(agent)
        await until(lambda: (row := world.log.run(summary.id)) is not None and row.status is Status.COMPLETED)


async def test_a_start_that_met_a_full_disk_is_refused_and_leaves_nothing() -> None:
    """The caller gets the error, no run is open, and its run number is used for the next run."""
    async with HostWorld() as world:
        world.log.fail_next(FULL)
        with pytest.raises(Retryable):
            await world.start()
        assert not world.world.runs
        assert not world.world.placement.waiting
        assert not len(world.world.timers)
        assert (await world.start()).number == 1


async def test_read_only_lasts_until_a_commit_has_succeeded() -> None:
    """The reason for read-only mode is shown from the failed commit until a commit succeeds, not only until the next check."""
    async with HostWorld() as world:
        world.log.fail_next(FULL)
        with pytest.raises(Retryable):
            await world.start()
        assert "disk is full" in world.driver.read_only
        await world.settle()
        assert "disk is full" in world.driver.read_only
        await world.start()
        assert world.driver.read_only == ""


async def test_any_other_failure_of_a_commit_ends_the_driver() -> None:
    """After an I/O error the driver stops with `Stalled`: the daemon exits and verifies its log; no caller keeps waiting."""
    world = HostWorld()
    world.log.fail_next(Stalled("WF303", "an I/O error"))
    task = asyncio.create_task(world.driver.run())
    start = asyncio.create_task(world.start())
    with pytest.raises(Stalled, match="I/O error"):
        await asyncio.wait_for(task, PATIENCE_S)
    with pytest.raises(Stalled, match="I/O error"):
        await asyncio.wait_for(start, PATIENCE_S)
    with pytest.raises(Stalled, match="I/O error"):
        await asyncio.wait_for(world.start(), PATIENCE_S)


async def test_a_run_that_raises_is_stalled_alone() -> None:
    """A bug triggered by one run stalls that run with its position in the log; other runs of the same batch continue."""

    def broken(run: Run, command: commands.SendTask, instance: str) -> messages.Task:
        if run.plan.name == "bad":
            raise RuntimeError("a bug")
        return lowering.lower(run, command, instance)

    async with HostWorld(lower=broken) as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        bad, good = await asyncio.gather(world.start(f"name: bad\n{ONE_STEP}"), world.start(f"name: good\n{ONE_STEP}"))
        await world.settle()
        assert "a bug" in world.world.stalled[bad.id]
        assert list(world.world.runs) == [good.id]
        assert [key.attempt.run for key in world.link.offers()] == [good.id]
        assert world.placed() == {agent: [AttemptId(good.id, JobId("a"), StepId("1"), AttemptNo(1))]}
        assert world.is_alive


async def test_the_row_of_a_stalled_run_says_no_more_than_its_log() -> None:
    """A step that raises halfway has changed the run's state in memory, but neither its log nor its row in the index."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        summary = await world.start()
        # The cancel is indexed in the same batch in which the next input raises.
        world.driver.submit([(summary.id, inputs.CancelRun(by="uid:0")), (summary.id, inputs.Input())])
        await until(lambda: summary.id in world.world.stalled)
        await world.settle()
        row = world.log.run(summary.id)
        assert row is not None
        assert row.seq <= world.log.head(run_stream(summary.id))
        assert summary.id in list(world.log.open_runs())


async def test_a_start_that_raises_is_refused_and_its_key_is_free() -> None:
    """A run that cannot start leaves neither a key nor a stalled run behind, and the caller gets the reason."""
    async with HostWorld() as world:
        bad = request(ONE_STEP, key="k")
        huge = StartRequest(plan=bad.plan, trigger=bad.trigger, inputs={"n": 1 << 70})
        with pytest.raises(Rejected):
            await world.driver.start(huge)
        assert not world.world.runs
        assert not world.world.stalled
        assert world.log.run_for_key("k") is None
        assert (await world.driver.start(bad)).number == 1
        assert world.is_alive


async def test_what_cannot_be_stored_stalls_its_run_and_nobody_else() -> None:
    """An event that cannot be encoded never reaches the log: its run is stalled, and the daemon continues."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        bad, good = await world.start(), await world.start()
        keys = {key.attempt.run: key for key in world.link.offers()}
        world.finished(agent, keys[bad.id], outputs={"n": 1 << 70})
        world.finished(agent, keys[good.id])
        await until(lambda: (row := world.log.run(good.id)) is not None and row.status is Status.COMPLETED)
        assert world.is_alive


async def test_a_start_with_a_broken_plan_is_refused() -> None:
    """Bytes that are not a plan are the caller's error and do not stop the driver."""
    async with HostWorld() as world:
        with pytest.raises(Rejected):
            await world.driver.start(
                StartRequest(plan=b"\xc1nonsense", trigger=Trigger(kind=TriggerKind.CLI, by="uid:0"))
            )
        assert world.is_alive
        await world.start()


async def test_the_same_trigger_key_starts_one_run() -> None:
    """G6: concurrent and later starts with one key return the first one's run."""
    async with HostWorld() as world:
        first, second = await asyncio.gather(world.start(key="k"), world.start(key="k"))
        third = await world.start(key="k")
        assert first.id == second.id == third.id
        assert len(list(world.log.open_runs())) == 1
        assert (await world.start(key="other")).id != first.id


async def test_a_key_of_a_request_that_came_before_starts_no_other_run() -> None:
    """G6: a start may list other keys of the same request, also while that request is still in flight."""
    async with HostWorld() as world:
        again = msgspec.structs.replace(request(key="b"), earlier_keys=("a",))
        first, second = await asyncio.gather(world.start(key="a"), world.driver.start(again))
        third = await world.driver.start(again)
        assert first.id == second.id == third.id
        assert len(list(world.log.open_runs())) == 1


async def test_runs_are_numbered_per_workflow_without_gaps() -> None:
    """Concurrent starts of one workflow get 1, 2, 3; each path has its own numbers."""
    async with HostWorld() as world:
        rows = await asyncio.gather(*(world.start() for _ in range(3)))
        assert sorted(row.number for row in rows) == [1, 2, 3]
        assert (await world.driver.start(request(path="workflows/other.yml"))).number == 1
        assert (await world.start()).number == 4


async def test_open_runs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit a start is refused with 429, and accepted again when a run has ended."""
    monkeypatch.setattr(driver_module, "OPEN_RUNS_MAX", 2)
    async with HostWorld() as world:
        first, _ = await world.start(), await world.start()
        with pytest.raises(Rejected) as refused:
            await world.start()
        assert refused.value.status == 429
        await world.driver.cancel(first.id, "uid:0")
        await world.start()


async def test_facts_and_starts_are_applied_together_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of the starts is refused, neither the facts nor the other runs are recorded."""
    monkeypatch.setattr(driver_module, "OPEN_RUNS_MAX", 1)
    async with HostWorld() as world:
        stream = StreamName("repo/ops")
        with pytest.raises(Rejected):
            await world.driver.apply(stream, [_fact()], [request(), request()])
        assert world.log.head(stream) == 0
        assert not world.world.runs
        assert not list(world.log.open_runs())
        assert len(await world.driver.apply(stream, [_fact()], [request()])) == 1
        assert world.log.head(stream) == 1


def _fact() -> repository_events.Fact:
    return repository_events.RepositoryResumed(at=1, by="test")


async def test_starts_without_facts_leave_their_stream_alone() -> None:
    """An empty list of facts appends nothing."""
    async with HostWorld() as world:
        await world.driver.apply(StreamName("repo/ops"), [], [request()])
        assert all(append.events for commit in world.log.commits for append in commit.appends)
        assert world.log.head(StreamName("repo/ops")) == 0
        assert world.is_alive


async def test_facts_of_one_batch_follow_each_other() -> None:
    """Concurrent facts for one stream are appended one after the other."""
    async with HostWorld() as world:
        stream = StreamName("repo/ops")
        await asyncio.gather(*(world.driver.record(stream, [_fact()]) for _ in range(5)))
        assert world.log.head(stream) == 5


async def test_a_cancel_of_an_unknown_run_is_404_and_of_a_completed_one_409() -> None:
    """`Rejected` says which of the two applies."""
    async with HostWorld() as world:
        with pytest.raises(Rejected) as unknown:
            await world.driver.cancel(RunId("01J00000000000000000000000"), "uid:0")
        assert unknown.value.status == 404
        summary = await world.start()
        cancelled = await world.driver.cancel(summary.id, "uid:0")
        assert cancelled.conclusion is Conclusion.CANCELLED
        with pytest.raises(Rejected) as completed:
            await world.driver.cancel(summary.id, "uid:0")
        assert completed.value.status == 409


async def test_two_cancels_at_once_are_one() -> None:
    """A cancel is idempotent; both callers get the row."""
    async with HostWorld() as world:
        summary = await world.start()
        rows = await asyncio.gather(*(world.driver.cancel(summary.id, "uid:0") for _ in range(2)))
        assert [row.conclusion for row in rows] == [Conclusion.CANCELLED] * 2
        assert world.kinds(summary.id).count("CancelRequested") == 1


async def test_a_cancel_that_met_a_full_disk_is_refused_and_has_not_happened() -> None:
    """The caller gets the error, the run is not cancelled, and a second request works."""
    async with HostWorld() as world:
        summary = await world.start()
        world.log.fail_next(FULL)
        with pytest.raises(Retryable):
            await world.driver.cancel(summary.id, "uid:0")
        assert not world.world.runs[summary.id].is_cancelled
        assert (await world.driver.cancel(summary.id, "uid:0")).conclusion is Conclusion.CANCELLED


async def test_a_completed_run_leaves_the_live_state() -> None:
    """A completed run leaves no timers, slots, requests or state in memory."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        summary = await world.start()
        world.finished(agent, world.link.offers()[0])
        await until(lambda: (row := world.log.run(summary.id)) is not None and row.status is Status.COMPLETED)
        await world.settle()
        assert world.state() == {"runs": {}, "placed": {}, "waiting": 0, "timers": 0}


async def test_timers_fire_when_the_logs_clock_has_come_there() -> None:
    """A sleep of one hour ends after one hour of the log's clock, and not before."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        sleep = "jobs: {a: {runs-on: web, steps: [{uses: sleep, with: {duration: 1h}}]}}"
        summary = await world.start(sleep)
        await world.advance(3_599_999)
        assert summary.id in world.world.runs
        await world.advance(1)
        row = world.log.run(summary.id)
        assert row is not None
        assert row.conclusion is Conclusion.SUCCESS


async def test_a_run_whose_log_cannot_be_understood_does_not_stop_recovery() -> None:
    """The run with the broken log is stalled, and the others are recovered."""
    async with HostWorld() as world:
        bad, good = await world.start(), await world.start()
    again = world.crashed()
    again.log._streams[run_stream(bad.id)].pop(0)
    async with again:
        assert list(again.world.runs) == [good.id]
        assert bad.id in again.world.stalled
        assert again.is_alive
        with pytest.raises(Rejected) as stalled:
            await again.driver.cancel(bad.id, "uid:0")
        assert stalled.value.status == 409
