"""Simulations with every kind of fault: each promise is kept in each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.simulator import campaign, simulate

#: Number of simulations per test; there are several tests, so that they can run in parallel.
SIMULATIONS = 40
KEPT = campaign.kept_seeds(Path(__file__).parent / "seeds.txt")


@pytest.mark.parametrize("part", range(4))
def test_every_promise_is_kept(part: int) -> None:
    """Every promise is kept in a limited number of simulations; `make sim SEEDS=N` runs as many as there is time for."""
    totals = campaign.run(range(part * SIMULATIONS, (part + 1) * SIMULATIONS))

    assert not totals.failed, "\n\n".join(campaign.explained(report) for report in totals.failed[:3])


@pytest.mark.parametrize("seed", KEPT)
def test_every_promise_is_kept_for_seeds_that_once_found_a_bug(seed: int) -> None:
    """Every promise is kept in the simulation of a seed that once broke one (see seeds.txt)."""
    report = simulate(seed)

    assert report.violation is None, campaign.explained(report)


def test_simulations_reach_each_fault_and_each_kind_of_event() -> None:
    """Across the simulations, runs complete, each fault happens, and each kind of event occurs."""
    # Few steps wait for a person after being lost; these simulations have some.
    totals = campaign.run([*range(10_000, 10_120), 20_151, 20_221])

    assert totals.conclusions["success"] > 20
    assert set(totals.conclusions) >= {"success", "failure", "cancelled", "timed-out", "lost"}
    assert len(totals.faults) >= 24
    seen = {
        "AttemptStarted",
        "RetryScheduled",
        "StepSleeping",
        "StepHeld",
        "JobTimedOut",
        "CancelRequested",
        "LateReport",
        "RevisionApplied",
        "RefRemoved",
        "ScheduleArmed",
        "ScheduleDecided",
        "ScheduleDropped",
        "CompletedRunsHandled",
        "RepositorySuspended",
        "JobExpanded",
        "JobEntered",
        "JobHalted",
        "JobRestarted",
        "BatchStarted",
        "BlockStarted",
        "StepTimedOut",
        "ChildRunRequested",
        "ChildRunStarted",
        "ApprovalDecided",
        "LockGranted",
        "LockWaiting",
        "LockRefused",
    }
    assert seen <= set(totals.events)
    assert {"agent revoked", "backup restored", "repository away", "hint lost"} <= set(totals.faults)


def test_same_seed_gives_the_same_trace() -> None:
    """The trace is the same twice in this process, and in other processes, whatever the order of their sets."""
    seed = 4711
    first, second = simulate(seed, has_whole_trace=True), simulate(seed, has_whole_trace=True)
    assert first.trace == second.trace

    code = f"from tests.simulator import simulate; print(simulate({seed}).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
            timeout=PATIENCE_S,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert digests == {str(first.digest)}
