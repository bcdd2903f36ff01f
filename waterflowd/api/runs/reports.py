"""The reports of a run: which jobs have one, and its rows.

Rules of this file: a report is read from the run's state, so it exists as long as the run. Each instance of the job has a row
from the moment at which it exists, whatever becomes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.statuses import Conclusion, Status

#: What a row is about: a server, or an instance of a job with a matrix.
RowSubject: TypeAlias = Literal["server", "instance"]
_LISTED = 10


def jobs_with_report(run: Run) -> list[Job]:
    """The jobs of the run so far that have a report, each once, not its instances."""
    return [job for job in run.jobs if job.plan.report is not None and not job.is_instance]


def find_report(run: Run, name: str | None) -> Job:
    """The job with this id that has a report, or the only one; `Rejected` 404 for none, 409 for several."""
    found = jobs_with_report(run)
    names = ", ".join(job.id for job in found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
    if not found:
        text = "no job of this run has a report; add `report` to a job of the workflow"
        raise Rejected("WF604", text, where="job", status=404)
    if name is None and len(found) > 1:
        raise Rejected("WF606", f"several jobs have a report; choose one: {names}", where="job", status=409)
    selected = next((job for job in found if name in (None, job.id)), None)
    if selected is None:
        text = f'job "{escape_for_display(name or "", 60)}" has no report; those that have one: {names}'
        raise Rejected("WF604", text, where="job", status=404)
    return selected


def rows_of(job: Job) -> Sequence[Job]:
    """The jobs that have a row, in order; none before a job with instances has been expanded."""
    if not job.is_template:
        return [job]
    return job.children.jobs if job.children is not None else []


def title_of(job: Job) -> str:
    """The title of the job's report."""
    assert job.plan.report is not None
    return job.plan.report.title or job.id


def subject_of(job: Job) -> RowSubject:
    """What the rows of the job's report are about."""
    return "instance" if job.plan.strategy is not None and job.plan.strategy.matrix is not None else "server"


def name_of(row: Job) -> str:
    """The name of a row: its server, or what distinguishes it from the other instances."""
    if subject_of(row) == "instance":
        return row.key or row.id
    return row.pinned_name or row.agent_name or "-"


def result_of(row: Job) -> Conclusion | Status:
    """How the row's job has ended, or its status so far."""
    return row.conclusion or row.status


def note_of(row: Job) -> str:
    """Why the row's job has not succeeded, or lacks values; empty if neither is so."""
    reason = "" if row.conclusion is Conclusion.SUCCESS else row.reason.text
    problem = row.report.problem if row.report is not None else ""
    return "; ".join(text for text in (reason, problem) if text)
