"""Runs: start, list, show, follow, cancel. `/v1/workflows` is the older name of `/v1/runs`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import check_plan
from waterflowd.api.dependencies import Ports, Runner, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, one_of
from waterflowd.api.request_bodies import read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.runs import run_starts
from waterflowd.api.runs.run_lookup import (
    STATUSES,
    At,
    Part,
    Text,
    check_names,
    check_output_exists,
    find_part,
    read_run,
    resolve,
    split_part,
)
from waterflowd.api.schemas.events import EventList, event_schema
from waterflowd.api.schemas.runs import (
    CancelBody,
    DryRunSchema,
    OlderRunList,
    RunCountsSchema,
    RunList,
    RunSchema,
    RunSummarySchema,
    StartedRunSchema,
    StartRunBody,
    run_url,
)
from waterflowd.api.services import Services
from waterflowd.api.streaming import streams
from waterflowd.api.streaming.output_lines import Cursor, parse_cursor
from waterflowd.api.streaming.output_reader import RunOutput
from waterflowd.api.timestamps import parse_timestamp
from waterflowd.model import plan as plans
from waterflowd.model.ids import RunId, is_run_id, run_stream
from waterflowd.model.records import RunFilter, StartRequest, TriggerKind

router = APIRouter(tags=["runs"])

Start = Annotated[
    str | None, Query(alias="from", max_length=40_000, description="`cursor` of a line, or a byte offset.")
]
Trigger = Annotated[
    str | None,
    Query(max_length=300, description="A kind of trigger.", json_schema_extra={"enum": [*TriggerKind]}),
]


Branch = Annotated[
    str | None, Query(max_length=300, description="A branch, or the whole name of a ref (`refs/tags/v1`).")
]
Statuses = Annotated[
    str | None, Query(max_length=300, description="A status or a conclusion, or several separated by commas.")
]


@router.post(
    "/v1/runs",
    status_code=201,
    openapi_extra=takes(StartRunBody, is_yaml=True),
    responses={200: returns(DryRunSchema), 201: returns(StartedRunSchema)},
)
@router.post("/v1/workflows", status_code=201, include_in_schema=False)
async def start_run(request: Request, services: Ports, principal: Runner, path: Text = None) -> Response:
    """Validate and start a workflow that is sent. The run is durable when the answer comes."""
    sent = await run_starts.read_workflow(request, path, StartRunBody)
    compiled = await run_starts.compile_workflow(request, services, services.compiler, sent)
    trigger = run_starts.client_trigger(request, principal)
    start_request = StartRequest(plan=compiled, trigger=trigger, inputs=sent.inputs, vars=sent.vars)
    plan = plans.decode(compiled)
    checked = run_starts.check_start(principal, plan, start_request)
    if sent.dry_run:
        return run_starts.dry_run(services, plan, checked)
    run = await run_starts.start(services, checked)
    await services.audit.action(principal, "start-run", sent.path, run=run.id)
    return json_response(StartedRunSchema.of(run), 201, {"Location": run_url(run.id)})


async def _filter(
    status: Statuses = None,
    name: Text = None,
    text: Text = None,
    repository: Text = None,
    by: Text = None,
    trigger: Trigger = None,
    branch: Branch = None,
    revision: Text = None,
    group: Text = None,
    server: Text = None,
    since: Text = None,
    until: Text = None,
) -> RunFilter:
    words = [one_of(word, STATUSES, "status") for word in status.split(",")] if status is not None else None
    return RunFilter(
        status=",".join(sorted(set(words))) if words is not None else None,
        name=name,
        text=text.lower() if text is not None else None,
        repository=repository,
        by=by,
        trigger=trigger,
        ref=branch if branch is None or branch.startswith("refs/") else f"refs/heads/{branch}",
        revision=revision.lower() if revision is not None else None,
        group=group,
        server=server,
        since_at=parse_timestamp(since) if since is not None else None,
        until_at=parse_timestamp(until, "until") if until is not None else None,
    )


Selected = Annotated[RunFilter, Depends(_filter)]


async def _page(
    services: Services, selected: RunFilter, limit: int, cursor: str | None
) -> tuple[list[RunSummarySchema], str | None]:
    if cursor is not None and not is_run_id(cursor):
        raise Rejected("WF605", "cursor must be the `next` of an earlier page", where="cursor")
    before = RunId(cursor) if cursor is not None else None
    rows, following = await services.history.runs(selected, before=before, limit=limit)
    return [RunSummarySchema.of(row) for row in rows], following


@router.get("/v1/runs/counts", responses={200: returns(RunCountsSchema)})
async def count_runs(services: Ports, _: Viewer, selected: Selected) -> Response:
    """How many runs the same filters select, by status, or by conclusion for completed runs."""
    found = await services.history.count_runs(selected)
    return json_response(RunCountsSchema(counts=found.counts, total=found.total, more=found.has_more))


@router.get("/v1/runs", responses={200: returns(RunList)})
async def list_runs(
    services: Ports, _: Viewer, selected: Selected, limit: Limit = 50, cursor: PageCursor = None
) -> Response:
    """Runs, newest first. `text` is part of a name or path, `by` a principal or the author of a push.

    `group` and `server` select runs that have used them.
    """
    runs, following = await _page(services, selected, limit, cursor)
    return json_response(RunList(runs=runs, next=following))


@router.get("/v1/workflows", include_in_schema=False)
async def list_runs_by_older_name(
    services: Ports, _: Viewer, selected: Selected, limit: Limit = 50, cursor: PageCursor = None
) -> Response:
    """Runs, newest first, under the older name."""
    runs, following = await _page(services, selected, limit, cursor)
    return json_response(OlderRunList(workflows=runs, next=following))


@router.get("/v1/runs/{run_id}", responses={200: returns(RunSchema)})
@router.get("/v1/workflows/{run_id}", include_in_schema=False)
async def show_run(services: Ports, _: Viewer, run_id: str, at: At = None, part: Part = None) -> Response:
    """A run with its jobs, steps, attempts and reasons. `at` shows its state after that event.

    With `part` (`JOB[/STEP]`), `jobs` is only that job, without the jobs below it, and has only that step. With an empty one,
    `jobs` is empty.
    """
    run = await resolve(services, run_id)
    head = await services.history.head(run_stream(run))
    if at is not None and at > head:
        raise Rejected(
            "WF604", f"`at` must be between 1 and {head}, the last event of run {run}", where="at", status=404
        )
    found = await read_run(services, run, at)
    if part is None:
        return json_response(RunSchema.of_run(found))
    return json_response(RunSchema.of_run(found, jobs=[find_part(found, part)] if part else []))


@router.get("/v1/runs/{run_id}/events", responses={200: returns(EventList, streams.NDJSON, streams.SSE)})
async def run_events(
    request: Request,
    services: Ports,
    principal: Viewer,
    run_id: str,
    follow: bool = False,
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """The event history of a run: a page, or all of it with `Accept: application/x-ndjson`, or a stream with `follow`."""
    run = await resolve(services, run_id)
    after = streams.parse_position(streams.last_event_id(request) or cursor or "0")
    is_ndjson = streams.accepts_ndjson(request)
    if follow:
        frame = streams.ndjson_frame if is_ndjson else streams.sse_frame
        opened = streams.admit(request)
        content = streams.follow_run_events(services, opened, principal, run, after, frame)
        return streams.Stream(opened, content, streams.NDJSON if is_ndjson else streams.SSE)
    if is_ndjson:
        content = streams.read_events(services, run, after)
        return streams.Stream(streams.admit(request), content, streams.NDJSON, is_live=False)
    records = await services.history.read(run_stream(run), after + 1, limit + 1)
    page_records = records[:limit]
    following = str(page_records[-1].position) if len(records) > limit else None
    return json_response(EventList(events=[event_schema(record) for record in page_records], next=following))


class OutputFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a run's output to send."""

    job: str | None
    step: str | None
    #: `JOB[/STEP]` instead of `job` and `step`.
    part: str | None
    start: str | None


async def _output_filter(job: Part = None, step: Part = None, part: Part = None, start: Start = None) -> OutputFilter:
    return OutputFilter(job=job, step=step, part=part, start=start)


@router.get(
    "/v1/runs/{run_id}/logs",
    response_class=Response,
    responses={200: {"content": {streams.NDJSON: {}, streams.SSE: {}}}},
)
@router.get("/v1/workflows/{run_id}/logs", include_in_schema=False)
async def run_logs(
    request: Request,
    services: Ports,
    principal: Viewer,
    run_id: str,
    selected: Annotated[OutputFilter, Depends(_output_filter)],
    follow: bool = False,
) -> Response:
    """The output of the steps, one JSON object per line. With `follow`, server-sent events until the run is completed.

    `job` and `step` include everything below them; `part` is `JOB[/STEP]`.
    """
    run = await resolve(services, run_id)
    check_output_exists(services, run)
    found = await read_run(services, run)
    job, step = (selected.job, selected.step) if selected.part is None else split_part(found, selected.part)
    check_names(found, job, step)
    start = _start(streams.last_event_id(request) or selected.start)
    output = RunOutput(services.history, services.outputs, run, job=job, step=step, start=start)
    opened = streams.admit(request)
    if not follow:
        return streams.Stream(opened, streams.read_output(services, run, output), streams.NDJSON, is_live=False)
    is_ndjson = streams.accepts_ndjson(request)
    frame = streams.ndjson_frame if is_ndjson else streams.sse_frame
    content = streams.follow_output(services, opened, principal, run, output, frame)
    return streams.Stream(opened, content, streams.NDJSON if is_ndjson else streams.SSE)


def _start(text: str | None) -> Cursor | int:
    """The first line to send: a cursor, or a byte offset in every log."""
    if text is None:
        return 0
    return parse_cursor(text) if text.startswith("c") else streams.parse_position(text)


@router.post(
    "/v1/runs/{run_id}/cancel",
    status_code=202,
    openapi_extra=takes(CancelBody),
    responses={202: returns(RunSummarySchema)},
)
@router.post("/v1/workflows/{run_id}/cancel", status_code=202, include_in_schema=False)
async def cancel_run(request: Request, services: Ports, principal: Runner, run_id: str) -> Response:
    """Cancel a run. With `{"force": true}`, only steps with a lease or `on-lost: hold` are waited for."""
    run = await resolve(services, run_id)
    body = await read_json(request, CancelBody)
    check_plan(principal, (await read_run(services, run)).plan)
    row = await services.runs.cancel(run, principal.name, is_forced=body.force)
    await services.audit.action(principal, "cancel-run", run, force=body.force)
    return json_response(RunSummarySchema.of(row), 202)
