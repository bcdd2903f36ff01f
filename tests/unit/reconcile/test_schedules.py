"""Decisions about schedules, one by one and without a log."""

from __future__ import annotations

import pytest

from waterflowd.model.plan import CatchUp, Overlap, ScheduleTrigger, Triggers
from waterflowd.reconcile import events, schedules
from waterflowd.reconcile.events import FileApplied, ScheduleDecided, ScheduleOutcome
from waterflowd.reconcile.state import FileState, RefState, ScheduleName, ScheduleState

HOUR = 3_600_000
#: A full hour.
T0 = 1_795_478_400_000
NAME = ScheduleName(path="workflows/s.yml", cron="0 * * * *", timezone="UTC")
MAIN = "refs/heads/main"


def held(handled_at: int = T0, queued: tuple[int, ...] = (), ref: str = MAIN) -> ScheduleState:
    return ScheduleState(name=NAME, ref=ref, handled_at=handled_at, queued=queued)


def trigger(overlap: Overlap = Overlap.SKIP, catch_up: CatchUp = CatchUp.LAST) -> ScheduleTrigger:
    return ScheduleTrigger(cron=NAME.cron, overlap=overlap, catch_up=catch_up)


def displayed(decision: schedules.Decision) -> list[tuple[int, str, str]]:
    """Returns hours since the start, outcome and code."""
    return [
        ((fact.due_at - T0) // HOUR, fact.outcome.value, fact.code)
        for fact in decision.facts
        if isinstance(fact, ScheduleDecided)
    ]


def ref_with(*crons: str, plan_hash: str | None = "hash", name: str = MAIN) -> RefState:
    named = Triggers(schedules=tuple(ScheduleTrigger(cron=cron) for cron in crons))
    applied = FileApplied(path=NAME.path, blob="b", plan_hash=plan_hash, triggers=named)
    return RefState(ref=name, files={NAME.path: FileState(newest=applied, good=None, commit="c")})


def test_nothing_is_due_before_the_due_time() -> None:
    """The cheap check is false, so no decision is made."""
    assert not schedules.is_due(held(), T0 + HOUR, T0 + HOUR - 1)
    assert schedules.is_due(held(), T0 + HOUR, T0 + HOUR)
    assert schedules.is_due(held(queued=(T0,)), T0 + HOUR, T0 + 1)
    assert not schedules.is_due(held(), None, T0 + HOUR)


@pytest.mark.parametrize(
    ("overlap", "expected", "is_cancelling"),
    [
        (Overlap.SKIP, [(1, "skipped", "overlap")], False),
        (Overlap.QUEUE, [(1, "queued", "overlap")], False),
        (Overlap.CANCEL, [(1, "queued", "overlap")], True),
    ],
)
def test_overlap_decides_while_a_run_is_open(
    overlap: Overlap, expected: list[tuple[int, str, str]], is_cancelling: bool
) -> None:
    """No run starts, and the reason is recorded."""
    decision = schedules.decide(held(), trigger(overlap), T0 + HOUR, 1, is_open=True)
    assert (displayed(decision), decision.start, decision.is_cancelling) == (expected, None, is_cancelling)


def test_queued_runs_start_before_new_ones() -> None:
    """They start in order, one run at a time."""
    decision = schedules.decide(held(queued=(T0,)), trigger(Overlap.QUEUE), T0 + HOUR, 1, is_open=False)
    assert displayed(decision) == [(0, "started", "waited"), (1, "queued", "overlap")]
    assert decision.start == T0


def test_a_full_queue_skips_with_its_own_code() -> None:
    """The length of the queue is limited."""
    queued = tuple(T0 - HOUR * back for back in reversed(range(schedules.QUEUE_MAX)))
    decision = schedules.decide(held(queued=queued), trigger(Overlap.QUEUE), T0 + HOUR, 1, is_open=True)
    assert displayed(decision) == [(1, "skipped", "queue-full")]


def test_a_run_is_cancelled_again_until_it_has_ended() -> None:
    """A crash between the record and the cancellation does not lose the cancellation."""
    decision = schedules.decide(held(queued=(T0,)), trigger(Overlap.CANCEL), T0 + 1, 1, is_open=True)
    assert (decision.facts, decision.is_cancelling) == ((), True)


def test_a_schedule_starts_over_after_the_clock_was_wrong() -> None:
    """If the clock is only a little behind, the schedule waits."""
    decision = schedules.decide(held(T0 + 5 * HOUR), trigger(), T0, 1, is_open=False)
    (fact,) = decision.facts
    assert isinstance(fact, events.ScheduleArmed)
    assert fact.from_at == T0
    assert schedules.decide(held(T0 + HOUR), trigger(), T0, 1, is_open=False) == schedules.Decision()


def test_a_refused_start_is_skipped_and_the_other_decisions_stay() -> None:
    """Missed times are still recorded as missed."""
    state = held()
    decision = schedules.decide(state, trigger(), T0 + 3 * HOUR, 1, is_open=False)
    outcomes = [fact.outcome for fact in schedules.refused(state, decision) if isinstance(fact, ScheduleDecided)]
    assert outcomes == [ScheduleOutcome.MISSED, ScheduleOutcome.SKIPPED]


def test_changes_arm_new_schedules_and_drop_removed_ones() -> None:
    """Without a difference nothing is recorded."""
    found = schedules.changes({NAME: held()}, ref_with("30 * * * *"), lambda file: True, 1, T0)
    assert [type(fact) for fact in found] == [events.ScheduleDropped, events.ScheduleArmed]
    assert schedules.changes({NAME: held()}, ref_with(NAME.cron), lambda file: True, 1, T0) == []


def test_a_new_default_ref_takes_over_schedules_without_losing_a_due_time() -> None:
    """A renamed branch has the same schedules."""
    (fact,) = schedules.changes(
        {NAME: held(T0 + 7)}, ref_with(NAME.cron, name="other"), lambda file: True, 1, T0 + HOUR
    )
    assert isinstance(fact, events.ScheduleArmed)
    assert (fact.ref, fact.from_at) == ("other", T0 + 7)


@pytest.mark.parametrize(
    ("ref", "may_start", "code"),
    [
        (None, True, "file-removed"),
        (ref_with(), True, "entry-removed"),
        (ref_with(NAME.cron), False, "file-broken"),
        (ref_with(plan_hash=None), False, "file-broken"),
    ],
)
def test_a_dropped_schedule_has_a_reason(ref: RefState | None, may_start: bool, code: str) -> None:
    """Its code has a message."""
    (fact,) = schedules.changes({NAME: held()}, ref, lambda file: may_start, 1, T0)
    assert isinstance(fact, events.ScheduleDropped)
    assert fact.code == code
    assert code in schedules.CODES


def test_a_decision_has_a_readable_message() -> None:
    """The sentence contains the number of times, or the minimum if they were not all counted."""
    decided = ScheduleDecided(
        at=1, path="p", cron="c", timezone="UTC", due_at=T0, outcome=ScheduleOutcome.MISSED, code="too-many",
        count=3, has_more=True,
    )  # fmt: skip
    assert schedules.text_of(decided) == "missed at least 3 times: only the newest 100 are caught up"
