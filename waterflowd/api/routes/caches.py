"""The cache entries that steps have saved: a list, and their removal."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.api.dependencies import Approver, Ports, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, page
from waterflowd.api.responses import json_response, returns
from waterflowd.api.routes.repositories import check_access
from waterflowd.api.schemas.caches import CacheListSchema, CacheSchema, DeletedCacheSchema, DeletedCachesSchema
from waterflowd.api.services import Services
from waterflowd.artifacts.caches.admin import CacheAdmin
from waterflowd.artifacts.caches.store import CacheEntry

router = APIRouter(tags=["repositories"])

#: Deleted entries that an answer names.
NAMED_MAX = 100
_CURSOR_LENGTH_MAX = 200
Repository = Annotated[str | None, Query(max_length=200, description="Only those of this repository.")]
Ref = Annotated[str | None, Query(max_length=1_000, description="Only those of this branch or tag, by its full name.")]
Prefix = Annotated[str, Query(max_length=512, description="Only those whose key begins with this text.")]
Key = Annotated[str | None, Query(max_length=512, description="Only those with this key.")]


@router.get("/v1/caches", responses={200: returns(CacheListSchema), 404: {}})
async def list_caches(
    services: Ports,
    _: Viewer,
    repository: Repository = None,
    ref: Ref = None,
    prefix: Prefix = "",
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """Cache entries, by repository and key."""
    found = await _admin(services).entries(repository, ref, prefix)
    rows, following = page(found, _order, limit, cursor)
    return json_response(CacheListSchema(caches=[CacheSchema.of(row) for row in rows], next=following))


@router.delete("/v1/caches", responses={200: returns(DeletedCachesSchema), 404: {}})
async def delete_caches(
    services: Ports, principal: Approver, repository: Repository = None, ref: Ref = None, key: Key = None
) -> Response:
    """Delete cache entries of a repository: those with a key, of a ref, or all. Later runs make them again."""
    if repository is None:
        raise Rejected("WF605", "repository is required", where="repository")
    admin = _admin(services)
    check_access(services, principal, repository)
    deleted = await admin.delete(repository, ref, key)
    if key is not None and not deleted:
        text = f'repository "{escape_for_display(repository, 80)}" has no cache "{escape_for_display(key, 80)}"'
        raise Rejected("WF604", text, where="key", status=404)
    await services.audit.action(principal, "delete-caches", repository, key=key, ref=ref, deleted=len(deleted))
    named = [DeletedCacheSchema.of(record) for record in deleted[:NAMED_MAX]]
    return json_response(DeletedCachesSchema(deleted=len(deleted), caches=named))


def _order(entry: CacheEntry) -> str:
    record = entry.record
    return f"{record.repository} {record.key}"[:_CURSOR_LENGTH_MAX] + f" {record.name}"


def _admin(services: Services) -> CacheAdmin:
    if services.caches is None:
        raise Rejected("WF335", "shared caches are not available on the Temporal engine", status=404)
    return services.caches
