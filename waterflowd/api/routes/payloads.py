"""Opens sealed payloads for Temporal's own web pages and command line (the protocol of a codec server there).

Rules of this file: a payload is shown to those who can read the same through this API. Runs, repositories and locks are shown
to viewers; everything else, such as the fleet with its tokens, only to admins. Nothing can be sealed here: a sealed value is
valid input for a run.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import Principal, Role
from waterflowd.admin.ports import SealedPayload
from waterflowd.api import request_bodies
from waterflowd.api.access.cross_origin import DECODE_PATH
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.services import Services

router = APIRouter(tags=["temporal"])

#: Temporal stores payloads of up to 2 MB; base64 makes them a third longer.
BODY_BYTES_MAX = 4 << 20
#: More than a page of a history has.
PAYLOADS_MAX = 1_000
#: What viewers may read.
_VIEWABLE = ("run/", "repo/", "lock/")
#: One page of Temporal's sends dozens of requests: a reader of a stream is recorded again after this time.
RECORDED_AGAIN_MS = 3_600_000
_RECORDED_MAX = 10_000


class PayloadsBody(msgspec.Struct, frozen=True):
    """Payloads, as Temporal's `Payloads` in JSON."""

    payloads: Annotated[list[SealedPayload], msgspec.Meta(max_length=PAYLOADS_MAX)] = []


class RecentReaders:
    """Who has read which stream within the last hour. When it is full, a reader may be recorded twice within the hour."""

    def __init__(self) -> None:
        self._recorded_at: OrderedDict[tuple[str, str], int] = OrderedDict()

    def is_new(self, principal: str, stream: str, now: int) -> bool:
        """Whether this reader must be recorded."""
        recorded_at = self._recorded_at.get((principal, stream))
        return recorded_at is None or now - recorded_at >= RECORDED_AGAIN_MS

    def add(self, principal: str, stream: str, now: int) -> None:
        """Notes that the reader is recorded."""
        self._recorded_at[principal, stream] = now
        self._recorded_at.move_to_end((principal, stream))
        if len(self._recorded_at) > _RECORDED_MAX:
            self._recorded_at.popitem(last=False)


@router.post(DECODE_PATH, openapi_extra=takes(PayloadsBody), responses={200: returns(PayloadsBody), 404: {}})
async def decode(request: Request, services: Ports, principal: Viewer) -> Response:
    """Open payloads that Temporal stores, and return their content as JSON; give Temporal's tools the URL without `/decode`.

    Other streams than those of runs, repositories and locks need role admin.
    """
    if services.payloads is None:
        text = "this daemon has no Temporal cluster; set `temporal.address` and `temporal.payload-keys`"
        raise Rejected("WF604", text, status=404)
    sent = await _read(request)
    decoded = await services.payloads.decode(sent.payloads)
    for stream in sorted(decoded.streams):
        _check(principal, stream)
    await _record(request, services, principal, decoded.streams)
    return json_response(PayloadsBody(list(decoded.payloads)))


async def _read(request: Request) -> PayloadsBody:
    body = await request_bodies.read_body(request, BODY_BYTES_MAX)
    if request_bodies.content_type(request) != "application/json":
        # Also keeps out requests that pages of other origins may send without a preflight.
        raise Rejected("WF608", "send the body as `Content-Type: application/json`", status=415)
    return request_bodies.parse_json(body, PayloadsBody)


def _check(principal: Principal, stream: str) -> None:
    if not stream.startswith(_VIEWABLE) and not principal.role.includes(Role.ADMIN):
        text = f'token "{principal.name}" has role {principal.role.value}; payloads of {stream[:100]} need role admin'
        raise Rejected("WF602", text, status=403)


async def _record(request: Request, services: Services, principal: Principal, streams: frozenset[str]) -> None:
    readers: RecentReaders = request.app.state.payload_readers
    now = services.clock.now()
    for stream in sorted(streams):
        if readers.is_new(principal.name, stream, now):
            await services.audit.action(principal, "read-payloads", stream)
            readers.add(principal.name, stream, now)
