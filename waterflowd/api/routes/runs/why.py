"""Why a run, or a part of it, is where it is."""

from __future__ import annotations

from fastapi import APIRouter, Response

from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs.run_lookup import Part, find_job, read_run, resolve, split_part
from waterflowd.api.runs.why import explain
from waterflowd.api.schemas.why import WhySchema

router = APIRouter(tags=["runs"])


@router.get("/v1/runs/{run_id}/why", responses={200: returns(WhySchema)})
async def explain_run(services: Ports, _: Viewer, run_id: str, place: Part = None) -> Response:
    """What a run, a job or a step (`JOB[/STEP]`) waits for, down to what must happen first; or what it ended by."""
    run = await read_run(services, await resolve(services, run_id))
    job = step = None
    if place is not None:
        name, step = split_part(run, place)
        job = find_job(run, name)
    agents = {row.fingerprint: row for row in services.agents.rows()}
    return json_response(WhySchema(seq=run.seq, chain=explain(run, job, step, agents.get, services.lost_after_ms)))
