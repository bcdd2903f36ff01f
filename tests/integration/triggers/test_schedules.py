"""Schedules from a push to the runs that they start, with real Git, the real compiler and a settable wall clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.integration.reconcile.reconciler_harness import ON_PUSH, Daemon, Work
from tests.integration.triggers.trigger_harness import NAP, UNIONS, TriggerHarness
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.model import ids
from waterflowd.model.ids import RunId
from waterflowd.reconcile import events, schedules
from waterflowd.reconcile.events import ScheduleOutcome
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.state import ScheduleName
from waterflowd.store.codec import Codec
from waterflowd.testing.memory_log import MemoryLog

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
#: Midnight in UTC, in winter.
MIDNIGHT = 1_795_478_400_000
FILE = "workflows/s.yml"
BODY = "\njobs: {j: {runs-on: web, steps: [{run: echo hello}]}}\n"


def scheduled(rest: str = "", cron: str = "0 * * * *") -> str:
    """Returns a file that runs every hour, with additional keys of the schedule."""
    return f"name: s\non: {{schedule: [{{cron: '{cron}'{rest}}}]}}{BODY}"


def at(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1_000)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path, "ops")


@pytest.fixture
async def daemons(work: Work) -> AsyncIterator[Callable[[], Daemon]]:
    made: list[Daemon] = []

    def make(refs: tuple[str, ...] = ()) -> Daemon:
        daemon = Daemon(RepositorySettings(name="ops", url=str(work.bare), interval_ms=20_000, refs=refs))
        daemon.wall.at = MIDNIGHT
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        await daemon.stop()


async def armed(daemon: Daemon, work: Work, content: str) -> None:
    """Pushes a file with one schedule and waits until it is armed."""
    work.pushed({FILE: content})
    await daemon.sync()
    daemon.started()
    await daemon.until(lambda: len(daemon.reconciler.loop("ops").repository.state.schedules) == 1)


@pytest.fixture
async def daemon(daemons: Callable[[], Daemon]) -> Daemon:
    daemon = daemons()
    await daemon.start()
    await daemon.sync()
    return daemon


def decided(daemon: Daemon) -> list[tuple[int, ScheduleOutcome, str, int]]:
    """Returns due times in hours after midnight, with outcome, code and count."""
    return [
        ((fact.due_at - MIDNIGHT) // HOUR, fact.outcome, fact.code, fact.count)
        for fact in daemon.facts()
        if isinstance(fact, events.ScheduleDecided)
    ]


def due_times(daemon: Daemon) -> list[int]:
    """Returns the due times of the started runs, in hours after midnight."""
    keys = [start.trigger.key or "" for start in daemon.runs.started]
    return [(int(key.split(":")[2]) - MIDNIGHT) // HOUR for key in keys]


def newest_run(daemon: Daemon) -> RunId:
    key = daemon.runs.started[-1].trigger.key
    run = daemon.log.run_for_key(key or "")
    assert run is not None
    return run


async def turned(daemon: Daemon, wall_at: int, count: int) -> None:
    """Sets the clock and waits until this many due times have been decided in total."""
    daemon.turn_to(wall_at)
    await daemon.until(lambda: len(decided(daemon)) >= count)


async def test_g6_a_schedule_starts_its_run_on_time_at_the_applied_commit(work: Work, daemon: Daemon) -> None:
    """No run starts before the due time, one starts at it, and none later; `event` has the due time."""
    await armed(daemon, work, scheduled(", vars: {level: full}"))
    daemon.turn_to(MIDNIGHT + HOUR - 1)
    await daemon.sync()
    assert decided(daemon) == []
    await turned(daemon, MIDNIGHT + HOUR, 1)
    daemon.turn_to(MIDNIGHT + HOUR + 1)
    await daemon.sync()
    (start,) = daemon.runs.started
    assert decided(daemon) == [(1, ScheduleOutcome.STARTED, "on-time", 1)]
    assert start.revision == work.git("rev-parse", "HEAD")
    assert start.vars == {"level": "full"}
    assert (start.trigger.kind, start.trigger.ref) == ("schedule", "refs/heads/main")
    assert start.trigger.git["branch"] == "main"
    assert start.trigger.payload == {
        "name": "schedule", "schedule": "0 * * * *", "timezone": "UTC", "instant": "2026-11-24T01:00:00Z",
    }  # fmt: skip


async def test_the_timer_starts_a_due_run_without_other_input(work: Work, daemon: Daemon) -> None:
    """No push and no read of the repository is needed."""
    await armed(daemon, work, scheduled())
    daemon.turn_to(MIDNIGHT + HOUR - 300)
    daemon.wall.go_on()
    await daemon.until(lambda: len(decided(daemon)) == 1)
    assert decided(daemon) == [(1, ScheduleOutcome.STARTED, "on-time", 1)]


async def test_a_run_and_its_fact_are_one_transaction(work: Work, daemon: Daemon) -> None:
    """If the fact is in the log, the run is in it too."""
    await armed(daemon, work, scheduled())
    await turned(daemon, MIDNIGHT + HOUR, 1)
    (batch,) = [batch for batch in daemon.log.commits if batch.keys]
    assert [type(fact) for append in batch.appends for fact in append.events] == [events.ScheduleDecided]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", [(4, ScheduleOutcome.MISSED, "catch-up-none", 4)]),
        (
            "last",
            [(3, ScheduleOutcome.MISSED, "catch-up-last", 3), (4, ScheduleOutcome.STARTED, "caught-up", 1)],
        ),
        (
            "all",
            [
                (1, ScheduleOutcome.STARTED, "caught-up", 1),
                (2, ScheduleOutcome.QUEUED, "overlap", 1),
                (3, ScheduleOutcome.QUEUED, "overlap", 1),
                (4, ScheduleOutcome.QUEUED, "overlap", 1),
            ],
        ),
    ],
)
async def test_g6_times_missed_while_the_daemon_was_down_are_caught_up_by_policy(
    work: Work, daemon: Daemon, catch_up: str, expected: list[tuple[int, ScheduleOutcome, str, int]]
) -> None:
    """After downtime from before one to half past four, either none, the run of four o'clock, or all start."""
    await armed(daemon, work, scheduled(f", catch-up: {catch_up}"))
    await daemon.stop()
    daemon.wall.at = MIDNIGHT + 4 * HOUR + 30 * MINUTE
    await daemon.restart()
    await daemon.until(lambda: len(decided(daemon)) >= len(expected))
    await daemon.sync()
    assert decided(daemon) == expected
    # A second restart finds everything decided.
    await daemon.restart()
    await daemon.sync()
    assert decided(daemon) == expected


async def test_by_default_the_newest_missed_time_is_caught_up(work: Work, daemon: Daemon) -> None:
    """A nightly backup runs once when the daemon is back, however many nights it was down."""
    await armed(daemon, work, scheduled(cron="0 3 * * *"))
    await daemon.stop()
    daemon.wall.at = MIDNIGHT + 30 * DAY
    await daemon.restart()
    await daemon.until(lambda: len(decided(daemon)) >= 2)
    assert [outcome for _, outcome, _, _ in decided(daemon)] == [ScheduleOutcome.MISSED, ScheduleOutcome.STARTED]
    assert due_times(daemon) == [29 * 24 + 3]


async def test_catching_up_is_bounded(work: Work, daemon: Daemon) -> None:
    """After a year of minutes the newest hundred start, and a fact records that there were more."""
    await armed(daemon, work, scheduled(", catch-up: all", cron="* * * * *"))
    await daemon.stop()
    daemon.wall.at = MIDNIGHT + 365 * DAY
    await daemon.restart()
    await daemon.until(lambda: len(decided(daemon)) >= 1 + schedules.CATCH_UP_MAX)
    facts = [fact for fact in daemon.facts() if isinstance(fact, events.ScheduleDecided)]
    assert (facts[0].outcome, facts[0].code, facts[0].has_more) == (ScheduleOutcome.MISSED, "too-many", True)
    assert [fact.due_at for fact in facts[1:]] == [
        daemon.wall.at - back * MINUTE for back in reversed(range(schedules.CATCH_UP_MAX))
    ]


async def test_a_due_time_within_a_minute_of_a_restart_is_on_time(work: Work, daemon: Daemon) -> None:
    """Even without catch-up a short restart loses nothing."""
    await armed(daemon, work, scheduled(", catch-up: none"))
    await daemon.stop()
    daemon.wall.at = MIDNIGHT + HOUR + 20_000
    await daemon.restart()
    await daemon.until(lambda: bool(decided(daemon)))
    assert decided(daemon) == [(1, ScheduleOutcome.STARTED, "on-time", 1)]


@pytest.mark.parametrize(
    ("zone", "start", "expected"),
    [
        ("Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        ("Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        ("America/New_York", "2026-03-07T12:00", ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"]),
        ("Australia/Lord_Howe", "2026-10-03T12:00", ["2026-10-03T15:30:00Z", "2026-10-04T15:30:00Z"]),
    ],
)
async def test_a_nightly_run_starts_once_a_night_over_both_clock_changes(
    work: Work, daemon: Daemon, zone: str, start: str, expected: list[str]
) -> None:
    """Half past two is missing one night and occurs twice in another; the clock advances by minutes for two days."""
    daemon.wall.at = at(start, zone)
    await armed(daemon, work, scheduled(f", timezone: {zone}, overlap: queue", cron="30 2 * * *"))
    for number, instant in enumerate(expected, start=1):
        due = at(instant.removesuffix("Z"), "UTC")
        for minute in (-1, 0, 1, 60, 61):
            daemon.turn_to(due + minute * MINUTE)
            if minute >= 0:
                await daemon.until(lambda number=number: len(daemon.runs.started) >= number)  # type: ignore[misc]
            await daemon.sync()
        await daemon.runs.end(newest_run(daemon))
    assert [begun.trigger.payload["instant"] for begun in daemon.runs.started] == expected


async def test_g6_no_due_time_starts_twice_when_the_wall_clock_is_set_back(work: Work, daemon: Daemon) -> None:
    """If set back by half an hour, the schedule waits; if by hours, it starts over. No run is repeated."""
    await armed(daemon, work, scheduled())
    await turned(daemon, MIDNIGHT + HOUR, 1)
    await daemon.runs.end(newest_run(daemon))
    for back in (30 * MINUTE, 0):
        daemon.turn_to(MIDNIGHT + HOUR - back)
        await daemon.sync()
    assert due_times(daemon) == [1]
    await turned(daemon, MIDNIGHT + 9 * HOUR, 2)
    daemon.turn_to(MIDNIGHT + 30 * MINUTE)
    await daemon.until(lambda: isinstance(daemon.facts()[-1], events.ScheduleArmed))
    for hour in (1, 2):
        for run in [run for start in daemon.runs.started if (run := daemon.log.run_for_key(start.trigger.key or ""))]:
            await daemon.runs.end(run)
        await turned(daemon, MIDNIGHT + hour * HOUR, len(decided(daemon)) + 1)
    assert sorted(due_times(daemon)) == [1, 2, 9]


async def test_skip_starts_nothing_while_the_previous_run_is_open(work: Work, daemon: Daemon) -> None:
    """The due time is recorded with its reason, and the next one starts when the run has ended."""
    await armed(daemon, work, scheduled(", overlap: skip"))
    await turned(daemon, MIDNIGHT + HOUR, 1)
    await turned(daemon, MIDNIGHT + 2 * HOUR, 2)
    await daemon.runs.end(newest_run(daemon))
    await turned(daemon, MIDNIGHT + 3 * HOUR, 3)
    assert decided(daemon) == [
        (1, ScheduleOutcome.STARTED, "on-time", 1),
        (2, ScheduleOutcome.SKIPPED, "overlap", 1),
        (3, ScheduleOutcome.STARTED, "on-time", 1),
    ]


async def test_queue_starts_queued_runs_after_the_previous_run_and_across_a_restart(work: Work, daemon: Daemon) -> None:
    """The runs start in order, one at a time; the queue is in the log."""
    await armed(daemon, work, scheduled(", overlap: queue"))
    for hour in (1, 2, 3):
        await turned(daemon, MIDNIGHT + hour * HOUR, hour)
    (row,) = await daemon.admin.schedules(None)
    assert row.waiting == (MIDNIGHT + 2 * HOUR, MIDNIGHT + 3 * HOUR)
    await daemon.restart()
    for number in (2, 3):
        await daemon.runs.end(newest_run(daemon))
        await daemon.until(lambda number=number: len(daemon.runs.started) == number)  # type: ignore[misc]
    assert due_times(daemon) == [1, 2, 3]
    assert decided(daemon)[-1] == (3, ScheduleOutcome.STARTED, "waited", 1)


async def test_cancel_ends_the_open_run_and_then_starts_the_newest(work: Work, daemon: Daemon) -> None:
    """Two runs of the schedule are never open at once, and of the queued ones only the newest starts."""
    await armed(daemon, work, scheduled(", overlap: cancel"))
    await turned(daemon, MIDNIGHT + HOUR, 1)
    first = newest_run(daemon)
    await turned(daemon, MIDNIGHT + 2 * HOUR, 2)
    await daemon.until(lambda: daemon.runs.cancelled == [first])
    await turned(daemon, MIDNIGHT + 3 * HOUR, 4)
    assert due_times(daemon) == [1]
    await daemon.runs.end(first)
    await daemon.until(lambda: len(daemon.runs.started) == 2)
    assert daemon.runs.cancelled == [first]
    assert decided(daemon)[1:] == [
        (2, ScheduleOutcome.QUEUED, "overlap", 1),
        (2, ScheduleOutcome.SKIPPED, "replaced", 1),
        (3, ScheduleOutcome.QUEUED, "overlap", 1),
        (3, ScheduleOutcome.STARTED, "waited", 1),
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "file-removed"), ("jobs: [", "file-broken"), (f"name: s\non: push{BODY}", "entry-removed")],
)
async def test_the_schedule_of_a_removed_file_stops(work: Work, daemon: Daemon, content: str | None, code: str) -> None:
    """If the file is removed, broken or loses the entry, nothing starts at the next due time; the queue is dropped."""
    await armed(daemon, work, scheduled(", overlap: queue"))
    await turned(daemon, MIDNIGHT + HOUR, 1)
    await turned(daemon, MIDNIGHT + 2 * HOUR, 2)
    work.pushed({FILE: content, "x": "1"})
    await daemon.sync()
    await daemon.runs.end(newest_run(daemon))
    daemon.runs.started.clear()
    daemon.turn_to(MIDNIGHT + 3 * HOUR)
    await daemon.until(lambda: not daemon.reconciler.loop("ops").repository.state.schedules)
    await daemon.sync()
    assert [start for start in daemon.runs.started if start.trigger.kind == "schedule"] == []
    assert [fact.code for fact in daemon.facts() if isinstance(fact, events.ScheduleDropped)] == [code]
    assert await daemon.admin.schedules(None) == []


async def test_another_change_of_the_file_neither_loses_nor_repeats_a_run(work: Work, daemon: Daemon) -> None:
    """A schedule is identified by its file and its times; the next run uses the new version."""
    await armed(daemon, work, scheduled())
    await turned(daemon, MIDNIGHT + HOUR, 1)
    await daemon.runs.end(newest_run(daemon))
    commit = work.pushed({FILE: scheduled(", catch-up: none") + "env: {A: b}\n"})
    await daemon.sync()
    await turned(daemon, MIDNIGHT + 2 * HOUR, 2)
    assert due_times(daemon) == [1, 2]
    assert daemon.runs.started[-1].revision == commit
    assert sum(isinstance(fact, events.ScheduleArmed) for fact in daemon.facts()) == 1


async def test_new_schedules_do_not_catch_up_earlier_times(work: Work, daemon: Daemon) -> None:
    """Due times before the push that added them are not caught up."""
    await armed(daemon, work, scheduled())
    daemon.wall.at = MIDNIGHT + 12 * HOUR
    work.pushed({FILE: scheduled(cron="30 6 * * *")})
    await daemon.sync()
    await daemon.until(
        lambda: [name.cron for name in daemon.reconciler.loop("ops").repository.state.schedules] == ["30 6 * * *"]
    )
    (row,) = await daemon.admin.schedules("s")
    assert row.next_at == MIDNIGHT + 30 * HOUR + 30 * MINUTE
    assert due_times(daemon) in ([], [12])


async def test_only_the_default_ref_has_schedules(work: Work, daemons: Callable[[tuple[str, ...]], Daemon]) -> None:
    """Another version of the file on a branch never runs by schedule."""
    daemon = daemons(("**",))
    await daemon.start()
    await daemon.sync()
    await armed(daemon, work, scheduled())
    work.commit({FILE: scheduled(cron="30 * * * *")})
    work.push("HEAD:refs/heads/other")
    await daemon.sync()
    await turned(daemon, MIDNIGHT + HOUR, 1)
    assert [(row.cron, row.ref) for row in await daemon.admin.schedules(None)] == [("0 * * * *", "refs/heads/main")]
    assert due_times(daemon) == [1]


async def test_schedules_keep_working_while_the_repository_cannot_be_reached(
    work: Work, daemon: Daemon, tmp_path: Path
) -> None:
    """They belong to the applied commit, which is stored locally."""
    await armed(daemon, work, scheduled())
    await turned(daemon, MIDNIGHT + HOUR, 1)
    await daemon.runs.end(newest_run(daemon))
    await daemon.stop()
    work.bare.rename(tmp_path / "away")
    await daemon.restart()
    daemon.turn_to(MIDNIGHT + 2 * HOUR)
    await daemon.until(lambda: len(decided(daemon)) == 2)
    assert due_times(daemon) == [1, 2]


async def test_a_lost_plan_is_compiled_again_when_it_is_due(work: Work, daemon: Daemon) -> None:
    """The first due time is after a restart, so the log does not contain the plan from an earlier run."""
    await armed(daemon, work, scheduled())
    await daemon.stop()
    daemon.wall.at = MIDNIGHT + HOUR
    await daemon.restart()
    await daemon.until(lambda: len(decided(daemon)) == 1)
    assert due_times(daemon) == [1]


async def test_a_suspended_repository_starts_nothing_and_catches_up_when_resumed(work: Work, daemon: Daemon) -> None:
    """The catch-up policy applies to suspensions as it does to downtime."""
    await armed(daemon, work, scheduled())
    await daemon.admin.suspend("ops", "token:ada")
    daemon.turn_to(MIDNIGHT + 3 * HOUR + 30 * MINUTE)

    async def is_suspended() -> bool:
        return "suspended" in (await daemon.admin.schedules(None))[0].text

    await daemon.until(is_suspended)
    assert decided(daemon) == []
    await daemon.admin.resume("ops", "token:ada")
    await daemon.until(lambda: len(decided(daemon)) == 2)
    assert due_times(daemon) == [3]


async def test_nothing_is_decided_after_a_suspension_was_confirmed(work: Work) -> None:
    """This holds even if several schedules were due at once and the first one was being decided."""
    two = f"on: {{schedule: ['* * * * *', {{cron: '* * * * *', timezone: Europe/Berlin}}]}}\n{NAP}"
    log = MemoryLog(Codec(UNIONS))
    async with TriggerHarness(log, RepositorySettings(name="ops", url=str(work.bare))) as harness:
        work.pushed({FILE: two})
        await harness.sync()
        loop = harness.reconciler.loop("ops")
        await harness.until(lambda: len(loop.repository.state.schedules) == 2)
        log.hold()
        other = ids.repository_stream("other")
        blocking = asyncio.create_task(
            harness.driver.record(other, [events.EmptyRepositorySeen(at=harness.clock.now())])
        )
        await harness.until(lambda: len(log._held) == 1)
        harness.ahead_ms = 2 * MINUTE
        loop.repository.notify()
        await harness.until(lambda: len(harness.driver._items) == 1)
        suspending = asyncio.create_task(harness.repositories.suspend("ops", "token:ada"))
        await harness.until(lambda: len(harness.driver._items) == 2)
        log.release()
        await asyncio.gather(blocking, suspending)
        await harness.until(lambda: harness.runs() and not list(log.open_runs()))
        await harness.repositories.resume("ops", "token:ada")
        await harness.until(lambda: len(harness.runs()) >= 2)
        kinds = (events.ScheduleDecided, events.RepositorySuspended, events.RepositoryResumed)
        facts = [type(record.event) for record in log.read(loop.repository.stream)]
        seen = [kind for kind in facts if kind in kinds]
        assert seen.index(events.RepositoryResumed) == seen.index(events.RepositorySuspended) + 1


@pytest.mark.parametrize("is_committed", [False, True])
async def test_g6_a_failed_transaction_is_retried_and_starts_once(
    work: Work, daemon: Daemon, is_committed: bool
) -> None:
    """It makes no difference whether the disk was full before the transaction or the answer was lost after it."""
    await armed(daemon, work, scheduled())
    fault = Retryable("WF302", "the disk is full")
    (daemon.runs.faults_after if is_committed else daemon.runs.faults).append(fault)
    await turned(daemon, MIDNIGHT + HOUR, 1)
    await daemon.sync()
    assert decided(daemon) == [(1, ScheduleOutcome.STARTED, "on-time", 1)]
    assert due_times(daemon) == [1]


async def test_a_refused_run_is_recorded_and_not_retried(work: Work, daemon: Daemon) -> None:
    """The next due time is tried again."""
    await armed(daemon, work, scheduled())
    daemon.runs.faults.append(Rejected("WF605", "a value cannot be stored"))
    await turned(daemon, MIDNIGHT + HOUR, 1)
    await turned(daemon, MIDNIGHT + 2 * HOUR, 2)
    assert decided(daemon) == [(1, ScheduleOutcome.SKIPPED, "refused", 1), (2, ScheduleOutcome.STARTED, "on-time", 1)]


async def test_two_schedules_of_a_file_are_independent(work: Work, daemon: Daemon) -> None:
    """Each has its own due times, variables and open run."""
    on = "{schedule: [{cron: '0 * * * *', vars: {a: 1}}, {cron: '30 * * * *', vars: {a: 2}}]}"
    work.pushed({FILE: f"name: s\non: {on}{BODY}", "workflows/p.yml": ON_PUSH.format("p")})
    await daemon.sync()
    daemon.started()

    async def are_armed() -> bool:
        return len(await daemon.admin.schedules("s")) == 2

    await daemon.until(are_armed)
    await turned(daemon, MIDNIGHT + 30 * MINUTE, 1)
    await turned(daemon, MIDNIGHT + HOUR, 2)
    assert [start.vars for start in daemon.runs.started] == [{"a": 2}, {"a": 1}]
    assert await daemon.admin.schedules("nothing") == []
    (definition,) = [row for row in await daemon.admin.definitions() if row.path == FILE]
    assert definition.triggers == ("schedule",)


def test_a_trigger_key_of_long_names_fits_into_the_index() -> None:
    """Long paths are hashed, and different due times and schedules have different keys."""
    names = [
        ScheduleName(path=f"workflows/{'x' * 900}{end}.yml", cron="0 * * * *", timezone="UTC") for end in ("a", "b")
    ]
    keys = {schedules.trigger_key("ops", name, MIDNIGHT + hour) for name in names for hour in (0, 1)}
    assert len(keys) == 4
    assert all(len(key.encode()) < 480 for key in keys)
    assert ids.repository_stream("ops") == "repo/ops"
