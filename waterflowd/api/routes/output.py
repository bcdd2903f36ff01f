"""The output of one attempt: by line, wherever it is in the log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from waterflow_agent.errors import Rejected
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs.attempt_logs import find_log, is_complete
from waterflowd.api.runs.run_lookup import resolve
from waterflowd.api.schemas.output import OutputPageSchema, left_out_of
from waterflowd.api.streaming.output_pages import count_lines, read_lines

router = APIRouter(tags=["runs"])

LINES_MAX = 10_000

OfJob = Annotated[str, Query(max_length=4_000, description="Id of the job.")]
OfStep = Annotated[str, Query(max_length=4_000, description="Id of the step.")]
OfAttempt = Annotated[int | None, Query(ge=1, le=1 << 31, description="Number of the attempt; by default the newest.")]
FirstLine = Annotated[int | None, Query(ge=1, le=1 << 53, description="Number of a line, from 1.")]
LineCount = Annotated[int, Query(ge=1, le=LINES_MAX, description="Maximum number of lines.")]
Tail = Annotated[int | None, Query(ge=1, le=LINES_MAX, description="The last lines, instead of `line` and `lines`.")]


@router.get("/v1/runs/{run_id}/output", responses={200: returns(OutputPageSchema)})
async def read_output_lines(
    services: Ports,
    _: Viewer,
    run_id: str,
    job: OfJob,
    step: OfStep,
    attempt: OfAttempt = None,
    line: FirstLine = None,
    lines: LineCount = 1_000,
    tail: Tail = None,
) -> Response:
    """Lines of the output of one attempt, from `line` on or the last ones, at most 1 MiB of text.

    Line n is ended by the n-th newline byte of the log, so its number never changes.
    """
    if line is not None and tail is not None:
        raise Rejected("WF605", "use either line or tail", where="tail")
    log = await find_log(services, await resolve(services, run_id), job, step, attempt)
    if log is None:
        page = OutputPageSchema(attempt=None, lines=0, bytes=0, is_complete=False, left_out=[], blocks=[])
        return json_response(page)
    marks = await services.outputs.line_marks(log.name)
    total = await count_lines(services.outputs, log.name, marks)
    if tail is not None:
        line, lines = max(1, total - tail + 1), tail
    blocks = await read_lines(services.outputs, log.name, marks, line or 1, lines) if (line or 1) <= total else []
    page = OutputPageSchema(
        attempt=log.attempt.number,
        lines=total,
        bytes=marks[-1].offset,
        is_complete=await is_complete(services, log.name, log.attempt, marks[-1].offset),
        left_out=left_out_of(marks),
        blocks=blocks,
    )
    return json_response(page)
