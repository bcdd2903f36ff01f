"""A campaign: many simulations one after the other, and their totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.simulator.patches import processor_s
from tests.simulator.simulation import Report, simulate

#: How many trace lines of a failed simulation are shown; repeating its seed alone shows the whole trace.
SHOWN_LINES_MAX = 60


class Totals:
    """Sums over all simulations of a campaign."""

    def __init__(self) -> None:
        self.seeds = 0
        self.processor_s = 0.0
        self.simulated_ms = 0
        self.frames = 0
        self.processes = 0
        self.faults: Counter[str] = Counter()
        self.conclusions: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.failed: list[Report] = []

    def add(self, report: Report) -> None:
        """Adds the report of one simulation."""
        self.seeds += 1
        self.simulated_ms += report.ended_at
        self.frames += report.frames
        self.processes += report.processes
        self.faults.update(report.faults)
        self.conclusions.update(report.conclusions)
        self.events.update(report.events)
        if report.violation is not None:
            self.failed.append(report)

    def lines(self) -> Iterator[str]:
        """Yields the totals for people."""
        seconds = max(self.processor_s, 1e-9)
        yield (
            f"{self.seeds} seeds in {seconds:.1f} s ({self.seeds / seconds:.0f} a second), "
            f"{self.simulated_ms / 3_600_000:.1f} simulated hours, {self.frames} frames, {self.processes} processes of steps"
        )
        yield f"{sum(self.conclusions.values())} runs completed: {_counted(self.conclusions)}"
        yield f"{sum(self.faults.values())} faults: {_counted(self.faults)}"
        yield f"{len(self.failed)} broken promises" if self.failed else "no promise was broken"


def run(seeds: Iterable[int], on_failure: Callable[[Report], None] = lambda report: None) -> Totals:
    """Runs the simulations of these seeds."""
    totals = Totals()
    began = processor_s()
    for seed in seeds:
        report = simulate(seed)
        totals.add(report)
        if report.violation is not None:
            on_failure(report)
    totals.processor_s = processor_s() - began
    return totals


def explained(report: Report) -> str:
    """Returns the broken promise, the trace that led to it, and how to reproduce it."""
    left_out = max(0, len(report.trace) - SHOWN_LINES_MAX)
    lines = [f"seed {report.seed}: {report.violation}"]
    lines += [f"    ... {left_out} lines before"] if left_out else []
    lines += [f"    {line}" for line in report.trace[-SHOWN_LINES_MAX:]]
    lines.append(f"to repeat it: make sim SEED={report.seed}")
    return "\n".join(lines)


def kept_seeds(path: Path) -> dict[int, str]:
    """Reads the seeds that once found a bug, and which bug: one per line, `SEED  sentence`; `#` starts a comment."""
    kept: dict[int, str] = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            number, _, text = line.partition(" ")
            kept[int(number)] = text.strip()
    return kept


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common()) or "none"
