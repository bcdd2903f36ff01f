"""Schedules: their next instants, and the outcome of the last one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from waterflow_agent.errors import Rejected
from waterflowd.admin.ports import ScheduleRow
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, page
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs.run_lookup import Text
from waterflowd.api.schemas.repositories import ScheduleList, ScheduleSchema

router = APIRouter(tags=["schedules"])

#: Instants of one schedule in an answer; each costs a calendar step.
_NEXT_MAX = 20

Next = Annotated[int, Query(alias="next", ge=1, le=_NEXT_MAX, description="Number of instants per schedule.")]


@router.get("/v1/schedules", responses={200: returns(ScheduleList), 404: {}})
async def list_schedules(
    services: Ports,
    _: Viewer,
    name: Text = None,
    count: Next = 1,
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """The schedules of all workflows, or of the workflow with this path or name, with their next instants."""
    rows = await services.repositories.schedules(name)
    if name is not None and not rows:
        text = "this workflow has no schedule; list schedules with `waterflowctl schedules`"
        raise Rejected("WF604", text, status=404)
    page_rows, following = page(rows, _key, limit, cursor)
    return json_response(ScheduleList(schedules=[ScheduleSchema.of(row, count) for row in page_rows], next=following))


def _key(row: ScheduleRow) -> str:
    return f"{row.path} {row.repository} {row.cron} {row.timezone}"
