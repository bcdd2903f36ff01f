"""Schedules with any history of ticks, pauses, clock jumps and completed runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from waterflowd.model.plan import CatchUp, Overlap, ScheduleTrigger
from waterflowd.reconcile import schedules, state
from waterflowd.reconcile.events import Fact, ScheduleArmed, ScheduleDecided, ScheduleOutcome
from waterflowd.reconcile.state import ScheduleName

MINUTE = 60_000
T0 = 1_795_478_400_000
NAME = ScheduleName(path="s.yml", cron="*/10 * * * *", timezone="Europe/Berlin")
_STEPS = st.lists(
    st.tuples(st.sampled_from(["wait", "jump-back", "end", "restart"]), st.integers(0, 300)), min_size=1, max_size=25
)


@given(_STEPS, st.sampled_from(Overlap), st.sampled_from(CatchUp))
def test_a_due_time_starts_at_most_one_run_and_runs_never_overlap(
    steps: list[tuple[str, int]], overlap: Overlap, catch_up: CatchUp
) -> None:
    """The fold of the facts equals the state on which the decisions were based."""
    trigger = ScheduleTrigger(cron=NAME.cron, timezone=NAME.timezone, overlap=overlap, catch_up=catch_up)
    armed = ScheduleArmed(at=1, path=NAME.path, cron=NAME.cron, timezone=NAME.timezone, ref="r", from_at=T0)
    facts: list[Fact] = [armed]
    held = state.fold("ops", facts)
    keys: list[str] = []
    wall_at, open_key = T0, None
    for step, minutes in steps:
        if step == "wait":
            wall_at += minutes * MINUTE
        elif step == "jump-back":
            wall_at -= minutes * MINUTE
        elif step == "end":
            open_key = None
        else:
            held = state.fold("ops", facts)
        schedule = held.schedules[NAME]
        decision = schedules.decide(schedule, trigger, wall_at, 1, is_open=open_key is not None)
        if decision.start is not None:
            assert open_key is None
            key = schedules.trigger_key("ops", NAME, decision.start)
            if key not in keys:
                # The log starts only one run for a key; after a clock error the key may be requested again.
                keys.append(key)
                open_key = key
        for fact in decision.facts:
            facts.append(fact)
            state.evolve(held, fact)
        assert len(held.schedules[NAME].queued) <= schedules.QUEUE_MAX
        assert held == state.fold("ops", facts)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.sampled_from(CatchUp))
def test_every_due_time_is_decided_once(gaps: list[int], catch_up: CatchUp) -> None:
    """Every due time is counted once: as started, queued, skipped or missed."""
    trigger = ScheduleTrigger(cron=NAME.cron, timezone=NAME.timezone, overlap=Overlap.SKIP, catch_up=catch_up)
    armed = ScheduleArmed(at=1, path=NAME.path, cron=NAME.cron, timezone=NAME.timezone, ref="r", from_at=T0)
    held = state.fold("ops", [armed])
    wall_at, count = T0, 0
    for gap in gaps:
        wall_at += gap * MINUTE
        decision = schedules.decide(held.schedules[NAME], trigger, wall_at, 1, is_open=False)
        for fact in decision.facts:
            assert isinstance(fact, ScheduleDecided)
            assert fact.outcome is not ScheduleOutcome.QUEUED
            count += fact.count
            state.evolve(held, fact)
    assert count == (wall_at - T0) // (10 * MINUTE)
