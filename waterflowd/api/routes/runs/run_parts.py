"""The jobs and steps of a run, in pages: a run may have thousands of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Query, Response

from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs import part_pages
from waterflowd.api.runs.run_lookup import Part, StatusFilter, find_job, is_within, read_run, resolve
from waterflowd.api.schemas.jobs import Budget, JobList, JobSchema, StepList, StepSchema
from waterflowd.engine.state.runs import Job

router = APIRouter(tags=["runs"])

OfJob = Annotated[str, Query(max_length=4_000, description="Id of the job.")]


@router.get("/v1/runs/{run_id}/jobs", responses={200: returns(JobList)})
async def list_jobs(
    services: Ports,
    _: Viewer,
    run_id: str,
    job: Part = None,
    status: StatusFilter = None,
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """All jobs of a run, those of the file first; or with `job`, the jobs directly below that one.

    Each comes with its steps, but without the jobs below it. `status` is a status or a conclusion.
    """
    run = await read_run(services, await resolve(services, run_id))
    jobs: Iterable[Job] = run.jobs
    if job is not None:
        children = find_job(run, job).children
        jobs = children.jobs if children is not None else ()
    found, following = part_pages.page(jobs, status, limit, cursor)
    budget = Budget()
    return json_response(JobList(jobs=[JobSchema.row(found_job, budget) for found_job in found], next=following))


@router.get("/v1/runs/{run_id}/steps", responses={200: returns(StepList)})
async def list_steps(
    services: Ports,
    _: Viewer,
    run_id: str,
    job: OfJob,
    step: Part = None,
    status: StatusFilter = None,
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """All steps of a job so far, those inside others after those of the file; or with `step`, that one and those inside it.

    `status` is a status or a conclusion.
    """
    run = await read_run(services, await resolve(services, run_id))
    steps = find_job(run, job).steps_by_id.values()
    selected = steps if step is None else (found for found in steps if is_within(found.id, step))
    found, following = part_pages.page(selected, status, limit, cursor)
    budget = Budget()
    return json_response(StepList(steps=[StepSchema.row(found_step, budget) for found_step in found], next=following))
