"""Reports: tables with a row for each instance of a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from waterflowd.api.runs import reports
from waterflowd.api.schemas.reasons import ReasonSchema, reason_schema
from waterflowd.engine.state.runs import Job
from waterflowd.model.reports import Cell
from waterflowd.model.statuses import Conclusion, Status


class ReportRowSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a report.

    `values` are by column, without those that are missing; null until the job has ended, and if none of its steps ran.
    `note` says why the job has not succeeded or lacks values.
    """

    job: str
    name: str
    server: str | None
    matrix: dict[str, Any]
    status: Status
    conclusion: Conclusion | None
    reason: ReasonSchema
    values: dict[str, Cell] | None
    note: str

    @classmethod
    def of(cls, row: Job) -> ReportRowSchema:
        """The row of a job as it is now."""
        return cls(
            job=row.id,
            name=reports.name_of(row),
            server=row.pinned_name or row.agent_name or None,
            matrix=row.matrix,
            status=row.status,
            conclusion=row.conclusion,
            reason=reason_schema(row.reason),
            values=row.report.values if row.report is not None else None,
            note=reports.note_of(row),
        )


class ReportSummarySchema(msgspec.Struct, frozen=True, kw_only=True):
    """A report without its rows. `counts` are numbers of rows by result; `rows_of` is what a row is about."""

    job: str
    title: str
    columns: list[str]
    rows_of: reports.RowSubject
    status: Status
    conclusion: Conclusion | None
    reason: ReasonSchema
    rows_total: int
    counts: dict[str, int]

    @classmethod
    def of(cls, job: Job) -> ReportSummarySchema:
        """The report of a job as it is now."""
        return cls(**_summary(job))


class ReportList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the reports of a run."""

    reports: list[ReportSummarySchema]
    next: str | None


class ReportSchema(ReportSummarySchema, frozen=True, kw_only=True):
    """A report with a page of its rows."""

    rows: list[ReportRowSchema]
    next: str | None

    @classmethod
    def of_page(cls, job: Job, rows: Sequence[Job], following: str | None) -> ReportSchema:
        """The report of a job with these rows."""
        return cls(**_summary(job), rows=[ReportRowSchema.of(row) for row in rows], next=following)


def _summary(job: Job) -> dict[str, Any]:
    assert job.plan.report is not None
    rows = reports.rows_of(job)
    return {
        "job": job.id,
        "title": reports.title_of(job),
        "columns": list(job.plan.report.columns),
        "rows_of": reports.subject_of(job),
        "status": job.status,
        "conclusion": job.conclusion,
        "reason": reason_schema(job.reason),
        "rows_total": len(rows),
        "counts": dict(Counter(reports.result_of(row).value for row in rows)),
    }
