"""What differs between the reports of two runs: columns, rows, and the cells of rows that both have.

Rules of this file: pure. Reports are matched by job, rows by their name. `result` counts as a column of every report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from waterflowd.api.runs import reports
from waterflowd.api.runs.comparison import ENTRIES_MAX, ChangedNames, changed_names
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.reports import Cell
from waterflowd.time_slices import Work

RESULT = "result"
#: Rows that are compared without a break.
_ROWS = 100


class ChangedCell(msgspec.Struct, frozen=True, kw_only=True):
    """A cell with different values; null for one that has none. The column `result` says how the row's job has ended."""

    row: str
    column: str
    before: Cell | None
    after: Cell | None


class ChangedReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a job. `cells_total` counts all cells that differ, `cells` are the first ones."""

    job: str
    columns: ChangedNames
    rows: ChangedNames
    cells: list[ChangedCell]
    cells_total: int


def changed_reports(before: Run, after: Run) -> Work[list[ChangedReport]]:
    """The reports that differ, in the order of the newer run; yields where the work may be interrupted.

    All reports together list at most `ENTRIES_MAX` cells.
    """
    were, are = ({job.id: job for job in reports.jobs_with_report(run)} for run in (before, after))
    found: list[ChangedReport] = []
    left = ENTRIES_MAX
    for job in [*are, *(job for job in were if job not in are)]:
        report = yield from _changed_report(job, were.get(job), are.get(job), left)
        if report.cells_total or report.columns.has_any or report.rows.has_any:
            found.append(report)
            left -= len(report.cells)
        if len(found) == ENTRIES_MAX:
            break
    return found


def _changed_report(name: str, before: Job | None, after: Job | None, cells_max: int) -> Work[ChangedReport]:
    was, now = _rows(before), _rows(after)
    columns = [column for column in _columns(after) if column in _columns(before)]
    cells: list[ChangedCell] = []
    total = 0
    for number, row in enumerate(row for row in now if row in was):
        for cell in _changed_cells(row, columns, was[row], now[row]):
            total += 1
            if len(cells) < cells_max:
                cells.append(cell)
        if number % _ROWS == 0:
            yield
    return ChangedReport(
        job=name,
        columns=changed_names(_columns(before), _columns(after)),
        rows=changed_names(was, now),
        cells=cells,
        cells_total=total,
    )


def _columns(job: Job | None) -> Mapping[str, object]:
    return {} if job is None or job.plan.report is None else job.plan.report.columns


def _rows(job: Job | None) -> dict[str, Job]:
    return {} if job is None else {reports.name_of(row): row for row in reports.rows_of(job)}


def _changed_cells(row: str, columns: list[str], before: Job, after: Job) -> Iterator[ChangedCell]:
    was, now = (job.report.values if job.report is not None else {} for job in (before, after))
    results = reports.result_of(before).value, reports.result_of(after).value
    if results[0] != results[1]:
        yield ChangedCell(row=row, column=RESULT, before=results[0], after=results[1])
    for column in columns:
        if was.get(column) != now.get(column):
            yield ChangedCell(row=row, column=column, before=was.get(column), after=now.get(column))
