"""The driver: nothing is sent before it is durable, a failed commit has no effect, and one bad run does not stop the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflow_agent.wire import messages
from waterflowd.dispatch import lowering
from waterflowd.engine import inputs
from waterflowd.host import driver as driver_module
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId, StreamName, run_stream
from waterflowd.model.records import Record, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.reconcile import events as repository_events
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import LOST_AFTER_MS, ONE_STEP, TWO_STEPS, HostHarness, request
from waterflowd.testing.scenario import dump

FULL = Retryable("WF302", "the disk is full")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "DISK_FULL_PAUSE_S", 0.0)


async def _first(records: AsyncIterator[Record]) -> Record:
    return await anext(records)


async def test_nothing_is_sent_before_the_commit() -> None:
    """While the commit is held, no offer is sent, no caller answered, no subscriber notified; afterwards all of them are."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        await host.settle()
        host.log.hold()
        start = asyncio.create_task(host.start())
        grown = asyncio.create_task(_first(host.feed.everything(host.log.last_seq)))
        await until(lambda: bool(host.log._held))
        await asyncio.sleep(0)
        assert not start.done()
        assert not grown.done()
        assert not host.link.sent
        host.log.release()
        summary = await start
        assert (await grown).event.number == 1
        await until(lambda: bool(host.link.offers()))
        assert host.link.offers()[0].attempt.run == summary.id


async def test_a_report_is_acknowledged_only_after_its_commit() -> None:
    """`durable` is called once the result is in the log, and not while the commit is held."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        summary = await host.start()
        host.log.hold()
        acknowledged: list[int] = []
        host.finished(agent, host.link.offers()[0], lambda: acknowledged.append(host.log.head(stream)))
        stream = run_stream(summary.id)
        before = host.log.head(stream)
        await until(lambda: bool(host.log._held))
        assert acknowledged == []
        host.log.release()
        await until(lambda: bool(acknowledged))
        assert acknowledged[0] > before


async def test_each_message_is_sent_after_the_event_that_it_follows_from() -> None:
    """When an offer is sent, its dispatch event is in the log."""
    async with HostHarness() as host:

        def is_logged(_: object, message: messages.DaemonMessage) -> None:
            if isinstance(message, messages.Offer):
                key = message.task.key
                dispatched = [e for e in host.events(key.attempt.run) if type(e).__name__ == "AttemptDispatched"]
                assert any(
                    (e.step, e.attempt, e.epoch) == (key.attempt.step, key.attempt.number, key.epoch)
                    for e in dispatched
                )

        host.link.watch = is_logged
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        await host.start(TWO_STEPS)
        host.finished(agent, host.link.offers()[-1])
        await until(lambda: len(host.link.offers()) == 2)
        assert host.is_alive


async def test_after_a_full_disk_the_touched_runs_are_restored_from_the_log_and_continue() -> None:
    """A failed commit has no effect: state, slots and timers match the log, and the report is not lost."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        summary = await host.start(TWO_STEPS)
        key = host.link.offers()[0]
        host.log.fail_next(FULL, FULL)
        acknowledged: list[str] = []
        host.finished(agent, key, lambda: acknowledged.append("first"))
        await until(lambda: bool(acknowledged))
        await until(lambda: len(host.link.offers()) == 2)
        assert host.log.commits[-1].appends
        assert dump(host.state.runs[summary.id]) == dump(host.queries.run(summary.id))
        assert len(host.placed()[agent]) == 1


async def test_a_report_that_met_a_full_disk_is_durable_before_a_later_one_is_acknowledged() -> None:
    """Acknowledgements are cumulative, so a failed report is retried before later ones, in order."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        first, second = await host.start(), await host.start()
        keys = {key.attempt.run: key for key in host.link.offers()}
        order: list[str] = []
        host.log.fail_next(FULL)
        host.finished(agent, keys[first.id], lambda: order.append("first"))
        await asyncio.sleep(0)
        host.finished(agent, keys[second.id], lambda: order.append("second"))
        await until(lambda: "second" in order)
        assert order == ["first", "second"]
        for run in (first, second):
            row = host.log.run(run.id)
            assert row is not None
            assert row.conclusion is Conclusion.SUCCESS


async def test_findings_of_the_host_survive_a_full_disk() -> None:
    """A loss is not reported again, so it stays in the queue until it is durable, and no run waits for a lost server."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        summary = await host.start()
        host.agents.disconnected(agent, "cut")
        await host.settle()
        host.log.fail_next(FULL)
        host.agents._away_since[agent] -= LOST_AFTER_MS / 1000
        host.agents._give_up(agent)
        await until(lambda: (row := host.log.run(summary.id)) is not None and row.status is Status.COMPLETED)


async def test_a_start_that_met_a_full_disk_is_refused_and_leaves_nothing() -> None:
    """The caller gets the error, no run is open, and the next run gets the number."""
    async with HostHarness() as host:
        host.log.fail_next(FULL)
        with pytest.raises(Retryable):
            await host.start()
        assert not host.state.runs
        assert not host.state.placement.waiting
        assert not len(host.state.timers)
        assert (await host.start()).number == 1


async def test_read_only_lasts_until_a_commit_has_succeeded() -> None:
    """The reason is shown from the failed commit until something was written, not only until the next check."""
    async with HostHarness() as host:
        host.log.fail_next(FULL)
        with pytest.raises(Retryable):
            await host.start()
        assert "disk is full" in host.driver.read_only
        await host.settle()
        assert "disk is full" in host.driver.read_only
        await host.start()
        assert host.driver.read_only == ""


async def test_any_other_commit_failure_ends_the_driver() -> None:
    """After an I/O error the driver stops with `Stalled`, so that the daemon restarts and verifies; no caller keeps waiting."""
    host = HostHarness()
    host.log.fail_next(Stalled("WF303", "an I/O error"))
    task = asyncio.create_task(host.driver.run())
    start = asyncio.create_task(host.start())
    with pytest.raises(Stalled, match="I/O error"):
        await asyncio.wait_for(task, PATIENCE_S)
    with pytest.raises(Stalled, match="I/O error"):
        await asyncio.wait_for(start, PATIENCE_S)
    with pytest.raises(Stalled, match="I/O error"):
        await asyncio.wait_for(host.start(), PATIENCE_S)


async def test_only_a_run_that_raises_is_stalled() -> None:
    """A bug that one run triggers stalls it with its position in the log; the other runs of the batch continue."""

    def broken(draft: lowering.Draft, instance: str) -> messages.Task:
        if draft.task.step_name == "bad":
            raise RuntimeError("a bug")
        return lowering.fill(draft, instance)

    named = "jobs: {a: {runs-on: web, steps: [{name: %s, run: work}]}}"
    async with HostHarness(fill=broken) as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        bad, good = await asyncio.gather(host.start(named % "bad"), host.start(named % "good"))
        await host.settle()
        assert "a bug" in host.state.stalled[bad.id]
        assert list(host.state.runs) == [good.id]
        assert [key.attempt.run for key in host.link.offers()] == [good.id]
        assert host.placed() == {agent: [AttemptId(good.id, JobId("a"), StepId("1"), AttemptNo(1))]}
        assert host.is_alive


async def test_the_row_of_a_stalled_run_matches_its_log() -> None:
    """A step that raises halfway has changed the run in memory, but neither its log nor its row in the index."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        summary = await host.start()
        # The cancel is indexed in the same batch in which the next input raises.
        host.driver.submit([(summary.id, inputs.CancelRun(by="uid:0")), (summary.id, inputs.Input())])
        await until(lambda: summary.id in host.state.stalled)
        await host.settle()
        row = host.log.run(summary.id)
        assert row is not None
        assert row.seq <= host.log.head(run_stream(summary.id))
        assert summary.id in list(host.log.open_runs())


async def test_a_start_that_raises_is_refused_and_its_key_is_free() -> None:
    """A run that cannot start leaves neither a key nor a stalled run behind; the caller gets the reason."""
    async with HostHarness() as host:
        bad = request(ONE_STEP, key="k")
        huge = StartRequest(plan=bad.plan, trigger=bad.trigger, inputs={"n": 1 << 70})
        with pytest.raises(Rejected):
            await host.driver.start(huge)
        assert not host.state.runs
        assert not host.state.stalled
        assert host.log.run_for_key("k") is None
        assert (await host.driver.start(bad)).number == 1
        assert host.is_alive


async def test_a_value_that_cannot_be_stored_stalls_only_its_run() -> None:
    """An event that cannot be encoded never reaches the log: its run is stalled, the daemon continues."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        bad, good = await host.start(), await host.start()
        keys = {key.attempt.run: key for key in host.link.offers()}
        host.finished(agent, keys[bad.id], outputs={"n": 1 << 70})
        host.finished(agent, keys[good.id])
        await until(lambda: (row := host.log.run(good.id)) is not None and row.status is Status.COMPLETED)
        assert host.is_alive


async def test_a_start_with_a_broken_plan_is_refused() -> None:
    """An invalid plan is the caller's fault and does not end the driver."""
    async with HostHarness() as host:
        with pytest.raises(Rejected):
            await host.driver.start(
                StartRequest(plan=b"\xc1nonsense", trigger=Trigger(kind=TriggerKind.CLI, by="uid:0"))
            )
        assert host.is_alive
        await host.start()


async def test_the_same_trigger_key_starts_one_run() -> None:
    """G6: concurrent and later starts with one key return the first one's run."""
    async with HostHarness() as host:
        first, second = await asyncio.gather(host.start(key="k"), host.start(key="k"))
        third = await host.start(key="k")
        assert first.id == second.id == third.id
        assert len(list(host.log.open_runs())) == 1
        assert (await host.start(key="other")).id != first.id


async def test_an_earlier_key_of_the_same_request_starts_no_second_run() -> None:
    """G6: a start may list earlier keys of the same request; also while the first start is in progress."""
    async with HostHarness() as host:
        again = msgspec.structs.replace(request(key="b"), earlier_keys=("a",))
        first, second = await asyncio.gather(host.start(key="a"), host.driver.start(again))
        third = await host.driver.start(again)
        assert first.id == second.id == third.id
        assert len(list(host.log.open_runs())) == 1


async def test_runs_are_numbered_per_workflow_without_gaps() -> None:
    """Concurrent starts of one workflow get 1, 2, 3; another path has its own numbers."""
    async with HostHarness() as host:
        rows = await asyncio.gather(*(host.start() for _ in range(3)))
        assert sorted(row.number for row in rows) == [1, 2, 3]
        assert (await host.driver.start(request(path="workflows/other.yml"))).number == 1
        assert (await host.start()).number == 4


async def test_open_runs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit a start is refused with 429, and accepted again when a run has ended."""
    monkeypatch.setattr(driver_module, "OPEN_RUNS_MAX", 2)
    async with HostHarness() as host:
        first, _ = await host.start(), await host.start()
        with pytest.raises(Rejected) as refused:
            await host.start()
        assert refused.value.status == 429
        await host.driver.cancel(first.id, "uid:0")
        await host.start()


async def test_a_repository_leaves_as_many_open_runs_to_others_as_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many it starts, others find room; a run of no repository is not affected."""
    monkeypatch.setattr(driver_module, "OPEN_RUNS_MAX", 9)
    async with HostHarness() as host:
        for name, most in (("web", 5), ("docs", 2), ("shop", 1)):
            start = msgspec.structs.replace(request(), repository=name)
            for _ in range(most):
                await host.driver.start(start)
            with pytest.raises(Rejected, match=f'"{name}" has {most} open runs, and may not have more') as refused:
                await host.driver.start(start)
            assert refused.value.status == 429
        await host.start()


async def test_facts_and_starts_are_applied_together_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of the starts is refused, neither the facts nor the other runs are recorded."""
    monkeypatch.setattr(driver_module, "OPEN_RUNS_MAX", 1)
    async with HostHarness() as host:
        stream = StreamName("repo/ops")
        with pytest.raises(Rejected):
            await host.driver.apply(stream, [_fact()], [request(), request()])
        assert host.log.head(stream) == 0
        assert not host.state.runs
        assert not list(host.log.open_runs())
        assert len(await host.driver.apply(stream, [_fact()], [request()])) == 1
        assert host.log.head(stream) == 1


def _fact() -> repository_events.Fact:
    return repository_events.RepositoryResumed(at=1, by="test")


async def test_starts_without_facts_add_no_record() -> None:
    """An empty list of facts adds no record."""
    async with HostHarness() as host:
        await host.driver.apply(StreamName("repo/ops"), [], [request()])
        assert all(append.events for commit in host.log.commits for append in commit.appends)
        assert host.log.head(StreamName("repo/ops")) == 0
        assert host.is_alive


async def test_facts_of_one_batch_follow_each_other() -> None:
    """Concurrent records of one stream are stored one after the other."""
    async with HostHarness() as host:
        stream = StreamName("repo/ops")
        await asyncio.gather(*(host.driver.record(stream, [_fact()]) for _ in range(5)))
        assert host.log.head(stream) == 5


async def test_a_cancel_of_an_unknown_run_is_404_and_of_a_completed_one_409() -> None:
    """`Rejected` says which of the two applies."""
    async with HostHarness() as host:
        with pytest.raises(Rejected) as unknown:
            await host.driver.cancel(RunId("01J00000000000000000000000"), "uid:0")
        assert unknown.value.status == 404
        summary = await host.start()
        cancelled = await host.driver.cancel(summary.id, "uid:0")
        assert cancelled.conclusion is Conclusion.CANCELLED
        with pytest.raises(Rejected) as completed:
            await host.driver.cancel(summary.id, "uid:0")
        assert completed.value.status == 409


async def test_two_cancels_at_once_are_one() -> None:
    """A cancel is idempotent; both callers get the row."""
    async with HostHarness() as host:
        summary = await host.start()
        rows = await asyncio.gather(*(host.driver.cancel(summary.id, "uid:0") for _ in range(2)))
        assert [row.conclusion for row in rows] == [Conclusion.CANCELLED] * 2
        assert host.kinds(summary.id).count("CancelRequested") == 1


async def test_a_cancel_that_met_a_full_disk_is_refused_and_has_not_happened() -> None:
    """The caller gets the error, the run is not cancelled, and a second request works."""
    async with HostHarness() as host:
        summary = await host.start()
        host.log.fail_next(FULL)
        with pytest.raises(Retryable):
            await host.driver.cancel(summary.id, "uid:0")
        assert not host.state.runs[summary.id].is_cancelled
        assert (await host.driver.cancel(summary.id, "uid:0")).conclusion is Conclusion.CANCELLED


async def test_a_completed_run_leaves_the_live_state() -> None:
    """Timers, slots, slot requests and state of a completed run are removed."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        summary = await host.start()
        host.finished(agent, host.link.offers()[0])
        await until(lambda: (row := host.log.run(summary.id)) is not None and row.status is Status.COMPLETED)
        await host.settle()
        assert host.snapshot() == {"runs": {}, "placed": {}, "waiting": 0, "timers": 0}


async def test_timers_fire_by_the_logs_clock() -> None:
    """A sleep of one hour ends after one hour of the log's clock, and not before."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        sleep = "jobs: {a: {runs-on: web, steps: [{uses: sleep, with: {duration: 1h}}]}}"
        summary = await host.start(sleep)
        await host.advance(3_599_999)
        assert summary.id in host.state.runs
        await host.advance(1)
        row = host.log.run(summary.id)
        assert row is not None
        assert row.conclusion is Conclusion.SUCCESS


async def test_a_run_with_a_broken_log_does_not_stop_recovery() -> None:
    """One run's broken log stalls it; the others are recovered."""
    async with HostHarness() as host:
        bad, good = await host.start(), await host.start()
    again = host.crashed()
    again.log._streams[run_stream(bad.id)].pop(0)
    async with again:
        assert list(again.state.runs) == [good.id]
        assert bad.id in again.state.stalled
        assert again.is_alive
        with pytest.raises(Rejected) as stalled:
            await again.driver.cancel(bad.id, "uid:0")
        assert stalled.value.status == 409
