"""Figures: what was measured, what it is compared with, and the table."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Latencies:
    """Durations in seconds of things that were done in `seconds` in all."""

    seconds: float = 0.0
    each: list[float] = field(default_factory=list)

    def add(self, duration_s: float) -> None:
        """One more."""
        self.each.append(duration_s)

    @property
    def per_second(self) -> float:
        """How many were done in a second."""
        return len(self.each) / self.seconds

    def quantile_ms(self, share: float) -> float:
        """The duration that `share` of them do not exceed, in ms."""
        ordered = sorted(self.each)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000

    @property
    def median_ms(self) -> float:
        """The median in ms."""
        return statistics.median(self.each) * 1000


@dataclass(frozen=True)
class Row:
    """One row of the table. `is_met` is None where there is no goal."""

    name: str
    measured: str
    goal: str
    is_met: bool | None
    note: str = ""


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    head = ["| figure | measured | goal | met | note |", "|---|---|---|---|---|"]
    marks = {True: "yes", False: "**no**", None: ""}
    return "\n".join(
        head + [f"| {row.name} | {row.measured} | {row.goal} | {marks[row.is_met]} | {row.note} |" for row in rows]
    )
