"""Queries: results match the log on disk, now or at any earlier event."""

from __future__ import annotations

import asyncio

import pytest

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.engine import events
from waterflowd.host import queries as queries_module
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import Record
from waterflowd.model.statuses import Status
from waterflowd.testing.host import TWO_STEPS, HostWorld, until
from waterflowd.testing.scenario import dump

UNKNOWN = RunId("01J00000000000000000000000")


async def test_a_run_is_shown_as_it_was_at_each_of_its_events() -> None:
    """Each position is the fold of that many events, and the newest one is the current run."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        summary = await world.start(TWO_STEPS)
        world.finished(agent, world.link.offers()[0])
        await until(lambda: len(world.link.offers()) == 2)
        head = world.log.head(run_stream(summary.id))
        now = dump(world.queries.run(summary.id))
        for position in range(1, head + 1):
            shown = world.queries.run(summary.id, position)
            assert shown.seq == position
        assert dump(world.queries.run(summary.id, head)) == now
        assert world.queries.run(summary.id, 1).status is Status.QUEUED
        assert dump(world.queries.run(summary.id)) == now, "looking back does not change what is now"


async def test_a_position_that_is_not_there_is_404() -> None:
    """Positions of 0, negative ones and future ones do not exist."""
    async with HostWorld() as world:
        summary = await world.start()
        head = world.log.head(run_stream(summary.id))
        for position in (0, -1, head + 1, 10**9):
            with pytest.raises(Rejected) as refused:
                world.queries.run(summary.id, position)
            assert refused.value.status == 404
        with pytest.raises(Rejected):
            world.queries.run(UNKNOWN)


async def test_a_watched_run_advances_with_the_log_and_not_before() -> None:
    """While a commit is held, the run is shown as it is on disk; afterwards with the new events."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent)
        summary = await world.start()
        before = world.queries.run(summary.id).seq
        world.log.hold()
        world.finished(agent, world.link.offers()[0])
        await until(lambda: bool(world.log._held))
        assert world.world.runs[summary.id].seq > before
        assert world.queries.run(summary.id).seq == before
        world.log.release()
        await until(lambda: world.queries.run(summary.id).is_completed)


async def test_a_watched_run_is_not_folded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only new events are read; the cache is bounded and evicts the least recently used run."""
    monkeypatch.setattr(queries_module, "CACHED_RUNS", 2)
    async with HostWorld() as world:
        runs = [(await world.start()).id for _ in range(3)]
        first = world.queries.run(runs[0])
        world.queries.run(runs[1])
        assert world.queries.run(runs[0]) is first
        world.queries.run(runs[2])
        assert world.queries.run(runs[0]) is first
        assert len(world.queries._cache) == 2


async def test_an_event_that_cannot_be_applied_is_not_applied_by_half() -> None:
    """The next query starts from scratch and gives the same error, not another state."""
    async with HostWorld() as world:
        summary = await world.start()
        world.queries.run(summary.id)
        stream = run_stream(summary.id)
        records = world.log._streams[stream]
        bad = events.JobTimedOut(at=1, job="none", reason=records[0].event.reason)  # type: ignore[arg-type]
        records.append(Record(seq=99, stream=stream, position=len(records) + 1, at=1, event=bad))
        for _ in range(2):
            with pytest.raises(Stalled, match="WF403"):
                world.queries.run(summary.id)
        records.pop()
        assert world.queries.run(summary.id).seq == len(records)


async def test_a_partial_id_finds_its_run() -> None:
    """Case is ignored; an ambiguous prefix is 409, and an unknown or invalid one is 404."""
    async with HostWorld() as world:
        first = await world.start()
        world.clock.at += 10_000_000
        second = await world.start()
        shared = _shared(first.id, second.id)
        assert world.queries.find(first.id) == first.id
        assert world.queries.find(first.id.lower()) == first.id
        assert world.queries.find(first.id[: len(shared) + 1].lower()) == first.id
        with pytest.raises(Rejected) as several:
            world.queries.find(shared)
        assert several.value.status == 409
        for text in ("", "7ZZZ", UNKNOWN, "../../etc", "ａ", first.id + "0", "\x00", "-", "é" * 5000):
            with pytest.raises(Rejected) as none:
                world.queries.find(text)
            assert none.value.status == 404
            assert len(str(none.value)) < 200


def _shared(first: str, second: str) -> str:
    length = next(index for index, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    return first[:length]


async def test_the_row_of_a_new_run_is_there_when_its_start_returns() -> None:
    """After concurrent starts, each caller that has its answer can query its run."""
    async with HostWorld() as world:
        for row in await asyncio.gather(*(world.start() for _ in range(5))):
            assert world.queries.run(row.id).number == row.number
