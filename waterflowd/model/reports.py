"""Reports: what a run records for the row of a job in the table that `report` declares.

Rules of this file: values are recorded once, when the job ends, under the headings of their columns. So a report is the same
whenever it is read, and also in a re-run that reuses the job.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

#: A value of a report. Lists and mappings are JSON text.
Cell: TypeAlias = str | int | float | bool


class ReportCells(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The values of one job in its report, as of its end."""

    #: By the heading of the column; only those that are not null.
    values: dict[str, Cell] = {}
    #: Why values are missing; empty if none are.
    problem: str = ""

    @property
    def length(self) -> int:
        """Characters of all values; a number counts as 8."""
        return sum(len(value) if isinstance(value, str) else 8 for value in self.values.values())
