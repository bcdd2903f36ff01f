"""The outline of a run: its jobs and steps with their changes, for pages that show a whole run at once and follow it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.pagination import PageCursor
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs.outlines import Outlines
from waterflowd.api.runs.run_lookup import Part, find_job, resolve
from waterflowd.api.schemas.outlines import NODES_MAX, OutlineSchema, outline_schema
from waterflowd.api.streaming.streams import parse_position

router = APIRouter(tags=["runs"])

After = Annotated[int, Query(ge=0, le=1 << 62, description="Only what has changed since this event of the run.")]
Depth = Annotated[
    int | None,
    Query(ge=0, le=16, description="0: only jobs; 1: also the steps of the file; more: also steps inside others."),
]
NodeLimit = Annotated[int, Query(ge=1, le=NODES_MAX, description="Maximum number of nodes in the page.")]


@router.get("/v1/runs/{run_id}/outline", responses={200: returns(OutlineSchema)})
async def show_outline(
    request: Request,
    services: Ports,
    _: Viewer,
    run_id: str,
    after: After = 0,
    job: Part = None,
    depth: Depth = None,
    limit: NodeLimit = NODES_MAX,
    cursor: PageCursor = None,
) -> Response:
    """All jobs and steps of a run, each with the times at which it changed; with `job`, those in that job.

    With `after` (the `seq` of an earlier answer), only the jobs and steps that have changed since, with their new changes.
    """
    outlines: Outlines = request.app.state.outlines
    outline = await outlines.read(await resolve(services, run_id))
    if job is not None:
        find_job(outline.run, job)
    first = parse_position(cursor) if cursor is not None else 0
    work = outline_schema(outline, after=after, job=job, depth=depth, first=first, limit=limit)
    return json_response(await services.time_slices.do(work))
