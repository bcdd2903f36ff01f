"""The contract of every event log, on LMDB or in memory (`ports.Journal`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from waterflow_agent.errors import Stalled
from waterflowd.engine import events
from waterflowd.fleet import events as fleet_events
from waterflowd.model import ids, records
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.ports import Journal
from waterflowd.store.codec import Codec
from waterflowd.store.opening import open_store
from waterflowd.testing.memory_log import MemoryLog

CODEC = Codec({"run": events.RunEvent, "fleet": fleet_events.Fact, "repo": fleet_events.Fact})
FACT = fleet_events.AgentRevoked(at=9, by="ada", agent=ids.AgentId("SHA256:x"))
REASON = Reason(code=ReasonCode.STARTED, text="started")

Reopen = Callable[[], Journal]


class LogHarness:
    """A log, and a way to open it again."""

    def __init__(self, log: Journal, reopen: Callable[[], Journal]) -> None:
        self.log = log
        self._reopen = reopen

    def reopened(self) -> Journal:
        self.log = self._reopen()
        return self.log


@pytest.fixture(params=["lmdb", "memory"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogHarness]:
    if request.param == "memory":
        logs = [MemoryLog(CODEC)]

        def again() -> Journal:
            logs.append(logs[-1].reopened())
            return logs[-1]

        yield LogHarness(logs[0], again)
        return
    stores = [open_store(tmp_path / "data", CODEC)]

    def open_again() -> Journal:
        stores[-1].close()
        stores.append(open_store(tmp_path / "data", CODEC))
        return stores[-1].log

    yield LogHarness(stores[0].log, open_again)
    stores[-1].close()


def run(number: int) -> ids.RunId:
    return ids.run_id(1_700_000_000_000 + number, number)


def started(at: int) -> events.RunStarted:
    return events.RunStarted(at=at, reason=REASON)


def appends(stream: ids.StreamName, expected: int, count: int, at: int = 1) -> records.StreamAppend:
    return records.StreamAppend(
        stream=stream, expected=expected, at=at, events=[started(at + number) for number in range(count)]
    )


def batch(number: int, expected: int, count: int, at: int = 1) -> records.Batch:
    return records.Batch(appends=[appends(ids.run_stream(run(number)), expected, count, at)])


def summary(number: int, status: Status = Status.RUNNING, name: str = "deploy") -> records.RunSummary:
    return records.RunSummary(
        id=run(number),
        number=number,
        name=name,
        path=".waterflow/deploy.yaml",
        trigger=records.Trigger(kind=records.TriggerKind.API, by="ada", payload={"answer": [1, 2.5, None, "x"]}),
        status=status,
        conclusion=Conclusion.SUCCESS if status is Status.COMPLETED else None,
        reason=REASON,
        created_at=number,
        seq=1,
    )


async def refused(log: Journal, wrong: records.Batch) -> Stalled:
    with pytest.raises(Stalled) as caught:
        await log.append(wrong)
    return caught.value


async def test_a_new_log_is_empty(harness: LogHarness) -> None:
    """Reading from it is not an error."""
    log = harness.log
    assert (log.last_seq, log.last_at, log.head(ids.FLEET), log.generation) == (0, 0, 0, 1)
    assert [log.read(ids.FLEET), log.feed(0, 10), [*log.open_runs()], log.runs_by_prefix("", 10)] == [[], [], [], []]
    assert [log.run(run(1)), log.plan("x"), log.run_for_key("k")] == [None, None, None]
    assert log.counter("c") == 0
    assert log.runs(records.RunFilter(), before=None, limit=10) == ([], None)


async def test_events_are_read_as_they_were_written(harness: LogHarness) -> None:
    """A record has its event, its global sequence, its position in the stream, and its time."""
    stream = ids.run_stream(run(1))
    assert await harness.log.append(batch(1, 0, 2, at=50)) == 2
    assert harness.log.read(stream) == [
        records.Record(seq=1, stream=stream, position=1, at=50, event=started(50)),
        records.Record(seq=2, stream=stream, position=2, at=50, event=started(51)),
    ]


async def test_each_stream_has_its_own_positions_in_one_global_sequence(harness: LogHarness) -> None:
    """Each stream counts from 1 without gaps, and so does the log as a whole."""
    log = harness.log
    fact = fleet_events.AgentRevoked(at=9, by="ada", agent=ids.AgentId("SHA256:x"))
    await log.append(batch(1, 0, 2))
    await log.append(records.Batch(appends=[records.StreamAppend(stream=ids.FLEET, expected=0, at=9, events=[fact])]))
    await log.append(
        records.Batch(
            appends=[
                appends(ids.run_stream(run(1)), 2, 1),
                records.StreamAppend(stream=ids.repository_stream("shop/web"), expected=0, at=9, events=[fact]),
            ]
        )
    )
    assert [(record.stream[:4], record.position) for record in log.feed(0, 100)] == [
        ("run/", 1),
        ("run/", 2),
        ("flee", 1),
        ("run/", 3),
        ("repo", 1),
    ]
    assert [record.seq for record in log.feed(0, 100)] == [1, 2, 3, 4, 5]
    assert [log.head(name) for name in (ids.run_stream(run(1)), ids.FLEET, ids.run_stream(run(2)))] == [3, 1, 0]
    assert log.read(ids.repository_stream("shop/web"))[0].event == fact


@pytest.mark.parametrize(
    ("first", "limit"), [(1, None), (0, 3), (2, 1), (700, 10), (1, 256), (255, 3), (513, None), (1000, 5), (5, 0)]
)
async def test_any_part_of_a_stream_can_be_read(harness: LogHarness, first: int, limit: int | None) -> None:
    """`first` and `limit` select the same part that reading the whole stream would show."""
    for expected in range(0, 800, 100):
        await harness.log.append(batch(1, expected, 100))
        await harness.log.append(batch(2, expected, 100))
    stream = ids.run_stream(run(1))
    whole = harness.log.read(stream)
    assert [record.position for record in whole] == list(range(1, 801))
    start = max(first, 1) - 1
    assert harness.log.read(stream, first, limit) == whole[start : None if limit is None else start + limit]


async def test_the_feed_continues_after_any_sequence(harness: LogHarness) -> None:
    """Pages of the feed join without a gap or a repetition."""
    for number in range(5):
        await harness.log.append(batch(number, 0, 3))
    found: list[int] = []
    while page := harness.log.feed(found[-1] if found else 0, 4):
        found += [record.seq for record in page]
    assert found == list(range(1, 16))
    assert harness.log.feed(15, 4) == []


async def test_a_batch_at_the_wrong_position_is_refused_completely(harness: LogHarness) -> None:
    """The error is `Stalled` WF301, and nothing of the batch is stored: neither its valid streams nor its rows."""
    await harness.log.append(batch(1, 0, 2))
    wrong = records.Batch(
        appends=[appends(ids.run_stream(run(2)), 0, 1), appends(ids.run_stream(run(1)), 1, 1)],
        summaries=[summary(2)],
        plans={"hash": b"plan"},
        keys={"key": run(2)},
        counters={"counter": 5},
    )
    error = await refused(harness.log, wrong)
    assert error.code == "WF301"
    assert harness.log.last_seq == 2
    assert harness.log.head(ids.run_stream(run(2))) == 0
    assert [harness.log.run(run(2)), harness.log.plan("hash"), harness.log.run_for_key("key")] == [None, None, None]
    assert (list(harness.log.open_runs()), harness.log.counter("counter")) == ([], 0)
    assert await harness.log.append(batch(1, 2, 1)) == 3


async def test_a_concurrent_batch_fails_without_the_others(harness: LogHarness) -> None:
    """Among concurrent batches, those with a wrong position fail; the others are durable in the order of the calls."""
    calls = [
        harness.log.append(batch(1, 0, 2)),
        harness.log.append(batch(1, 0, 1)),
        harness.log.append(batch(1, 2, 1)),
        harness.log.append(batch(2, 7, 1)),
        harness.log.append(batch(2, 0, 1)),
    ]
    results = await asyncio.gather(*(_outcome(call) for call in calls))
    assert results == [2, "WF301", 3, "WF301", 4]
    assert [record.position for record in harness.log.feed(0, 10)] == [1, 2, 3, 1]


async def _outcome(call: Any) -> int | str:
    try:
        return int(await call)
    except Stalled as error:
        return error.code


async def test_one_batch_may_add_to_a_stream_twice(harness: LogHarness) -> None:
    """The second part follows the first, and its expected position accounts for it."""
    stream = ids.run_stream(run(1))
    await harness.log.append(records.Batch(appends=[appends(stream, 0, 2), appends(stream, 2, 1)]))
    assert [record.position for record in harness.log.read(stream)] == [1, 2, 3]
    wrong = records.Batch(appends=[appends(stream, 3, 1), appends(stream, 3, 1)])
    assert (await refused(harness.log, wrong)).code == "WF301"
    assert harness.log.head(stream) == 3


async def test_an_empty_batch_changes_nothing(harness: LogHarness) -> None:
    """It changes nothing and returns the last sequence."""
    await harness.log.append(batch(1, 0, 2))
    assert await harness.log.append(records.Batch()) == 2
    empty = records.Batch(appends=[records.StreamAppend(stream=ids.FLEET, expected=0, at=5, events=[])])
    assert await harness.log.append(empty) == 2
    assert (harness.log.head(ids.FLEET), harness.log.last_at) == (0, 1)


async def test_open_runs_follow_from_the_rows(harness: LogHarness) -> None:
    """A run is open from its first row to the row with status completed; the oldest comes first."""
    await harness.log.append(
        records.Batch(summaries=[summary(3), summary(1, Status.QUEUED), summary(2, Status.WAITING)])
    )
    assert list(harness.log.open_runs()) == [run(1), run(2), run(3)]
    await harness.log.append(records.Batch(summaries=[summary(2, Status.COMPLETED), summary(4, Status.COMPLETED)]))
    assert list(harness.log.open_runs()) == [run(1), run(3)]
    assert harness.log.run(run(2)) == summary(2, Status.COMPLETED)


async def test_rows_are_paged_newest_first(harness: LogHarness) -> None:
    """Pages join without a gap or a repetition, with and without a filter, and the last page is marked."""
    await harness.log.append(
        records.Batch(summaries=[summary(number, name=f"w{number % 3}") for number in range(1, 11)])
    )
    first, cursor = harness.log.runs(records.RunFilter(), before=None, limit=4)
    assert ([row.number for row in first], cursor) == ([10, 9, 8, 7], run(7))
    rest, cursor = harness.log.runs(records.RunFilter(), before=cursor, limit=6)
    assert ([row.number for row in rest], cursor) == ([6, 5, 4, 3, 2, 1], None)
    some, cursor = harness.log.runs(records.RunFilter(name="w0"), before=run(10), limit=2)
    assert ([row.number for row in some], cursor) == ([9, 6], run(6))
    assert harness.log.runs(records.RunFilter(), before=run(1), limit=5) == ([], None)


async def test_run_ids_are_found_by_prefix(harness: LogHarness) -> None:
    """Case is ignored, the oldest run comes first, and an invalid prefix finds nothing."""
    await harness.log.append(records.Batch(summaries=[summary(number) for number in (1, 2, 40)]))
    assert harness.log.runs_by_prefix(run(1)[:8].lower(), 10) == [run(1), run(2), run(40)]
    assert harness.log.runs_by_prefix("", 2) == [run(1), run(2)]
    assert harness.log.runs_by_prefix(run(40), 10) == [run(40)]
    assert (
        harness.log.runs_by_prefix("zz", 10)
        == harness.log.runs_by_prefix("!", 10)
        == harness.log.runs_by_prefix("0" * 30, 9)
        == []
    )


async def test_a_plan_is_kept_once(harness: LogHarness) -> None:
    """Plans are stored by the hash of their content: an existing one is kept."""
    await harness.log.append(records.Batch(plans={"a" * 64: b"plan"}))
    await harness.log.append(records.Batch(plans={"a" * 64: b"other", "b" * 64: b""}))
    assert (harness.log.plan("a" * 64), harness.log.plan("b" * 64)) == (b"plan", b"")


async def test_a_trigger_key_belongs_to_one_run(harness: LogHarness) -> None:
    """A second run for a key is rejected with its whole batch; the same run again is accepted."""
    long_key = "shop/" + "x" * 3_000
    await harness.log.append(records.Batch(keys={"key": run(1), long_key: run(2)}))
    await harness.log.append(records.Batch(keys={"key": run(1)}))
    assert (await refused(harness.log, records.Batch(keys={"key": run(3)}, counters={"c": 1}))).code == "WF301"
    assert (harness.log.run_for_key("key"), harness.log.run_for_key(long_key)) == (run(1), run(2))
    assert harness.log.counter("c") == 0


async def test_counters_take_the_newest_value(harness: LogHarness) -> None:
    """The last value written to a counter is its value."""
    await harness.log.append(records.Batch(counters={"shop deploy.yaml": 1, "other": 7}))
    await harness.log.append(records.Batch(counters={"shop deploy.yaml": 2}))
    assert (harness.log.counter("shop deploy.yaml"), harness.log.counter("other")) == (2, 7)


async def test_everything_is_readable_after_reopening(harness: LogHarness) -> None:
    """The log has the next generation, and appending continues at the end."""
    await harness.log.append(batch(1, 0, 3, at=77))
    await harness.log.append(
        records.Batch(summaries=[summary(1)], plans={"hash": b"plan"}, keys={"key": run(1)}, counters={"c": 3})
    )
    before = harness.log.feed(0, 10)
    log = harness.reopened()
    assert (log.generation, log.last_seq, log.last_at) == (2, 3, 77)
    assert (log.feed(0, 10), list(log.open_runs()), log.run(run(1))) == (before, [run(1)], summary(1))
    assert (log.plan("hash"), log.run_for_key("key"), log.counter("c")) == (b"plan", run(1), 3)
    assert await log.append(batch(1, 3, 1, at=78)) == 4
    assert harness.reopened().generation == 3
    assert [record.position for record in harness.log.read(ids.run_stream(run(1)))] == [1, 2, 3, 4]


# Removed runs --------------------------------------------------------------------------------------------------------


def memory(number: int, key: str | None = None) -> records.RemovedRun:
    return records.RemovedRun(
        id=run(number),
        at=99,
        rule=records.RemovalRule.RUN_AGE,
        number=number,
        name="deploy",
        path=".waterflow/deploy.yaml",
        trigger_key=key,
    )


async def completed_run(log: Journal, number: int, count: int, *, key: str | None = None, plan: str = "p") -> None:
    created = events.RunCreated(
        at=number,
        plan_hash=plan,
        number=number,
        trigger=records.Trigger(kind=records.TriggerKind.API, by="ada", key=key),
        deadline_at=9_000,
        reason=REASON,
    )
    rest = [started(number + position) for position in range(1, count)]
    append = records.StreamAppend(stream=ids.run_stream(run(number)), expected=0, at=number, events=[created, *rest])
    row = summary(number, Status.COMPLETED)
    keys = {} if key is None else {key: run(number)}
    await log.append(
        records.Batch(appends=[append], summaries=[row], keys=keys, plans={plan: plan.encode() * 9}, plan_uses=[plan])
    )


async def remove(log: Journal, number: int, *, events_max: int = 1_000, key: str | None = None) -> records.Removal:
    """Removes one piece of a run, with an event of another stream."""
    removal = log.removal(run(number), events_max=events_max, output_bytes_max=1_000)
    fleet = records.StreamAppend(stream=ids.FLEET, expected=log.head(ids.FLEET), at=1_000, events=[FACT])
    await log.append(records.Batch(appends=[fleet], removed_runs=[(removal, memory(number, key))]))
    return removal


async def test_a_removed_run_is_gone_and_the_others_stay(harness: LogHarness) -> None:
    """Its events, row, trigger key and unused plan are gone; sequences continue, and it is remembered, also after a restart."""
    log = harness.log
    for number in (1, 2, 3):
        await completed_run(log, number, 300, key=f"k{number}", plan=f"p{number % 2}")
    removal = await remove(log, 2, key="k2")
    assert (removal.events, removal.is_whole) == (300, True)
    for is_reopened in (False, True):
        found = harness.reopened() if is_reopened else harness.log
        assert found.last_seq == 901
        assert [record.seq for record in found.feed(0, 2_000)] == [*range(1, 301), *range(601, 902)]
        assert [record.seq for record in found.feed(450, 2)] == [601, 602]
        assert (found.run(run(2)), found.run_for_key("k2"), found.head(ids.run_stream(run(2)))) == (None, None, 0)
        assert found.read(ids.run_stream(run(2))) == []
        assert [found.plan("p0"), found.plan("p1")] == [None, b"p1" * 9]
        assert [row.id for row in found.runs(records.RunFilter(), before=None, limit=9)[0]] == [run(3), run(1)]
        assert found.removed_run(run(2)) == memory(2, "k2")
        assert (found.removed_run(run(1)), found.unfinished_removals()) == (None, [])
        assert found.removed_runs(None, 5) == [memory(2, "k2")]
        assert found.removed_runs(run(2), 5) == []
    assert len(harness.log.read(ids.run_stream(run(3)))) == 300


async def test_a_run_that_is_removed_in_pieces_is_hidden_from_the_first_one(harness: LogHarness) -> None:
    """Nobody sees a part of a run; after a restart the rest is removed."""
    await completed_run(harness.log, 1, 300)
    await completed_run(harness.log, 2, 300)
    assert not (await remove(harness.log, 1, events_max=256)).is_whole
    for is_reopened in (False, True):
        found = harness.reopened() if is_reopened else harness.log
        assert (found.run(run(1)), found.read(ids.run_stream(run(1)))) == (None, [])
        assert [record.seq for record in found.feed(0, 1_000)] == [*range(301, 602)]
        assert found.unfinished_removals() == [(run(1), False)]
    rest = await remove(harness.log, 1, events_max=256)
    assert (rest.events, rest.is_whole) == (44, True)
    for is_reopened in (False, True):
        found = harness.reopened() if is_reopened else harness.log
        assert found.unfinished_removals() == []
        assert [record.seq for record in found.feed(0, 1_000)] == [*range(301, 603)]


async def test_only_completed_and_unchanged_runs_are_removed(harness: LogHarness) -> None:
    """A refused removal changes nothing, and a removal is never the newest thing in the log."""
    log = harness.log
    await log.append(records.Batch(appends=batch(1, 0, 2).appends, summaries=[summary(1)]))
    with pytest.raises(Stalled, match="is open"):
        await remove(log, 1)
    await completed_run(log, 2, 3)
    removal = log.removal(run(2), events_max=10, output_bytes_max=10)
    await log.append(batch(2, 3, 1))
    fleet = records.StreamAppend(stream=ids.FLEET, expected=0, at=1, events=[FACT])
    with pytest.raises(Stalled, match="new events"):
        await log.append(records.Batch(appends=[fleet], removed_runs=[(removal, memory(2))]))
    with pytest.raises(ValueError, match="same transaction"):
        await log.append(records.Batch(removed_runs=[(removal, memory(2))]))
    assert (log.head(ids.FLEET), log.head(ids.run_stream(run(2)))) == (0, 4)


async def test_a_plan_stays_while_a_run_has_it(harness: LogHarness) -> None:
    """It goes with the last one."""
    for number in (1, 2):
        await completed_run(harness.log, number, 2)
    await remove(harness.log, 1)
    assert harness.log.plan("p") is not None
    await remove(harness.log, 2)
    assert harness.log.plan("p") is None
