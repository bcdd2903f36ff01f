"""Runs: start, list, look at, cancel. `/v1/workflows` is the older name of `/v1/runs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.access.audit_trail import note
from waterflowd.access.registry import check_plan
from waterflowd.api import run_starts
from waterflowd.api.gate import Ports, Runner, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, one_of
from waterflowd.api.request_bodies import answer, described, read_json
from waterflowd.api.run_lookup import Place, Text, check_names, place, read_run, resolve
from waterflowd.api.services import Services
from waterflowd.api.streaming import streams
from waterflowd.api.streaming.output_lines import Cursor, parse_cursor
from waterflowd.api.streaming.output_reader import RunOutput
from waterflowd.api.timestamps import parse_instant
from waterflowd.api.views.rendering import record_json, summary_json
from waterflowd.api.views.run_rendering import run_json
from waterflowd.api.views.run_shapes import RunList, RunRow, RunShape
from waterflowd.api.views.shapes import WORKFLOW_BODY, DryRunShape, EventList, Problem, StartedShape
from waterflowd.model.ids import RunId, is_run_id, run_stream
from waterflowd.model.records import RunSummary, StartRequest
from waterflowd.model.statuses import Conclusion, Status

router = APIRouter(tags=["runs"])

_STATUSES = [status.value for status in Status] + [conclusion.value for conclusion in Conclusion]

At = Annotated[int | None, Query(ge=1, le=1 << 62, description="position of the run's event, from 1")]
Start = Annotated[str | None, Query(alias="from", max_length=40_000, description="a line's `cursor`, or a byte offset")]


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """How to cancel."""

    #: Nothing more is waited for, not even for agents.
    force: bool = False


@router.post(
    "/v1/runs",
    status_code=201,
    openapi_extra=WORKFLOW_BODY,
    responses={200: {"model": DryRunShape}, 201: {"model": StartedShape}, 422: {"model": Problem}},
)
@router.post("/v1/workflows", status_code=201, openapi_extra=WORKFLOW_BODY, include_in_schema=False)
async def start_run(request: Request, services: Ports, principal: Runner, path: Text = None) -> Response:
    """Validates and starts a workflow that is sent; answers when the run is durable."""
    sent = await run_starts.read_file(request, path)
    plan = await run_starts.compile_file(services, sent)
    trigger = run_starts.trigger_of(request, principal, run_starts.trigger_kind(request))
    wanted = StartRequest(plan=plan, trigger=trigger, inputs=sent.inputs, vars=sent.vars)
    answered = await run_starts.start(services, principal, wanted, is_dry_run=sent.dry_run)
    if not sent.dry_run:
        await note(services, principal, "start-run", sent.path, run=run_starts.run_of(answered))
    return answered


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs a list holds; None means any."""

    status: str | None
    name: str | None
    trigger: str | None
    revision: str | None
    since_at: int | None

    def accept(self) -> Callable[[RunSummary], bool] | None:
        """Tells whether a row belongs in the list; None when all do."""
        if self == Filters(status=None, name=None, trigger=None, revision=None, since_at=None):
            return None

        def belongs(row: RunSummary) -> bool:
            conclusion = row.conclusion.value if row.conclusion is not None else None
            return (
                (self.status is None or self.status in (row.status.value, conclusion))
                and (self.name is None or self.name in (row.name, row.path))
                and (self.trigger is None or self.trigger == row.trigger.kind)
                and (self.revision is None or (row.revision or "").startswith(self.revision))
                and (self.since_at is None or row.created_at >= self.since_at)
            )

        return belongs


def _list(services: Services, key: str, filters: Filters, limit: int, cursor: str | None) -> Response:
    if cursor is not None and not is_run_id(cursor):
        raise Rejected("WF605", "cursor is the `next` of an earlier page", where="cursor")
    before = RunId(cursor) if cursor is not None else None
    rows, following = services.log.runs(before=before, limit=limit, accept=filters.accept())
    if following is not None and filters.since_at is not None:
        last = services.log.run(following)
        if last is not None and last.created_at < filters.since_at:
            following = None
    return answer({key: [summary_json(row) for row in rows], "next": following})


async def _filters(
    status: Text = None, name: Text = None, trigger: Text = None, revision: Text = None, since: Text = None
) -> Filters:
    return Filters(
        status=one_of(status, _STATUSES, "status") if status is not None else None,
        name=name,
        trigger=trigger,
        revision=revision.lower() if revision is not None else None,
        since_at=parse_instant(since) if since is not None else None,
    )


Asked = Annotated[Filters, Depends(_filters)]


@router.get("/v1/runs", responses={200: {"model": RunList}})
async def list_runs(services: Ports, _: Viewer, asked: Asked, limit: Limit = 50, cursor: PageCursor = None) -> Response:
    """Runs, newest first."""
    return _list(services, "runs", asked, limit, cursor)


@router.get("/v1/workflows", include_in_schema=False)
async def list_runs_by_older_name(
    services: Ports, _: Viewer, asked: Asked, limit: Limit = 50, cursor: PageCursor = None
) -> Response:
    """Runs, newest first, under the older name."""
    return _list(services, "workflows", asked, limit, cursor)


@router.get("/v1/runs/{run_id}", responses={200: {"model": RunShape}, 404: {"model": Problem}})
@router.get("/v1/workflows/{run_id}", include_in_schema=False)
async def show_run(services: Ports, _: Viewer, run_id: str, at: At = None) -> Response:
    """A run with its jobs, steps, attempts and reasons; `at` shows it as it was after that event."""
    run = resolve(services, run_id)
    head = services.log.head(run_stream(run))
    if at is not None and at > head:
        raise Rejected("WF604", f"run {run} has {head} events; `at` is 1 to {head}", where="at", status=404)
    found = services.reader.run_at(run, at) if at is not None else services.reader.run(run)
    if found is None:
        raise Rejected("WF604", f"run {run} cannot be read any more", status=404)
    return answer(run_json(found))


@router.get(
    "/v1/runs/{run_id}/events",
    responses={200: {"model": EventList, "content": {streams.NDJSON: {}, streams.SSE: {}}}},
)
async def run_events(
    request: Request,
    services: Ports,
    principal: Viewer,
    run_id: str,
    follow: bool = False,
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """The run's history: a page, all of it as NDJSON when `Accept` asks for that, or with `follow` a stream of events."""
    run = resolve(services, run_id)
    after = streams.position_of(streams.last_event_id(request) or cursor or "0")
    is_ndjson = streams.wants_ndjson(request)
    if follow:
        frame = streams.ndjson_frame if is_ndjson else streams.sse_frame
        opened = streams.admit(request)
        content = streams.follow_run_events(services, opened, principal, run, after, frame)
        return streams.Stream(opened, content, streams.NDJSON if is_ndjson else streams.SSE)
    if is_ndjson:
        content = streams.read_events(services, run, after)
        return streams.Stream(streams.admit(request), content, streams.NDJSON, is_live=False)
    records = services.log.read(run_stream(run), after + 1, limit + 1)
    shown = records[:limit]
    following = str(shown[-1].position) if len(records) > limit else None
    return answer({"events": [record_json(record) for record in shown], "next": following})


class OutputWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a run's output."""

    job: str | None
    step: str | None
    #: `JOB[/STEP]` in place of both.
    place: str | None
    start: str | None


async def _output_wanted(
    job: Place = None, step: Place = None, place: Place = None, start: Start = None
) -> OutputWanted:
    return OutputWanted(job=job, step=step, place=place, start=start)


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
    wanted: Annotated[OutputWanted, Depends(_output_wanted)],
    follow: bool = False,
) -> Response:
    """What the steps printed: one JSON object per line; with `follow` as server-sent events until the run is completed.

    `job` and `step` mean everything that they have become or that is inside of them; `place` is `JOB[/STEP]`.
    """
    run = resolve(services, run_id)
    found = read_run(services, run)
    job, step = (wanted.job, wanted.step) if wanted.place is None else place(found, wanted.place)
    check_names(found, job, step)
    begin = _start(streams.last_event_id(request) or wanted.start)
    output = RunOutput(services.log, services.outputs, run, job=job, step=step, start=begin)
    opened = streams.admit(request)
    if not follow:
        return streams.Stream(opened, streams.read_output(services, run, output), streams.NDJSON, is_live=False)
    is_ndjson = streams.wants_ndjson(request)
    frame = streams.ndjson_frame if is_ndjson else streams.sse_frame
    content = streams.follow_output(services, opened, principal, run, output, frame)
    return streams.Stream(opened, content, streams.NDJSON if is_ndjson else streams.SSE)


def _start(text: str | None) -> Cursor | int:
    """Where to begin: a cursor, or a byte offset in every log."""
    if text is None:
        return 0
    return parse_cursor(text) if text.startswith("c") else streams.position_of(text)


@router.post(
    "/v1/runs/{run_id}/cancel",
    status_code=202,
    openapi_extra=described(CancelBody),
    responses={202: {"model": RunRow}},
)
@router.post("/v1/workflows/{run_id}/cancel", status_code=202, include_in_schema=False)
async def cancel_run(request: Request, services: Ports, principal: Runner, run_id: str) -> Response:
    """Asks for the run's end; with `{"force": true}` nothing more is waited for."""
    run = resolve(services, run_id)
    body = await read_json(request, CancelBody)
    check_plan(principal, read_run(services, run).plan)
    row = await services.runs.cancel(run, principal.name, is_forced=body.force)
    await note(services, principal, "cancel-run", run, force=body.force)
    return answer(summary_json(row), 202)
