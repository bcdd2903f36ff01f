"""Retention: which runs and output are removed (policy), and how the pruner removes them beside other work."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.access.events import ActionTaken
from waterflowd.host.retention import pruner
from waterflowd.host.retention.policy import GRACE_MS, Retention, Selection
from waterflowd.host.retention.pruner import Pruner
from waterflowd.model import ids
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import RemovalRule, RunFilter, RunSummary, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import HostHarness, ManualClock
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.old_runs import EVENTS, fill, old_run

DAY = 86_400_000
NOW = 1_800_000_000_000
FIRST_AT = NOW - 100 * DAY
REASON = Reason(code=ReasonCode.STARTED, text="started")

_numbers = itertools.count(1)


def row(
    age_days: float,
    conclusion: Conclusion | None = Conclusion.SUCCESS,
    path: str = "w.yml",
    repository: str | None = "shop",
) -> RunSummary:
    at = NOW - round(age_days * DAY)
    number = next(_numbers)
    return RunSummary(
        id=ids.run_id(at, number),
        number=number,
        name=path,
        path=path,
        repository=repository,
        trigger=Trigger(kind=TriggerKind.API),
        status=Status.RUNNING if conclusion is None else Status.COMPLETED,
        conclusion=conclusion,
        reason=REASON,
        created_at=at,
        completed_at=None if conclusion is None else at,
        seq=5,
    )


def rules(retention: Retention, *rows: RunSummary) -> list[RemovalRule | None]:
    """The rules for these rows, the newest first."""
    selection = Selection(retention, NOW)
    return [selection.rule(each) for each in rows]


GOOD, BAD = Conclusion.SUCCESS, Conclusion.FAILURE
BY_AGE, BY_COUNT, BY_FAILED_AGE = RemovalRule.RUN_AGE, RemovalRule.RUN_COUNT, RemovalRule.FAILED_RUN_AGE


def test_without_rules_everything_stays() -> None:
    """The defaults remove nothing, however old."""
    assert rules(Retention(), row(1), row(5_000), row(9_000, BAD)) == [None, None, None]


def test_the_newest_and_the_newest_good_run_of_each_workflow_stay() -> None:
    """Each workflow of each repository has its own; an open run is the newest one of its workflow."""
    retention = Retention(run_max_age_ms=10 * DAY, runs_per_workflow=1)
    rows = [
        row(20, BAD),
        row(21, GOOD),
        row(22, GOOD),
        row(30, GOOD, "x.yml"),
        row(31, GOOD, "x.yml"),
        row(32, GOOD, "x.yml", repository="other"),
        row(40, None, "y.yml"),
        row(41, GOOD, "y.yml"),
        row(42, BAD, "y.yml"),
    ]
    assert rules(retention, *rows) == [None, None, BY_AGE, None, BY_AGE, None, None, None, BY_AGE]


def test_failed_runs_are_kept_for_longer() -> None:
    """They have an age of their own, and do not push good runs out of the count; without it they are as other runs."""
    rows = [row(1, GOOD), row(15, BAD), row(15, GOOD), row(16, GOOD), row(40, BAD), row(41, GOOD)]
    with_own_age = Retention(run_max_age_ms=30 * DAY, failed_run_max_age_ms=35 * DAY, runs_per_workflow=2)
    assert rules(with_own_age, *rows) == [None, None, None, BY_COUNT, BY_FAILED_AGE, BY_AGE]
    without = Retention(run_max_age_ms=30 * DAY, runs_per_workflow=2)
    assert rules(without, *rows) == [None, None, BY_COUNT, BY_COUNT, BY_AGE, BY_AGE]


def test_nothing_goes_on_the_day_on_which_it_ended() -> None:
    """Also when there are more runs than the count; an open run stays, however old."""
    retention = Retention(runs_per_workflow=1)
    assert rules(retention, row(0.1), row(0.2), row(0.9), row(1.1), row(3, None)) == [None, None, None, BY_COUNT, None]
    assert GRACE_MS == DAY


@pytest.fixture
def host() -> HostHarness:
    return HostHarness(clock=ManualClock(NOW))


def pruner_of(host: HostHarness, retention: Retention) -> Pruner:
    return Pruner(retention, host.log, host.output_logs, host.driver, host.clock)


def numbers_left(log: MemoryLog) -> list[int]:
    return sorted(each.number for each in log.runs(RunFilter(), before=None, limit=1_000)[0])


async def test_a_round_removes_what_the_preview_shows(host: HostHarness) -> None:
    """Each transaction has an audit entry; the numbers of new runs continue."""
    fill(host.log, 50, first_at=FIRST_AT, every_ms=60_000, workflows=2)
    async with host:
        work = pruner_of(host, Retention(run_max_age_ms=DAY))
        shown = await work.preview()
        assert [(found.rule, found.path, found.runs, found.events) for found in shown] == [
            (BY_AGE, "w0.yml", 24, 24 * EVENTS),
            (BY_AGE, "w1.yml", 24, 24 * EVENTS),
        ]
        before = host.log.last_seq
        assert await work.round()
        assert host.log.last_seq > before
        entries = [record.event for record in host.log.read(ids.AUDIT)]
        assert all(isinstance(entry, ActionTaken) and entry.what == "remove-runs" for entry in entries)
        assert sum(entry.facts["runs"] for entry in entries) == sum(found.runs for found in shown) == work.progress.runs
        assert {entry.by for entry in entries} == {pruner.BY_RULES}
        assert await work.preview() == []
        assert host.log.counter("shop:w1.yml") == 25


async def test_a_run_with_many_events_is_removed_in_pieces(host: HostHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction removes more than the limit; after a restart in between the rest is removed first."""
    monkeypatch.setattr(pruner, "EVENTS_MAX", 5)
    monkeypatch.setattr(pruner, "IDLE_EVENTS_MAX", 5)
    fill(host.log, 4, first_at=FIRST_AT, every_ms=60_000, workflows=1, fails_every=100)
    async with host:
        await pruner_of(host, Retention(run_max_age_ms=DAY)).round()
    sizes = [[piece.events for piece, _ in batch.removed_runs] for batch in host.log.commits if batch.removed_runs]
    assert max(map(sum, sizes)) <= 5
    assert sum(map(sum, sizes)) == 3 * EVENTS
    first = next(index for index, batch in enumerate(host.log.commits) if batch.removed_runs)
    again = HostHarness(host.log.reopened(first + 1), ManualClock(NOW))
    assert again.log.unfinished_removals() == [(old_run(0, FIRST_AT), False)]
    async with again:
        await pruner_of(again, Retention()).round()
    assert again.log.unfinished_removals() == []
    assert numbers_left(again.log) == [2, 3, 4], "the begun run is finished even without the rule"


async def test_a_full_disk_stops_pruning_and_not_the_daemon(host: HostHarness) -> None:
    """The round fails with the error of the disk; the next one removes everything."""
    fill(host.log, 10, first_at=FIRST_AT, every_ms=60_000, workflows=1)
    async with host:
        work = pruner_of(host, Retention(run_max_age_ms=DAY))
        host.log.fail_next(Retryable("WF302", "no space", after_s=0.01))
        with pytest.raises(Retryable):
            await work.round()
        assert host.is_alive
        assert len(numbers_left(host.log)) == 10
        await work.round()
        assert len(numbers_left(host.log)) < 10


async def test_a_damaged_run_is_left_and_reported(host: HostHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others are removed."""
    fill(host.log, 10, first_at=FIRST_AT, every_ms=60_000, workflows=1, fails_every=100)
    damaged, removal = old_run(3, FIRST_AT + 3 * 60_000), host.log.removal

    def fails(run: ids.RunId, *, events_max: int, output_bytes_max: int) -> object:
        if run == damaged:
            raise Stalled("WF304", "record 43 is damaged")
        return removal(run, events_max=events_max, output_bytes_max=output_bytes_max)

    monkeypatch.setattr(host.log, "removal", fails)
    async with host:
        work = pruner_of(host, Retention(run_max_age_ms=DAY))
        await work.round()
        assert host.is_alive
    assert (numbers_left(host.log), work.progress.failed) == ([4, 10], 1)


async def test_new_work_is_not_delayed_by_a_round(host: HostHarness) -> None:
    """A start in the middle of a round is durable before the round has ended."""
    fill(host.log, 400, first_at=FIRST_AT, every_ms=60_000, workflows=1)
    async with host:
        round_of = asyncio.create_task(pruner_of(host, Retention(run_max_age_ms=DAY)).round())
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            started = await host.start()
            assert not round_of.done()
            await round_of
        assert host.log.run(started.id) is not None


async def test_a_damaged_index_ends_the_round_and_not_the_daemon(
    host: HostHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Background work that ends would stop the daemon; the next round tries again."""
    fill(host.log, 10, first_at=FIRST_AT, every_ms=60_000, workflows=1)
    monkeypatch.setattr(pruner, "FIRST_S", 0.0)
    monkeypatch.setattr(pruner, "PERIOD_S", 0.0)
    tried, runs = asyncio.Event(), host.log.runs

    def fails_once(*arguments: Any, **options: Any) -> Any:
        if not tried.is_set():
            tried.set()
            raise Stalled("WF304", 'row of the index "runs" is damaged')
        return runs(*arguments, **options)

    monkeypatch.setattr(host.log, "runs", fails_once)
    async with host:
        work = pruner_of(host, Retention(run_max_age_ms=DAY))
        task = asyncio.create_task(work.run())
        await until(lambda: work.progress.rounds > 0, PATIENCE_S)
        assert not task.done()
        task.cancel()
    assert tried.is_set()
    assert len(numbers_left(host.log)) < 10
