"""Queries: a run is shown as it is on disk, now or after any earlier event."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from waterflow_agent.errors import Rejected, Stalled
from waterflowd import time_slices
from waterflowd.engine import Run, events, evolve
from waterflowd.host import queries as queries_module
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import Record
from waterflowd.model.statuses import Status
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import TWO_STEPS, HostHarness
from waterflowd.testing.scenario import dump
from waterflowd.time_slices import finish

UNKNOWN = RunId("01J00000000000000000000000")


async def test_a_run_can_be_read_as_of_each_event() -> None:
    """Each state is the fold of that many events, and the last one is the current run."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        summary = await host.start(TWO_STEPS)
        host.finished(agent, host.link.offers()[0])
        await until(lambda: len(host.link.offers()) == 2)
        head = host.log.head(run_stream(summary.id))
        now = dump(host.queries.run(summary.id))
        for position in range(1, head + 1):
            displayed = finish(host.queries.read(summary.id, position))
            assert displayed.seq == position
        assert dump(finish(host.queries.read(summary.id, head))) == now
        assert finish(host.queries.read(summary.id, 1)).status is Status.QUEUED
        assert dump(host.queries.run(summary.id)) == now, "looking back does not change what is now"


async def test_a_position_that_does_not_exist_is_404() -> None:
    """Position 0, negative positions and future ones do not exist."""
    async with HostHarness() as host:
        summary = await host.start()
        head = host.log.head(run_stream(summary.id))
        for position in (0, -1, head + 1, 10**9):
            with pytest.raises(Rejected) as refused:
                finish(host.queries.read(summary.id, position))
            assert refused.value.status == 404
        with pytest.raises(Rejected):
            host.queries.run(UNKNOWN)


async def test_a_watched_run_advances_with_the_log_and_not_before() -> None:
    """While a commit is held, the run is shown as it is on disk; afterwards with the new events."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        summary = await host.start()
        before = host.queries.run(summary.id).seq
        host.log.hold()
        host.finished(agent, host.link.offers()[0])
        await until(lambda: bool(host.log._held))
        assert host.state.runs[summary.id].seq > before
        assert host.queries.run(summary.id).seq == before
        host.log.release()
        await until(lambda: host.queries.run(summary.id).is_completed)


async def test_a_cached_run_folds_only_new_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is bounded and drops the least recently used run."""
    monkeypatch.setattr(queries_module, "CACHED_RUNS", 2)
    async with HostHarness() as host:
        runs = [(await host.start()).id for _ in range(3)]
        first = host.queries.run(runs[0])
        host.queries.run(runs[1])
        assert host.queries.run(runs[0]) is first
        host.queries.run(runs[2])
        assert host.queries.run(runs[0]) is first
        assert len(host.queries._cache) == 2


async def test_the_cache_is_bounded_by_events_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few large runs fill it; the one that was read last is kept although it is too large alone."""
    async with HostHarness() as host:
        runs = [(await host.start()).id for _ in range(3)]
        events_of_one = host.queries.run(runs[0]).seq
        monkeypatch.setattr(queries_module, "CACHED_EVENTS", 2 * events_of_one)
        for run in runs:
            host.queries.run(run)
        assert list(host.queries._cache) == runs[1:]

        monkeypatch.setattr(queries_module, "CACHED_EVENTS", events_of_one - 1)
        host.queries.run(runs[0])
        assert list(host.queries._cache) == runs[:1]


async def test_runs_of_one_plan_share_it() -> None:
    """A workflow that runs often is in memory once."""
    async with HostHarness() as host:
        first, second = host.queries.run((await host.start()).id), host.queries.run((await host.start()).id)
        assert first.plan is second.plan
        other = host.queries.run((await host.start(TWO_STEPS)).id)
        assert other.plan is not first.plan


async def test_an_event_that_fails_is_not_applied_in_part() -> None:
    """The next read starts over: it raises the same error and does not show another state."""
    async with HostHarness() as host:
        summary = await host.start()
        host.queries.run(summary.id)
        stream = run_stream(summary.id)
        records = host.log._streams[stream]
        bad = events.JobTimedOut(at=1, job="none", reason=records[0].event.reason)  # type: ignore[arg-type]
        records.append(Record(seq=99, stream=stream, position=len(records) + 1, at=1, event=bad))
        for _ in range(2):
            with pytest.raises(Stalled, match="WF403"):
                host.queries.run(summary.id)
        records.pop()
        assert host.queries.run(summary.id).seq == len(records)


async def test_a_run_can_be_read_when_its_start_returns() -> None:
    """This holds for concurrent starts too."""
    async with HostHarness() as host:
        for row in await asyncio.gather(*(host.start() for _ in range(5))):
            assert host.queries.run(row.id).number == row.number


async def test_readers_of_one_run_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readers that are interrupted between events apply each event once, and end with the same run."""
    monkeypatch.setattr(queries_module, "_EVENTS", 2)
    applied: list[int] = []

    def counted(run: Run, event: events.RunEvent) -> Run:
        applied.append(run.seq)
        return evolve(run, event)

    monkeypatch.setattr(queries_module, "evolve", counted)
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        summary = await host.start(TWO_STEPS)
        host.finished(agent, host.link.offers()[0])
        await until(lambda: len(host.link.offers()) == 2)
        head = host.log.head(run_stream(summary.id))
        first, second = host.queries.read(summary.id), host.queries.read(summary.id)
        for _ in range(2):
            next(first)
            next(second)
        runs = [finish(first), finish(second)]
        assert runs[0] is runs[1]
        assert runs[0].seq == head
        assert applied == list(range(head))


async def test_a_long_run_is_read_in_time_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop continues between any two time slices, also for a state of the past."""
    monkeypatch.setattr(time_slices, "SLICE_S", 0.0)
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        steps = ", ".join(["{run: work}"] * 100)
        summary = await host.start(f"jobs: {{a: {{runs-on: web, steps: [{steps}]}}}}")
        for _ in range(100):
            await host.settle()
            host.finished(agent, host.link.offers()[-1])
        await until(lambda: host.log.run(summary.id).completed_at is not None)  # type: ignore[union-attr]
        head = host.log.head(run_stream(summary.id))
        assert head >= 300
        shared = time_slices.TimeSlices()
        for at in (None, head - 1):
            other = asyncio.create_task(_count_iterations())
            read = await shared.do(host.queries.read(summary.id, at))
            other.cancel()
            assert read.seq == (at or head)
            assert await other >= head // 64 - 1


async def _count_iterations() -> int:
    """Returns how often the loop passes here until the task is cancelled."""
    count = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0)
            count += 1
    return count
