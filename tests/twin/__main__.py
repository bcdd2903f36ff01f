"""`python -m tests.twin`: simulates streams on the in-memory Temporal. Exits with 1 if one of them fails."""

from __future__ import annotations

import logging
import sys
import traceback

import click

from tests.twin.runs import simulate_runs
from tests.twin.simulation import Totals, simulate


@click.command()
@click.option("--seeds", default=1000, show_default=True, help="How many simulations.")
@click.option("--first", default=0, show_default=True, help="The first one's seed.")
@click.option("--runs", "is_of_runs", is_flag=True, help="Runs of workflows, with the engine and agents.")
@click.option("--seed", type=int, help="One simulation alone, with its whole trace.")
def main(seeds: int, first: int, seed: int | None, *, is_of_runs: bool) -> None:
    """Simulates the shell of streams with all kinds of faults."""
    # The shell warns of what it drops, and strangers send a lot of that.
    logging.disable(logging.WARNING)
    chosen = range(first, first + seeds) if seed is None else [seed]
    totals = Totals()
    failed = 0
    for each in chosen:
        try:
            tell = print if seed is not None else None
            totals.add(simulate_runs(each, tell=tell) if is_of_runs else simulate(each, tell=tell))
        except Exception:  # noqa: BLE001  whatever it is, it belongs to this seed
            failed += 1
            traceback.print_exc()
    print(f"{len(chosen)} simulations, {failed} failed: {totals}")
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    main()
