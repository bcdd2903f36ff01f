"""Simulations of streams on an in-memory Temporal: the shell keeps its promises whatever happens around it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.twin.runs import simulate_runs
from tests.twin.simulation import Totals, simulate

#: Number of simulations; `python -m tests.twin --seeds N` runs as many as there is time for.
SIMULATIONS = 12


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The shell warns of what it drops, and simulated strangers send a lot of that."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_streams_keep_their_promises_and_everything_happens_to_them() -> None:
    """No input is lost or taken twice, each replay is equal, and no limit is exceeded, with each kind of fault."""
    totals = Totals()
    for seed in range(1000, 1000 + SIMULATIONS):
        totals.add(simulate(seed))

    assert totals.executions > 5 * SIMULATIONS
    assert set(totals.done) >= {"kill", "evict", "heartbeat", "reset", "cancel", "disturb", "request", "set_errors"}


def test_runs_keep_their_promises_on_temporal() -> None:
    """Each run ends as its facts say, no attempt starts twice, and no turn fails, with each kind of fault."""
    totals = Totals()
    for seed in range(2000, 2000 + SIMULATIONS):
        totals.add(simulate_runs(seed))

    assert totals.executions > 2 * SIMULATIONS
    assert set(totals.done) >= {"kill", "away", "reset", "request", "Conclusion.SUCCESS", "Conclusion.FAILURE"}
