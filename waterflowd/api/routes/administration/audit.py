"""The audit trail for admins, newest first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from msgspec import Struct

from waterflowd.api.dependencies import Admin, Ports
from waterflowd.api.pagination import Limit, PageCursor
from waterflowd.api.responses import json_response, returns
from waterflowd.api.runs.run_lookup import Text
from waterflowd.api.schemas.access import AuditList, AuditSchema
from waterflowd.api.services import Services
from waterflowd.api.streaming.streams import parse_position
from waterflowd.api.timestamps import parse_timestamp
from waterflowd.model.ids import AUDIT
from waterflowd.model.records import Record

router = APIRouter(tags=["audit"])

#: Records read at a time.
_PAGE = 200
#: Records that one request examines; a filter that matches little continues at `next`.
_EXAMINED_MAX = 5_000


class AuditFilter(Struct, frozen=True, kw_only=True):
    """Which entries to list; None matches all."""

    by: str | None
    what: str | None
    since_at: int | None

    def matches(self, entry: AuditSchema) -> bool:
        """Whether the entry belongs in the list, regardless of its time."""
        return self.by in (None, entry.by) and self.what in (None, entry.what)


async def _filter(by: Text = None, what: Text = None, since: Text = None) -> AuditFilter:
    return AuditFilter(by=by, what=what, since_at=parse_timestamp(since) if since is not None else None)


@router.get("/v1/audit", responses={200: returns(AuditList)})
async def list_audit(
    services: Ports,
    _: Admin,
    selected: Annotated[AuditFilter, Depends(_filter)],
    limit: Limit = 50,
    cursor: PageCursor = None,
) -> Response:
    """Actions of principals, and rejected requests and connections, newest first."""
    end = await services.history.head(AUDIT) + 1
    before = min(parse_position(cursor), end) if cursor is not None else end
    entries: list[AuditSchema] = []
    following, examined = None, 0
    async for record in _backwards(services, before):
        if selected.since_at is not None and record.at < selected.since_at:
            break
        if len(entries) == limit or examined == _EXAMINED_MAX:
            following = str(record.position + 1)
            break
        examined += 1
        entry = AuditSchema.of(record, services.tokens)
        if selected.matches(entry):
            entries.append(entry)
    return json_response(AuditList(audit=entries, next=following))


async def _backwards(services: Services, before: int) -> AsyncIterator[Record]:
    """The records of the audit stream before a position, newest first."""
    while before > 1:
        first = max(1, before - _PAGE)
        for record in reversed(await services.history.read(AUDIT, first, before - first)):
            yield record
        before = first
