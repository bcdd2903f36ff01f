"""The audit trail as admins read it: newest first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from msgspec import Struct

from waterflowd.api.gate import Admin, Ports
from waterflowd.api.pagination import Limit, PageCursor
from waterflowd.api.request_bodies import answer
from waterflowd.api.run_lookup import Text
from waterflowd.api.services import Services
from waterflowd.api.streaming.streams import position_of
from waterflowd.api.timestamps import parse_instant
from waterflowd.api.views.rendering import audit_json
from waterflowd.api.views.shapes import AuditList
from waterflowd.model.ids import AUDIT
from waterflowd.model.records import Record

router = APIRouter(tags=["audit"])

#: Records read at a time.
_PAGE = 200
#: Records that one request looks at; a filter that finds little goes on at `next`.
_LOOKED_AT_MAX = 5_000


class Wanted(Struct, frozen=True, kw_only=True):
    """Which records; None means any."""

    by: str | None
    what: str | None
    since_at: int | None


async def _wanted(by: Text = None, what: Text = None, since: Text = None) -> Wanted:
    return Wanted(by=by, what=what, since_at=parse_instant(since) if since is not None else None)


@router.get("/v1/audit", responses={200: {"model": AuditList}})
async def list_audit(
    services: Ports,
    _: Admin,
    wanted: Annotated[Wanted, Depends(_wanted)],
    limit: Limit = 50,
    cursor: PageCursor = None,
) -> Response:
    """Who did what to what and when, and who was turned away; newest first."""
    place = position_of(cursor) if cursor is not None else services.log.head(AUDIT) + 1
    before = min(place, services.log.head(AUDIT) + 1)
    rows: list[dict[str, Any]] = []
    following = None
    for looked_at, record in enumerate(_backwards(services, before)):
        if wanted.since_at is not None and record.at < wanted.since_at:
            break
        if len(rows) == limit or looked_at == _LOOKED_AT_MAX:
            following = str(record.position + 1)
            break
        row = audit_json(record, services.access)
        if (wanted.by is None or row["by"] == wanted.by) and (wanted.what is None or row["what"] == wanted.what):
            rows.append(row)
    return answer({"audit": rows, "next": following})


def _backwards(services: Services, before: int) -> Iterator[Record]:
    """The audit stream's records before a position, newest first."""
    while before > 1:
        first = max(1, before - _PAGE)
        yield from reversed(services.log.read(AUDIT, first, before - first))
        before = first
