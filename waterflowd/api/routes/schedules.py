"""Schedules: when they come next, and what became of their instants."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from waterflow_agent.errors import Rejected
from waterflowd.admin.ports import ScheduleRow
from waterflowd.api.gate import Ports, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, page
from waterflowd.api.request_bodies import answer
from waterflowd.api.run_lookup import Text
from waterflowd.api.views.rendering import time_text
from waterflowd.api.views.shapes import Problem, ScheduleList
from waterflowd.dsl import cron

router = APIRouter(tags=["schedules"])

#: Instants of one schedule in an answer; each costs the calendar a step.
_NEXT_MAX = 20

Next = Annotated[int, Query(alias="next", ge=1, le=_NEXT_MAX, description="how many instants to say")]


@router.get("/v1/schedules", responses={200: {"model": ScheduleList}, 404: {"model": Problem}})
async def list_schedules(
    services: Ports,
    _: Viewer,
    name: Text = None,
    count: Next = 1,
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """The schedules of all workflows, or of the one with this path or name, with their next instants."""
    rows = services.repositories.schedules(name)
    if name is not None and not rows:
        raise Rejected("WF604", "there is no schedule of such a workflow; see `waterflowctl schedules`", status=404)
    render = partial(schedule_json, count=count)
    return answer(page("schedules", rows, _place, render, limit=limit, cursor=cursor))


def _place(row: ScheduleRow) -> str:
    return f"{row.path} {row.repository} {row.cron} {row.timezone}"


def schedule_json(row: ScheduleRow, count: int = 1) -> dict[str, Any]:
    """A schedule with its next instants; all of them in UTC."""
    return {
        "path": row.path,
        "name": row.name,
        "repository": row.repository,
        "ref": row.ref,
        "revision": row.revision,
        "cron": row.cron,
        "timezone": row.timezone,
        "overlap": row.overlap,
        "catch_up": row.catch_up,
        "next": [time_text(instant) for instant in _upcoming(row, count)],
        "waiting": [time_text(instant) for instant in row.waiting],
        "last_instant": time_text(row.last_instant),
        "last_outcome": row.last_outcome,
        "last_run": row.last_run,
        "text": row.text,
    }


def _upcoming(row: ScheduleRow, count: int) -> list[int]:
    if row.next_at is None:
        return []
    # Made here and not with the rows, so that only what is shown is asked of the calendar.
    return [row.next_at, *cron.upcoming(row.cron, row.timezone, row.next_at, count - 1)]
