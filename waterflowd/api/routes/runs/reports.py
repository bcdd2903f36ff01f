"""The reports of a run: tables with a row for each server or matrix combination."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs import part_pages, report_text, reports
from waterflowd.api.runs.run_lookup import At, StatusFilter, read_run, resolve
from waterflowd.api.schemas.reports import ReportList, ReportSchema, ReportSummarySchema
from waterflowd.api.streaming.raw_output import safe_name

router = APIRouter(tags=["runs"])

OfJob = Annotated[
    str | None,
    Query(max_length=4_000, description="Id of the job; not needed if only one job of the run has a report."),
]
Form = Annotated[report_text.Format, Query(alias="format", description="The format of the text.")]


@router.get("/v1/runs/{run_id}/reports", responses={200: returns(ReportList)})
async def list_reports(
    services: Ports, _: Viewer, run_id: str, at: At = None, limit: Limit = ROWS_MAX, cursor: PageCursor = None
) -> Response:
    """The reports of a run, without their rows. `at` shows them after that event."""
    run = await read_run(services, await resolve(services, run_id), at)
    found, following = part_pages.page(reports.jobs_with_report(run), None, limit, cursor)
    return json_response(ReportList(reports=[ReportSummarySchema.of(job) for job in found], next=following))


@router.get("/v1/runs/{run_id}/report", responses={200: returns(ReportSchema)})
async def show_report(
    services: Ports,
    _: Viewer,
    run_id: str,
    job: OfJob = None,
    at: At = None,
    status: StatusFilter = None,
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """A report with a page of its rows, in the order of the instances. `status` is a status or a conclusion.

    `at` shows it after that event.
    """
    run = await read_run(services, await resolve(services, run_id), at)
    found = reports.find_report(run, job)
    rows, following = part_pages.page(reports.rows_of(found), status, limit, cursor)
    return json_response(ReportSchema.of_page(found, rows, following))


@router.get(
    "/v1/runs/{run_id}/report/text",
    response_class=Response,
    responses={200: {"content": {media_type: {} for media_type in report_text.MEDIA_TYPES.values()}}},
)
async def report_as_text(
    services: Ports, _: Viewer, run_id: str, form: Form = "markdown", job: OfJob = None, at: At = None
) -> Response:
    """A report with all its rows as Markdown or CSV. `at` shows it after that event."""
    run = await read_run(services, await resolve(services, run_id), at)
    found = reports.find_report(run, job)
    content = await services.time_slices.do(report_text.render(found, form))
    name = f"{safe_name([run.plan.name, str(run.number), found.id])}.{report_text.ENDINGS[form]}"
    headers = {"content-disposition": f'attachment; filename="{name}"', "x-content-type-options": "nosniff"}
    return Response(content, media_type=report_text.MEDIA_TYPES[form], headers=headers)
