"""The daemon itself: health, readiness, version, the event feed, and the state of the whole system."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice

from fastapi import APIRouter, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.access.repository_quotas import RUNS_KEY
from waterflowd.admin.ports import RepositoryRow, ScheduleRow
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.pagination import PageCursor
from waterflowd.api.problems import problem
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs.run_lookup import readable_run
from waterflowd.api.runs.why import job_until, step_until
from waterflowd.api.schemas.agents import AgentSchema, PendingAgentSchema
from waterflowd.api.schemas.gates import PendingApprovalSchema, pending_approvals
from waterflowd.api.schemas.reasons import reason_schema
from waterflowd.api.schemas.repositories import RepositorySchema, ScheduleSchema
from waterflowd.api.schemas.runs import RunPartSchema, RunSummarySchema
from waterflowd.api.schemas.system import (
    AuditStatusSchema,
    DaemonSchema,
    HealthSchema,
    SystemStatusSchema,
    VersionSchema,
)
from waterflowd.api.services import Services
from waterflowd.api.streaming import streams
from waterflowd.api.timestamps import timestamp
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.reasons import Reason
from waterflowd.model.records import RunFilter, RunSummary
from waterflowd.model.statuses import Status

router = APIRouter(tags=["system"])

#: Rows per list: one screen.
_ROWS = 20
_REPOSITORIES_MAX = 100
_AGENTS_MAX = 100
#: Recent failures.
_FAILED_MAX = 5
#: Open runs that are searched for waiting parts.
_OPEN_RUNS_MAX = 200


@router.get("/health", responses={200: returns(HealthSchema)})
async def health() -> Response:
    """The process is alive."""
    return json_response(HealthSchema(status="ok"))


@router.get("/ready", responses={200: returns(HealthSchema)})
async def ready(request: Request, services: Ports) -> Response:
    """The daemon accepts new work. 503 while it stops, 507 while the disk is full."""
    opened: streams.Streams = request.app.state.streams
    if opened.stopping.is_set():
        return problem(503, "the daemon is stopping", code="WF612", instance="/ready")
    text = services.reader.read_only_text()
    if text is not None:
        return problem(507, text, code="WF302", instance="/ready")
    return json_response(HealthSchema(status="ready"))


@router.get("/version", responses={200: returns(VersionSchema)})
async def version(services: Ports) -> Response:
    """The release that is running."""
    return json_response(VersionSchema(name="waterflow", version=services.version))


@router.get("/v1/events", response_class=Response, responses={200: {"content": {streams.SSE: {}}}, 404: {}})
async def follow_events(request: Request, services: Ports, principal: Viewer, cursor: PageCursor = None) -> Response:
    """All events of the system from now on, or after `cursor` (a global sequence; 0 for all) or `Last-Event-ID`."""
    position = streams.last_event_id(request) or cursor
    feed = services.feed
    if feed is None:
        raise Rejected("WF604", "this daemon has no feed of all events; follow one run instead", status=404)
    after = streams.parse_position(position) if position is not None else feed.last_seq
    opened = streams.admit(request)
    return streams.Stream(opened, streams.follow_everything(services, feed, opened, principal, after), streams.SSE)


@router.get("/v1/status", responses={200: returns(SystemStatusSchema)})
async def status(services: Ports, _: Viewer) -> Response:
    """The state of the system on one screen: problems, running and waiting runs with reasons, and recent failures."""
    rows = await services.history.open_runs(_OPEN_RUNS_MAX)
    running = [row for row in rows if row.status is Status.RUNNING]
    waiting, approvals = await _waiting(services, rows)
    failed, _next = await services.history.runs(RunFilter(has_failed=True), limit=_FAILED_MAX)
    agents = services.agents.rows()
    problems = _problems(services)
    return json_response(
        SystemStatusSchema(
            status="degraded" if problems else "healthy",
            problems=problems,
            daemon=DaemonSchema(
                version=services.version,
                started_at=timestamp(services.started_at),
                now=timestamp(services.clock.now()),
                generation=services.generation,
                log_seq=services.feed.last_seq if services.feed is not None else 0,
            ),
            repositories=[RepositorySchema.of(row) for row in services.repositories.status()[:_REPOSITORIES_MAX]],
            agents=[AgentSchema.of(row) for row in agents[:_AGENTS_MAX]],
            agents_total=len(agents),
            agents_connected=sum(agent.is_connected for agent in agents),
            pending=[PendingAgentSchema.of(row) for row in list(services.agents.pending())[:_ROWS]],
            open_runs=len(rows),
            running=[RunSummarySchema.of(row) for row in running[:_ROWS]],
            waiting=waiting,
            approvals=approvals,
            failed=[RunSummarySchema.of(row) for row in failed],
            schedules=[ScheduleSchema.of(row) for row in await _next_schedules(services)],
            audit=AuditStatusSchema.of(services.audit_admin),
        )
    )


async def _next_schedules(services: Services) -> list[ScheduleRow]:
    """The schedules with waiting instants, then those that are due next."""
    rows = [row for row in await services.repositories.schedules(None) if row.waiting or row.next_at is not None]
    return sorted(rows, key=lambda row: min((*row.waiting, row.next_at or row.waiting[0])))[:_ROWS]


def _problems(services: Services) -> list[str]:
    repositories = services.repositories.status()
    found = [_repository_problem(row) for row in repositories if not row.is_ready]
    for row in repositories:
        # A refused push is the text of a repository that is not ready.
        used_up = [use for use in row.quotas if use.is_exceeded and (row.is_ready or use.key != RUNS_KEY)]
        found += [f"repository {row.name}: {use.text}" for use in used_up]
    shared = services.repositories.shared_quotas()
    found += [f"workflows sent to the API: {use.text}" for use in shared if use.is_exceeded]
    agents = services.agents.rows()
    # One that was taken out of service may be away, and one that was just enrolled is about to connect.
    away = [agent for agent in agents if not (agent.is_connected or agent.is_drained or agent.is_new)]
    found += [f"agent {agent.name}: {agent.text}" for agent in away]
    found[:0] = [f"agent {agent.name}: {agent.alarm}" for agent in agents if agent.alarm]
    if services.notices is not None:
        found[:0] = [
            f"notices to {channel.name}: {channel.failure}; waiting: {channel.waiting};"
            f" next: waterflowctl notify test {channel.name}"
            for channel in services.notices.own_rows()
            if channel.keeps_failing
        ]
    found[:0] = [
        f"audit trail: cannot be exported to {export.name}: {export.failure}; check audit.export-{export.name};"
        f" records waiting: {export.waiting}"
        for export in services.audit_admin.exports()
        if export.failure
    ]
    if services.artifact_usage is not None and (problem := services.artifact_usage().problem):
        found[:0] = [problem]
    found[:0] = [f"run {run}: {text}" for run, text in services.reader.stalled().items()]
    found[:0] = [blind] if (blind := services.blind()) else []
    text = services.reader.read_only_text()
    more = [f"and {len(found) - _ROWS} more problems"] if len(found) > _ROWS else []
    return ([text] if text is not None else []) + found[:_ROWS] + more


def _repository_problem(row: RepositoryRow) -> str:
    """Why the repository is not ready; some reasons name it already."""
    return row.text if row.text.startswith(f'repository "{row.name}"') else f"repository {row.name}: {row.text}"


async def _waiting(
    services: Services, rows: list[RunSummary]
) -> tuple[list[RunPartSchema], list[PendingApprovalSchema]]:
    """The waiting parts of the open runs with their reasons; those that wait for approvals separately."""
    waiting: list[RunPartSchema] = []
    approvals: list[PendingApprovalSchema] = []
    for row in rows:
        run = await readable_run(services, row.id)
        if run is not None:
            approvals += pending_approvals(run)
            waiting += islice(_waiting_parts(run), _ROWS)
        if min(len(waiting), len(approvals)) >= _ROWS:
            break
        # Reading a run may have meant to fold its whole log.
        await asyncio.sleep(0)
    return waiting[:_ROWS], approvals[:_ROWS]


def _waiting_parts(run: Run) -> Iterator[RunPartSchema]:
    """The parts of the run that wait for anything but approvals."""
    if run.status is Status.WAITING and run.lock is not None and not run.lock.is_held:
        yield _part(run, None, None, run.reason)
    for job in run.jobs:
        steps = [step for step in job.active_steps() if step.status is Status.WAITING]
        if job.status is Status.WAITING and not steps and (job.approval is None or job.is_approved):
            yield _part(run, job, None, job.reason)
        for step in steps:
            if step.approval is None:
                yield _part(run, job, step, step.reason)


def _part(run: Run, job: Job | None, step: Step | None, reason: Reason) -> RunPartSchema:
    until = step_until(step) if step is not None else job_until(job) if job is not None else None
    return RunPartSchema(
        run=run.id,
        name=run.plan.name,
        job=job.id if job is not None else None,
        step=step.id if step is not None else None,
        reason=reason_schema(reason),
        until=timestamp(until),
    )
