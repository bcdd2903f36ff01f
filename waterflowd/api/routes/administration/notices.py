"""Channels for notices about failures, and tests of them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.admin.ports import NoticeAdmin
from waterflowd.api.dependencies import Admin, Ports, Viewer
from waterflowd.api.request_bodies import read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.schemas.notices import (
    NoticeChannelList,
    NoticeChannelSchema,
    NoticeProblemSchema,
    NoticeTestBody,
    NoticeTestList,
    NoticeTestSchema,
)
from waterflowd.api.services import Services

router = APIRouter(tags=["system"])


@router.get("/v1/notify", responses={200: returns(NoticeChannelList), 409: {}})
async def list_channels(services: Ports, _: Viewer) -> Response:
    """Where notices go, what waits, and why the last delivery failed. Addresses of webhooks are never shown."""
    rows, problems = await _notices(services).rows()
    return json_response(
        NoticeChannelList(
            channels=[NoticeChannelSchema.of(row) for row in rows],
            problems=[NoticeProblemSchema(repository=name, text=text) for name, text in sorted(problems.items())],
        )
    )


@router.post(
    "/v1/notify/test",
    openapi_extra=takes(NoticeTestBody),
    responses={200: returns(NoticeTestList), 404: {}, 409: {}},
)
async def test_channels(request: Request, services: Ports, principal: Admin) -> Response:
    """Send a test notice to one channel, or to all, and say what became of it."""
    body = await read_json(request, NoticeTestBody)
    results = await _notices(services).test(body.channel)
    await services.audit.action(principal, "test-notify", body.channel or "all")
    return json_response(NoticeTestList(tests=[NoticeTestSchema.of(result) for result in results]))


def _notices(services: Services) -> NoticeAdmin:
    if services.notices is None:
        raise Rejected("WF606", 'notices need engine = "log"; on Temporal use the node notify/webhook', status=409)
    return services.notices
