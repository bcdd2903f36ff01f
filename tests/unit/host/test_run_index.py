"""The index of runs: the same answers as comparing every row, for any filter, while runs begin and end."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from waterflowd.engine import events
from waterflowd.host import run_index
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory
from waterflowd.model import ids
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import Batch, RunFilter, RunSummary, StreamAppend, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.store.codec import Codec
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.time_slices import TimeSlices

REASON = Reason(code=ReasonCode.STARTED, text="started")
CODEC = Codec({"run": events.RunEvent})


class Runs:
    """Runs in a log, and what a reader of it finds."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.log = MemoryLog(CODEC)
        self.feed = Feed(self.log)
        self.history = LogHistory(self.log, self.feed, TimeSlices())
        self.rows: dict[RunId, RunSummary] = {}

    def write(self, number: int) -> None:
        """A run begins, or is as it may be later."""
        chance, run = self.chance, ids.run_id(1_700_000_000_000 + number, number)
        known = self.rows.get(run)
        conclusion = chance.choice([None, *Conclusion])
        status = Status.COMPLETED if conclusion is not None else chance.choice([Status.RUNNING, Status.WAITING])
        if known is None:
            by = chance.choice(["Ada", "Bo"])
            kind, ref = chance.choice([*TriggerKind]), chance.choice([None, "refs/heads/main", "refs/tags/v1"])
            trigger = Trigger(kind=kind, by=by, principal=chance.choice([None, "ci", "Bo"]), ref=ref)
            workflow = chance.choice(["deploy", "test", "Deploy all"])
            row = RunSummary(
                id=run,
                number=number,
                name=workflow,
                path=f"workflows/{workflow}.yml",
                repository=chance.choice([None, "shop", "ops"]),
                revision=chance.choice([None, "abc123", "abd" + "0" * 37, "not hexadecimal"]),
                trigger=trigger,
                status=status,
                conclusion=conclusion,
                reason=REASON,
                created_at=number,
                seq=1,
                **self._used(),
            )
        else:
            fields = {name: getattr(known, name) for name in known.__struct_fields__}
            row = RunSummary(
                **{**fields, **self._used(), "status": status, "conclusion": conclusion, "seq": known.seq + 1}
            )
        self.rows[run] = row
        event = events.RunStarted(at=1, reason=REASON)
        append = StreamAppend(stream=run_stream(run), expected=row.seq - 1, at=1, events=[event])
        self.log.append_blocking(Batch(appends=[append], summaries=[row]))
        self.feed.published([append.stream])

    def _used(self) -> dict[str, Any]:
        """Groups and servers; None: too many to name them."""
        return {
            "groups": self.chance.choice([(), ("web",), ("web", "db"), None]),
            "servers": self.chance.choice([(), ("web-1",), ("web-2", "web-1"), ("db-1",), None]),
        }

    def any_filter(self) -> RunFilter:
        """Up to four conditions."""
        chance = self.chance
        possible: dict[str, list[Any]] = {
            "status": ["failure", "running", "completed", "lost,failure", "queued", "success,waiting"],
            "name": ["deploy", "workflows/test.yml", "none"],
            "text": ["dep", "all", "zzz"],
            "path": ["workflows/deploy.yml"],
            "repository": ["shop", "none"],
            "by": ["Ada", "Bo", "ci", "none"],
            "trigger": ["push", "api", "nonsense"],
            "ref": ["refs/heads/main", "refs/heads/none"],
            "revision": ["ab", "abc123", "abc1234", "abd00000000000000000000", "not", "é"],
            "since_at": [0, 40, 1_000],
            "until_at": [0, 40, 1_000],
            "has_failed": [True],
            "group": ["web", "db", "none"],
            "server": ["web-1", "db-1", "none"],
        }
        names = chance.sample(sorted(possible), chance.randint(0, 4))
        return RunFilter(**{name: chance.choice(possible[name]) for name in names})

    def expected(self, selected: RunFilter) -> list[RunSummary]:
        """The rows that the filter selects, newest first."""
        return [row for _, row in sorted(self.rows.items(), reverse=True) if selected.matches(row)]


async def _all(runs: Runs, selected: RunFilter, limit: int) -> list[RunSummary]:
    found: list[RunSummary] = []
    before: RunId | None = None
    while True:
        page, before = await runs.history.runs(selected, before=before, limit=limit)
        found += page
        if before is None:
            return found


@pytest.mark.parametrize("seed", range(5))
async def test_every_filter_finds_what_comparing_every_row_finds(seed: int) -> None:
    """In pages of any size and in counts, while runs begin in any order, and change."""
    runs = Runs(seed)
    for number in range(60):
        runs.write(number * 2)
    for turn in range(60):
        # Younger runs, changed ones, and runs that are recorded after younger ones.
        runs.write(runs.chance.choice([120 + turn, runs.chance.randint(0, 59) * 2, 2 * turn + 1]))
        selected = runs.any_filter()
        expected = runs.expected(selected)
        assert await _all(runs, selected, runs.chance.randint(1, 20)) == expected, selected
        counted = await runs.history.count_runs(selected)
        assert counted.counts == dict(Counter((row.conclusion or row.status).value for row in expected)), selected
        assert (counted.total, counted.has_more) == (len(expected), False)


async def test_values_beyond_the_limit_are_compared_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the index finds all of them, only more slowly."""
    monkeypatch.setattr(run_index, "DISTINCT_MAX", 1)
    runs = Runs(7)
    for number in range(60):
        runs.write(number)
    for _ in range(40):
        selected = runs.any_filter()
        assert await _all(runs, selected, 7) == runs.expected(selected), selected
        assert (await runs.history.count_runs(selected)).total == len(runs.expected(selected))


async def test_runs_beyond_the_index_are_searched_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of the index end where it does, and the next ones continue without a gap."""
    monkeypatch.setattr(run_index, "ROWS_MAX", 20)
    monkeypatch.setattr(run_index, "_ROWS", 10)
    runs = Runs(8)
    for number in range(60):
        runs.write(number)
    for _ in range(40):
        selected = runs.any_filter()
        assert await _all(runs, selected, 7) == runs.expected(selected), selected
    counted = await runs.history.count_runs(RunFilter())
    assert (counted.total, counted.has_more) == (20, True)


async def test_an_index_that_nobody_uses_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has changed since the last search is bounded; the next search makes the index again."""
    monkeypatch.setattr(run_index, "PENDING_MAX", 10)
    runs = Runs(9)
    for number in range(30):
        runs.write(number)
    assert not runs.feed._watchers, "nothing watches before somebody filters"
    selected = RunFilter(repository="shop")
    assert await _all(runs, selected, 7) == runs.expected(selected)
    assert len(runs.feed._watchers) == 1
    for number in range(30, 60):
        runs.write(number)
    assert not runs.feed._watchers
    assert await _all(runs, selected, 7) == runs.expected(selected)


async def test_a_run_that_is_recorded_long_after_younger_ones_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving many rows would take too long, so the index is made again."""
    monkeypatch.setattr(run_index, "_MOVED_MAX", 5)
    runs = Runs(10)
    for number in range(30):
        runs.write(2 * number)
    selected = RunFilter(since_at=0)
    assert await _all(runs, selected, 7) == runs.expected(selected)
    runs.write(3)
    assert await _all(runs, selected, 7) == runs.expected(selected)
