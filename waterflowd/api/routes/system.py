"""The daemon itself: is it alive, is it ready, what is it, and how are things in one screen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request, Response

from waterflowd.admin.ports import ScheduleRow
from waterflowd.api.gate import Ports, Viewer
from waterflowd.api.pagination import PageCursor
from waterflowd.api.problems import problem
from waterflowd.api.request_bodies import answer
from waterflowd.api.routes.schedules import schedule_json
from waterflowd.api.services import Services
from waterflowd.api.streaming import streams
from waterflowd.api.views.rendering import (
    agent_json,
    pending_json,
    reason_json,
    repository_json,
    summary_json,
    time_text,
)
from waterflowd.api.views.run_rendering import approvals_json
from waterflowd.api.views.shapes import Health, StatusShape, Version
from waterflowd.engine.state.runs import Run
from waterflowd.model.records import RunSummary
from waterflowd.model.statuses import FAILURES, Status

router = APIRouter(tags=["system"])

#: One screen of each.
_ROWS = 20
#: Open runs that are looked at to find what waits.
_OPEN_RUNS_MAX = 200


@router.get("/health", responses={200: {"model": Health}})
async def health() -> Response:
    """The process answers."""
    return answer({"status": "ok"})


@router.get("/ready", responses={200: {"model": Health}})
async def ready(request: Request, services: Ports) -> Response:
    """New work is taken; 503 while the daemon stops, 507 under disk pressure."""
    opened: streams.Streams = request.app.state.streams
    if opened.stopping.is_set():
        return problem(503, "the daemon is stopping", code="WF612", instance="/ready")
    text = services.reader.read_only_text()
    if text is not None:
        return problem(507, text, code="WF302", instance="/ready")
    return answer({"status": "ready"})


@router.get("/version", responses={200: {"model": Version}})
async def version(services: Ports) -> Response:
    """Which release this is."""
    return answer({"name": "waterflow", "version": services.version})


@router.get("/v1/events", response_class=Response, responses={200: {"content": {streams.SSE: {}}}})
async def everything(request: Request, services: Ports, principal: Viewer, cursor: PageCursor = None) -> Response:
    """Every event of the system from now on, or after `cursor` (a global sequence; 0 for all) or `Last-Event-ID`."""
    place = streams.last_event_id(request) or cursor
    after = streams.position_of(place) if place is not None else services.log.last_seq
    opened = streams.admit(request)
    return streams.Stream(opened, streams.follow_everything(services, opened, principal, after), streams.SSE)


@router.get("/v1/status", responses={200: {"model": StatusShape}})
async def status(services: Ports, _: Viewer) -> Response:
    """What an operator wants to see first: what is wrong, what runs, what waits and why, what failed last."""
    rows = [row for run in islice(services.log.open_runs(), _OPEN_RUNS_MAX) if (row := services.log.run(run))]
    running = [row for row in rows if row.status is Status.RUNNING]
    waiting, approvals = await _waiting(services, rows)
    failed, _next = services.log.runs(before=None, limit=5, accept=lambda row: row.conclusion in FAILURES)
    repositories = services.repositories.status()
    agents = services.agents.rows()
    problems = _problems(services)
    return answer(
        {
            "status": "degraded" if problems else "healthy",
            "problems": problems,
            "daemon": {
                "version": services.version,
                "started_at": time_text(services.started_at),
                "now": time_text(services.clock.now()),
                "generation": services.log.generation,
                "log_seq": services.log.last_seq,
            },
            "repositories": [repository_json(row) for row in repositories[:100]],
            "agents": [agent_json(row) for row in agents[:100]],
            "agents_total": len(agents),
            "pending": [pending_json(row) for row in list(services.agents.pending())[:_ROWS]],
            "open_runs": len(rows),
            "running": [summary_json(row) for row in running[:_ROWS]],
            "waiting": waiting,
            "approvals": approvals,
            "failed": [summary_json(row) for row in failed],
            "schedules": [schedule_json(row) for row in _next_schedules(services)],
        }
    )


def _next_schedules(services: Services) -> list[ScheduleRow]:
    """Those with instants that wait, then those that come next."""
    rows = [row for row in services.repositories.schedules(None) if row.waiting or row.next_at is not None]
    return sorted(rows, key=lambda row: min((*row.waiting, row.next_at or row.waiting[0])))[:_ROWS]


def _problems(services: Services) -> list[str]:
    found = [f"repository {row.name}: {row.text}" for row in services.repositories.status() if not row.is_ready]
    found += [f"agent {row.name}: {row.text}" for row in services.agents.rows() if not row.is_connected]
    found[:0] = [f"run {run}: {text}" for run, text in services.reader.stalled().items()]
    text = services.reader.read_only_text()
    return ([text] if text is not None else []) + found[:_ROWS]


async def _waiting(services: Services, rows: list[RunSummary]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What of the open runs waits for something, each with its reason; and what waits for people, apart from the rest."""
    waiting: list[dict[str, Any]] = []
    for_people: list[dict[str, Any]] = []
    for row in rows:
        run = services.reader.run(row.id)
        if run is not None:
            about = {"run": run.id, "name": run.plan.name}
            for_people += [{**about, **found} for found in approvals_json(run)]
            waiting += [{**about, **found} for found in islice(_places(run), _ROWS)]
        if min(len(waiting), len(for_people)) >= _ROWS:
            break
        # Each of them may have been folded from the log.
        await asyncio.sleep(0)
    return waiting[:_ROWS], for_people[:_ROWS]


def _places(run: Run) -> Iterator[dict[str, Any]]:
    """Where the run waits, for anything but people."""
    if run.status is Status.WAITING and run.lock is not None and not run.lock.is_held:
        yield {"job": None, "step": None, "reason": reason_json(run.reason)}
    for job in run.jobs:
        steps = [step for step in job.active_steps() if step.status is Status.WAITING]
        if job.status is Status.WAITING and not steps and (job.approval is None or job.is_approved):
            yield {"job": job.id, "step": None, "reason": reason_json(job.reason)}
        for step in steps:
            if step.approval is None:
                yield {"job": job.id, "step": step.id, "reason": reason_json(step.reason)}
