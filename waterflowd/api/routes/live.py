"""One stream of everything that a page shows."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.streaming import streams
from waterflowd.api.streaming.live import TOPICS, Live, parse_topics

router = APIRouter(tags=["system"])

TopicList = Annotated[
    str,
    Query(max_length=16_000, description=f"Comma-separated: {TOPICS}."),
]
After = Annotated[str | None, Query(max_length=30, description="The id of the last piece that was received.")]


@router.get("/v1/live", response_class=Response, responses={200: {"content": {streams.SSE: {}}}, 404: {}})
async def follow_live(
    request: Request, services: Ports, principal: Viewer, topics: TopicList, after: After = None
) -> Response:
    """What has changed in everything that a page shows, gathered for 50 ms; after `after` or `Last-Event-ID`."""
    selected = parse_topics(topics)
    position = streams.last_event_id(request) or after
    since = streams.parse_position(position) if position is not None else None
    feed = services.feed
    if feed is None:
        text = (
            "this daemon has no feed of all events; fetch lists again, and follow single runs with /v1/runs/ID/events"
        )
        raise Rejected("WF604", text, status=404)
    opened = streams.admit(request)
    live: Live = request.app.state.live
    return streams.Stream(opened, live.follow(feed, opened, principal, selected, since), streams.SSE)
