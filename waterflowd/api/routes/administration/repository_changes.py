"""Repositories that are added, changed and removed while the daemon runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.access import roles
from waterflowd.admin.ports import RepositoryChanger, RepositoryRow
from waterflowd.api.dependencies import Admin, Ports
from waterflowd.api.request_bodies import read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.routes.repositories import check_access
from waterflowd.api.schemas.repositories import (
    RemovedRepositorySchema,
    RepositoryBody,
    RepositoryChangeBody,
    RepositorySchema,
)
from waterflowd.api.services import Services

router = APIRouter(tags=["repositories"])

Force = Annotated[bool, Query(description="Cancel the open runs of the repository.")]


@router.post(
    "/v1/repositories",
    status_code=201,
    openapi_extra=takes(RepositoryBody),
    responses={201: returns(RepositorySchema), 422: {}},
)
async def add_repository(request: Request, services: Ports, principal: Admin) -> Response:
    """Watch one more repository. What it holds now is recorded; pushes start runs from then on. Idempotent."""
    body = await read_json(request, RepositoryBody)
    roles.check_groups(principal, body.groups or ("*",))
    row = await _changer(services).add(body.name, body.request(), principal.name)
    await services.audit.action(principal, "add-repository", row.name, **_facts(row))
    return json_response(RepositorySchema.of(row), 201)


@router.patch(
    "/v1/repositories/{name}",
    openapi_extra=takes(RepositoryChangeBody),
    responses={200: returns(RepositorySchema), 422: {}},
)
async def change_repository(request: Request, services: Ports, principal: Admin, name: str) -> Response:
    """Change settings of a repository that was added through the API. With another URL it begins anew."""
    body = await read_json(request, RepositoryChangeBody)
    changer = _changer(services)
    check_access(services, principal, name)
    if body.groups is not None:
        # No group at all means the default, which is any group.
        roles.check_groups(principal, body.groups)
    row = await changer.change(name, body.request(), principal.name)
    await services.audit.action(principal, "set-repository", row.name, **_facts(row))
    return json_response(RepositorySchema.of(row))


@router.delete("/v1/repositories/{name}", responses={200: returns(RemovedRepositorySchema)})
async def remove_repository(services: Ports, principal: Admin, name: str, force: Force = False) -> Response:
    """Remove a repository that was added through the API. Its runs and their numbers stay."""
    changer = _changer(services)
    check_access(services, principal, name)
    cancelled = await changer.remove(name, principal.name, is_forced=force)
    await services.audit.action(principal, "remove-repository", name, cancelled_runs=cancelled)
    return json_response(RemovedRepositorySchema(name=name, cancelled_runs=cancelled))


def _changer(services: Services) -> RepositoryChanger:
    if services.repository_changes is None:
        raise Rejected(
            "WF606",
            'with engine = "temporal", several daemons may share the runs, and each has the repositories of its own'
            " configuration; add [[repositories]] to waterflowd.toml of every daemon and restart it",
            status=409,
        )
    return services.repository_changes


def _facts(row: RepositoryRow) -> dict[str, str | list[str]]:
    return {"url": row.url, "groups": list(row.groups), "readable_by": list(row.readable_by)}
