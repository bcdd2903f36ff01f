"""`python -m tests.simulator`: runs simulations and prints the results. Exits with 1 if a promise was broken."""

from __future__ import annotations

import sys

import click

from tests.simulator import campaign
from tests.simulator.simulation import Report, simulate

#: How many broken promises are failed_seeds in full; the others are only counted.
EXPLAINED_MAX = 5


@click.command()
@click.option("--seeds", default=1000, show_default=True, help="How many simulations.")
@click.option("--first", default=0, show_default=True, help="The first one's seed.")
@click.option("--seed", type=int, help="One simulation alone, with its whole trace.")
def main(seeds: int, first: int, seed: int | None) -> None:
    """Simulates a daemon and its agents with all kinds of faults."""
    if seed is not None:
        report = simulate(seed, has_whole_trace=True)
        print("\n".join(report.trace))
        print(report.violation or "no promise was broken")
        sys.exit(report.violation is not None)
    failed_seeds: list[int] = []

    def show(report: Report) -> None:
        failed_seeds.append(report.seed)
        if len(failed_seeds) <= EXPLAINED_MAX:
            print(campaign.explained(report), flush=True)
        else:
            print(f"seed {report.seed}: {report.violation}", flush=True)

    totals = campaign.run(range(first, first + seeds), show)
    print("\n".join(totals.lines()))
    sys.exit(bool(totals.failed))


if __name__ == "__main__":
    main()
