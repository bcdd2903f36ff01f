"""Figures: measured values, their goals, and the table of results."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Latencies:
    """Durations of single operations in seconds; all of them together took `seconds`."""

    seconds: float = 0.0
    each: list[float] = field(default_factory=list)

    def add(self, duration_s: float) -> None:
        """Adds one duration."""
        self.each.append(duration_s)

    @property
    def per_second(self) -> float:
        """Operations per second."""
        return len(self.each) / self.seconds

    def quantile_ms(self, share: float) -> float:
        """The duration in ms that a `share` of the operations does not exceed."""
        ordered = sorted(self.each)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000

    @property
    def median_ms(self) -> float:
        """The median in ms."""
        return statistics.median(self.each) * 1000


@dataclass(frozen=True)
class Row:
    """One row of the table. `is_met` is None if there is no goal."""

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
