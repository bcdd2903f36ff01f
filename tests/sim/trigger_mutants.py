"""Mutants of what starts by the clock, by requests and after other runs; see mutants.py."""

from __future__ import annotations

from tests.sim.mutant import Mutant

_SCHEDULES, _TIMETABLE = "waterflowd.reconcile.schedules", "waterflowd.reconcile.loop.timetable"
_STATE = "waterflowd.reconcile.state"

MUTANTS: tuple[Mutant, ...] = (
    # Schedules.
    Mutant(
        f"{_TIMETABLE}:Timetable._start",
        "await self._loop.apply(decision.facts, (request,))",
        "await self._loop.apply(decision.facts, ()); await self._ports.runs.start(request)",
        "an instant and its run are two transactions",
    ),
    Mutant(
        f"{_TIMETABLE}:Timetable._tick",
        "for number, held in enumerate(list(state.schedules.values()), start=1):",
        "for number, held in enumerate(list(state.schedules.values())[:1], start=1):",
        "of several schedules one is looked at",
    ),
    Mutant(
        f"{_TIMETABLE}:Timetable._tick",
        "if state.is_suspended:\n            # Somebody",
        "if False:\n            # Somebody",
        "a schedule is decided after its repository was suspended",
    ),
    Mutant(
        f"{_TIMETABLE}:Timetable._compare",
        "if facts:",
        "if facts and not self._loop.state.schedules:",
        "schedules stay what they were",
    ),
    Mutant(
        f"{_TIMETABLE}:Timetable._decide",
        "if decision.is_cancelling:",
        "if False:",
        "a run is not cancelled for a newer instant",
    ),
    Mutant(
        f"{_STATE}:_evolve_schedules",
        "held.handled_at = max(held.handled_at, fact.instant_at)",
        "pass",
        "an instant is decided again",
    ),
    Mutant(
        f"{_SCHEDULES}:changes",
        "before.handled_at if before is not None else wall_at",
        "wall_at - 60_000",
        "a new schedule catches up what was before it",
    ),
    Mutant(f"{_SCHEDULES}:went_back", "> CLOCK_BACK_MAX_MS", "> 10**12", "a clock that stood wrong stops a schedule"),
    Mutant(f"{_SCHEDULES}:is_due", "or bool(held.queued)", "", "an instant waits until the next one comes"),
    Mutant(
        f"{_SCHEDULES}:decide",
        "for instant in taken:",
        "for instant in taken[-1:]:",
        "of several instants that come at once the newest is decided alone",
    ),
    Mutant(f"{_SCHEDULES}:_Decider.take_waiting", "and not self.is_busy", "", "two runs of a schedule are open"),
)
