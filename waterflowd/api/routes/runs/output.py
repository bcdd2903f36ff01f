"""The output of one attempt: by line, wherever it is in the log, searched, and as it was printed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs.attempt_logs import AttemptLog, find_log, is_complete
from waterflowd.api.runs.run_lookup import Part, check_names, check_output_exists, read_run, resolve
from waterflowd.api.schemas.output import OutputPageSchema, left_out_of
from waterflowd.api.services import Services
from waterflowd.api.streaming import output_search, raw_output, streams
from waterflowd.api.streaming.output_pages import count_lines, read_lines
from waterflowd.api.streaming.output_search import HITS_MAX, QUERY_MAX, OutputSearch, SearchProgress
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId

router = APIRouter(tags=["runs"])

LINES_MAX = 10_000
_PLAIN = "text/plain"

OfJob = Annotated[str, Query(max_length=4_000, description="Id of the job.")]
OfStep = Annotated[str, Query(max_length=4_000, description="Id of the step.")]
OfAttempt = Annotated[int | None, Query(ge=1, le=1 << 31, description="Number of the attempt; by default the newest.")]
FirstLine = Annotated[int | None, Query(ge=1, le=1 << 53, description="Number of a line, from 1.")]
LineCount = Annotated[int, Query(ge=1, le=LINES_MAX, description="Maximum number of lines.")]
SearchText = Annotated[
    str, Query(alias="q", min_length=1, max_length=QUERY_MAX, description="The text to search for, on one line.")
]
HitLimit = Annotated[int, Query(alias="limit", ge=1, le=HITS_MAX, description="Maximum number of lines that match.")]
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
    log = await find_log(services, await _with_output(services, run_id), job, step, attempt)
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


async def _with_output(services: Services, run_id: str) -> RunId:
    """The run with this id; `Rejected` 410 if it or its output was removed."""
    run = await resolve(services, run_id)
    check_output_exists(services, run)
    return run


class SearchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to search for, and from which line on."""

    query: output_search.Query
    line: int
    hits_max: int


async def _search_options(
    text: SearchText, line: FirstLine = None, case: bool = False, word: bool = False, limit: HitLimit = HITS_MAX
) -> SearchOptions:
    if "\n" in text:
        raise Rejected("WF605", "q must be on one line: a match is within a line", where="q")
    query = output_search.Query(text, is_case_sensitive=case, is_whole_word=word)
    return SearchOptions(query=query, line=line or 1, hits_max=limit)


@router.get(
    "/v1/runs/{run_id}/output/search", response_class=Response, responses={200: {"content": {streams.NDJSON: {}}}}
)
async def search_output(
    request: Request,
    services: Ports,
    _: Viewer,
    run_id: str,
    job: OfJob,
    step: OfStep,
    options: Annotated[SearchOptions, Depends(_search_options)],
    attempt: OfAttempt = None,
) -> Response:
    """The lines of the output of one attempt that contain a text, as they are found, one JSON object per line.

    Plain text, by default in any case; `case` compares the case, and `word` finds whole words only.
    """
    log = await find_log(services, await _with_output(services, run_id), job, step, attempt)
    opened = streams.admit_search(request)
    search: OutputSearch = request.app.state.output_search
    content = _found(search, log, options)
    return streams.Stream(opened, content, streams.NDJSON, is_live=False)


async def _found(search: OutputSearch, log: AttemptLog | None, options: SearchOptions) -> AsyncGenerator[bytes, None]:
    if log is None:
        nothing = SearchProgress(scanned=0, hits=0, is_complete=True, more=False)
        yield streams.ndjson_frame("", nothing)
        return
    source = search.search(log.name, options.query, options.line, options.hits_max)
    async with contextlib.aclosing(source) as parts:
        async for items in parts:
            yield b"".join(streams.ndjson_frame("", item) for item in items)


@router.get(
    "/v1/runs/{run_id}/output/raw",
    response_class=Response,
    responses={200: {"content": {_PLAIN: {}}}, 206: {"content": {_PLAIN: {}}}, 416: {}},
)
async def raw_output_of(
    request: Request,
    services: Ports,
    _: Viewer,
    run_id: str,
    job: Part = None,
    step: Part = None,
    attempt: OfAttempt = None,
) -> Response:
    """Output as it was printed, as a file: of one attempt, of which `Range` selects a part, or without `step` of a whole job.

    Without `job`, of the whole run. The output of several attempts has a heading for each.
    """
    run = await _with_output(services, run_id)
    found = await read_run(services, run)
    named = [found.plan.name, str(found.number), *filter(None, (job, step))]
    if step is None:
        check_names(found, job, None)
        content = raw_output.read_sections(services.outputs, raw_output.sections_of(found, job))
        return _file(streams.admit(request), content, named)
    if job is None:
        raise Rejected("WF605", "step needs a job", where="job")
    log = await find_log(services, run, job, step, attempt)
    size = await services.outputs.size(log.name) if log is not None else 0
    selected = raw_output.parse_range(request.headers.get("range"), size)
    begin, end = selected or (0, size)
    opened = streams.admit(request)
    name = log.name if log is not None else AttemptId(run, JobId(job), StepId(step), AttemptNo(1))
    named.append(str(name.number))
    response = _file(opened, raw_output.read_bytes(services.outputs, name, raw_output.ByteRange(begin, end)), named)
    response.headers["accept-ranges"] = "bytes"
    response.headers["content-length"] = str(end - begin)
    if selected is not None:
        response.status_code = 206
        response.headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
    return response


def _file(place: streams.Place, content: AsyncGenerator[bytes, None], named: Iterable[str]) -> Response:
    response = streams.Stream(place, content, _PLAIN, is_live=False)
    response.headers["content-disposition"] = f'attachment; filename="{raw_output.file_name(named)}"'
    return response
