"""The contract of every history (`ports.History`): the log engine's, on LMDB and in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from waterflowd.engine import events
from waterflowd.fleet import events as fleet_events
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory
from waterflowd.model import ids
from waterflowd.model.ids import RunId, StreamName, run_stream
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import Batch, Record, RunFilter, RunSummary, StreamAppend, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.ports import History
from waterflowd.store.codec import Codec
from waterflowd.store.opening import open_store
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.time_slices import TimeSlices

CODEC = Codec({"run": events.RunEvent, "fleet": fleet_events.Fact})
REASON = Reason(code=ReasonCode.STARTED, text="started")


class Written:
    """A history, and a way to write what it shows."""

    def __init__(self, history: History, write: Callable[[Batch], object]) -> None:
        self.history = history
        self.write = write

    def events(self, stream: StreamName, expected: int, count: int) -> None:
        """Appends this many events to a stream that ends at `expected`."""
        facts = [events.RunStarted(at=expected + number, reason=REASON) for number in range(count)]
        self.write(Batch(appends=[StreamAppend(stream=stream, expected=expected, at=1, events=facts)]))


@pytest.fixture(params=["lmdb", "memory"])
async def written(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Written]:
    if request.param == "memory":
        memory = MemoryLog(CODEC)
        feed = Feed(memory)
        yield Written(
            LogHistory(memory, feed, TimeSlices()), lambda batch: _publish(feed, batch, memory.append_blocking)
        )
        return
    store = open_store(tmp_path / "data", CODEC)
    stored = Feed(store.log)
    yield Written(
        LogHistory(store.log, stored, TimeSlices()), lambda batch: _publish(stored, batch, store.log.append_blocking)
    )
    store.close()


def _publish(feed: Feed, batch: Batch, append: Callable[[Batch], int]) -> None:
    append(batch)
    feed.published(item.stream for item in batch.appends)


def run(number: int) -> RunId:
    return ids.run_id(1_700_000_000_000 + number, number)


OTHER = run_stream(run(2))


def row(number: int, conclusion: Conclusion | None = None, **changes: object) -> RunSummary:
    fields: dict[str, object] = {
        "id": run(number),
        "number": number,
        "name": "deploy",
        "path": "workflows/deploy.yml",
        "repository": "shop",
        "revision": "abc123",
        "trigger": Trigger(kind=TriggerKind.PUSH),
        "status": Status.RUNNING if conclusion is None else Status.COMPLETED,
        "conclusion": conclusion,
        "reason": REASON,
        "created_at": number,
        "seq": 1,
    }
    return RunSummary(**{**fields, **changes})  # type: ignore[arg-type]


async def listed(history: History, selected: RunFilter) -> list[int]:
    return [found.number for found in (await history.runs(selected, limit=100))[0]]


async def test_a_stream_is_read_by_position(written: Written) -> None:
    """Positions begin at 1; an unknown stream is empty."""
    written.events(OTHER, 0, 5)
    history = written.history
    assert [record.position for record in await history.read(OTHER)] == [1, 2, 3, 4, 5]
    assert [record.position for record in await history.read(OTHER, 2, 2)] == [2, 3]
    assert (await history.head(OTHER), await history.head(run_stream(run(1)))) == (5, 0)
    assert await history.read(run_stream(run(1))) == []


async def test_a_follower_sees_old_and_new_records_without_a_gap(written: Written) -> None:
    """It begins after its position and then waits for what becomes durable, of its stream alone."""
    stream = run_stream(run(1))
    written.events(stream, 0, 3)
    following = asyncio.create_task(_take(written.history.follow(stream, 1), 4))
    await asyncio.sleep(0)
    written.events(OTHER, 0, 3)
    written.events(stream, 3, 2)
    assert await asyncio.wait_for(following, PATIENCE_S) == [2, 3, 4, 5]


async def _take(source: AsyncIterator[Record], count: int) -> Sequence[int]:
    found: list[int] = []
    async for record in source:
        found.append(record.position)
        if len(found) == count:
            break
    return found


async def test_an_event_of_the_run_wakes_those_that_wait_for_output(written: Written) -> None:
    """The end of an attempt says how much output there is."""
    grown = asyncio.ensure_future(written.history.output_grew(run(1)))
    await asyncio.sleep(0)
    written.events(run_stream(run(1)), 0, 1)
    await asyncio.wait_for(grown, PATIENCE_S)


@pytest.mark.parametrize(
    ("selected", "numbers"),
    [
        (RunFilter(), [5, 4, 3, 2, 1]),
        (RunFilter(status="running"), [5]),
        (RunFilter(status="completed"), [4, 3, 2, 1]),
        (RunFilter(status="lost"), [2]),
        (RunFilter(has_failed=True), [3, 2]),
        (RunFilter(name="deploy"), [5, 3, 2, 1]),
        (RunFilter(name="workflows/deploy.yml"), [5, 4, 3, 2, 1]),
        (RunFilter(path="workflows/deploy.yml", repository="other"), [3]),
        (RunFilter(repository="shop", name="test"), [4]),
        (RunFilter(trigger="api"), [1]),
        (RunFilter(revision="abc"), [5, 4, 3, 2]),
        (RunFilter(status="lost,running"), [5, 2]),
        (RunFilter(status="completed,running"), [5, 4, 3, 2, 1]),
        (RunFilter(text="eplo"), [5, 4, 3, 2, 1]),
        (RunFilter(text="tes"), [4]),
        (RunFilter(by="ada"), [4]),
        (RunFilter(by="Ada"), []),
        (RunFilter(since_at=2, until_at=3), [3, 2]),
        (RunFilter(since_at=4), [5, 4]),
        (RunFilter(since_at=4, status="success"), [4]),
        (RunFilter(group="web"), [5, 4, 3]),
        (RunFilter(group="db", server="db-1"), [4, 3]),
        (RunFilter(server="web-1"), [5, 3]),
        (RunFilter(server="none"), [3]),
    ],
)
async def test_runs_are_selected_by_their_rows(written: Written, selected: RunFilter, numbers: list[int]) -> None:
    """A filter is data, which every engine understands in the same way."""
    rows = [
        row(1, Conclusion.SUCCESS, trigger=Trigger(kind=TriggerKind.API), revision=None),
        row(2, Conclusion.LOST),
        # With more groups and servers than a row names.
        row(3, Conclusion.FAILURE, repository="other", groups=None, servers=None),
        row(
            4,
            Conclusion.SUCCESS,
            name="test",
            groups=("web", "db"),
            servers=("db-1",),
            trigger=Trigger(kind=TriggerKind.MANUAL, by="Ada", principal="ada"),
        ),
        row(5, groups=("web",), servers=("web-2", "web-1")),
    ]
    written.write(Batch(summaries=rows))
    assert await listed(written.history, selected) == numbers
    counted = await written.history.count_runs(selected)
    expected = Counter((row.conclusion or row.status).value for row in rows if row.number in numbers)
    assert (counted.counts, counted.total, counted.has_more) == (dict(expected), len(numbers), False)


async def test_a_page_continues_where_the_last_one_ended(written: Written) -> None:
    """There is no page beyond the time that the filter begins at."""
    written.write(Batch(summaries=[row(number, Conclusion.SUCCESS) for number in range(1, 8)]))
    history, recent = written.history, RunFilter(since_at=4)
    page, following = await history.runs(RunFilter(), limit=4)
    rest, end = await history.runs(RunFilter(), before=following, limit=4)
    assert [found.number for found in (*page, *rest)] == [7, 6, 5, 4, 3, 2, 1]
    assert end is None
    page, following = await history.runs(recent, limit=3)
    rest, end = await history.runs(recent, before=following, limit=3)
    assert ([found.number for found in page], [found.number for found in rest], end) == ([7, 6, 5], [4], None)


async def test_runs_are_found_by_id_key_and_state(written: Written) -> None:
    """Open runs come first to last; an unknown one is None, not an error."""
    rows = [row(1), row(2, Conclusion.SUCCESS), row(3)]
    written.write(Batch(summaries=rows, keys={"push/1": run(2)}, plans={"h": b"plan"}))
    history = written.history
    assert [found.number for found in await history.open_runs(10)] == [1, 3]
    assert [found.number for found in await history.open_runs(1)] == [1]
    assert (await history.run(run(2)), await history.run(run(9))) == (rows[1], None)
    assert (await history.run_for_key("push/1", None), await history.run_for_key("push/2", None)) == (run(2), None)
    assert (await history.plan("h"), await history.plan("x")) == (b"plan", None)
    assert await history.runs_by_prefix(run(1)[:9].lower(), 2) == [run(1), run(2)]
