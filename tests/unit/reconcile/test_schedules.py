"""What becomes of instants, without a log: the decisions one by one."""

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


def shown(decision: schedules.Decision) -> list[tuple[int, str, str]]:
    """Hours since the start, what became of them and why."""
    return [
        ((fact.due_at - T0) // HOUR, fact.outcome.value, fact.code)
        for fact in decision.facts
        if isinstance(fact, ScheduleDecided)
    ]


def ref_with(*crons: str, plan_hash: str | None = "hash", name: str = MAIN) -> RefState:
    named = Triggers(schedules=tuple(ScheduleTrigger(cron=cron) for cron in crons))
    applied = FileApplied(path=NAME.path, blob="b", plan_hash=plan_hash, triggers=named)
    return RefState(ref=name, files={NAME.path: FileState(newest=applied, good=None, commit="c")})


def test_nothing_is_due_before_the_instant() -> None:
    """The cheap question comes before the decision, and says no."""
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
def test_an_open_run_decides_by_overlap(
    overlap: Overlap, expected: list[tuple[int, str, str]], is_cancelling: bool
) -> None:
    """Nothing starts, and why is recorded."""
    decision = schedules.decide(held(), trigger(overlap), T0 + HOUR, 1, is_open=True)
    assert (shown(decision), decision.start, decision.is_cancelling) == (expected, None, is_cancelling)


def test_what_waits_starts_before_what_has_just_come() -> None:
    """In order, one run at a time."""
    decision = schedules.decide(held(queued=(T0,)), trigger(Overlap.QUEUE), T0 + HOUR, 1, is_open=False)
    assert shown(decision) == [(0, "started", "waited"), (1, "queued", "overlap")]
    assert decision.start == T0


def test_a_full_queue_skips_with_a_name() -> None:
    """Nothing grows without a bound."""
    queued = tuple(T0 - HOUR * back for back in reversed(range(schedules.QUEUE_MAX)))
    decision = schedules.decide(held(queued=queued), trigger(Overlap.QUEUE), T0 + HOUR, 1, is_open=True)
    assert shown(decision) == [(1, "skipped", "queue-full")]


def test_a_cancelled_run_is_asked_again_until_it_has_ended() -> None:
    """A daemon that ends between the record and the request has lost nothing."""
    decision = schedules.decide(held(queued=(T0,)), trigger(Overlap.CANCEL), T0 + 1, 1, is_open=True)
    assert (decision.facts, decision.is_cancelling) == ((), True)


def test_a_clock_that_stood_wrong_makes_the_schedule_count_anew() -> None:
    """And one that is a little behind is waited for."""
    decision = schedules.decide(held(T0 + 5 * HOUR), trigger(), T0, 1, is_open=False)
    (fact,) = decision.facts
    assert isinstance(fact, events.ScheduleArmed)
    assert fact.from_at == T0
    assert schedules.decide(held(T0 + HOUR), trigger(), T0, 1, is_open=False) == schedules.Decision()


def test_a_refused_start_is_a_skip_and_the_rest_of_the_decision_stays() -> None:
    """What was missed beside it is missed all the same."""
    state = held()
    decision = schedules.decide(state, trigger(), T0 + 3 * HOUR, 1, is_open=False)
    outcomes = [fact.outcome for fact in schedules.refused(state, decision) if isinstance(fact, ScheduleDecided)]
    assert outcomes == [ScheduleOutcome.MISSED, ScheduleOutcome.SKIPPED]


def test_changes_arm_what_is_new_and_drop_what_is_gone() -> None:
    """Where nothing changed there is nothing to record."""
    found = schedules.changes({NAME: held()}, ref_with("30 * * * *"), lambda file: True, 1, T0)
    assert [type(fact) for fact in found] == [events.ScheduleDropped, events.ScheduleArmed]
    assert schedules.changes({NAME: held()}, ref_with(NAME.cron), lambda file: True, 1, T0) == []


def test_another_default_ref_takes_schedules_over_without_losing_an_instant() -> None:
    """A branch that was renamed has the same schedules."""
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
def test_a_drop_says_why(ref: RefState | None, may_start: bool, code: str) -> None:
    """The code is one that has a sentence."""
    (fact,) = schedules.changes({NAME: held()}, ref, lambda file: may_start, 1, T0)
    assert isinstance(fact, events.ScheduleDropped)
    assert fact.code == code
    assert code in schedules.CODES


def test_a_decision_reads_as_a_sentence() -> None:
    """With the number where there are several, and that nobody counted them all."""
    decided = ScheduleDecided(
        at=1, path="p", cron="c", timezone="UTC", due_at=T0, outcome=ScheduleOutcome.MISSED, code="too-many",
        count=3, has_more=True,
    )  # fmt: skip
    assert schedules.text_of(decided) == "missed at least 3 times: only the newest 100 are caught up"
