"""Repositories, and the workflows that are known from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from waterflow_agent.display import escape_for_display, quote
from waterflow_agent.errors import Rejected
from waterflowd.access.audit_trail import note
from waterflowd.admin.ports import DefinitionRow
from waterflowd.api import run_starts
from waterflowd.api.gate import Approver, Ports, Runner, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, page
from waterflowd.api.request_bodies import answer, check_values, described, read_json
from waterflowd.api.run_lookup import Text
from waterflowd.api.services import Services
from waterflowd.api.views.rendering import definition_json, repository_json
from waterflowd.api.views.shapes import (
    DefinitionList,
    DefinitionShape,
    DryRunShape,
    RepositoryList,
    RepositoryShape,
    StartedShape,
)
from waterflowd.model.records import StartRequest, Trigger, TriggerKind

router = APIRouter(tags=["repositories"])

Wait = Annotated[bool, Query(description="answer when the newest revision is applied")]


@router.get("/v1/repositories", responses={200: {"model": RepositoryList}})
async def list_repositories(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """Watched repositories: what was fetched, tried and applied."""
    rows = services.repositories.status()
    return answer(page("repositories", rows, lambda row: row.name, repository_json, limit=limit, cursor=cursor))


@router.post("/v1/repositories/{name}/sync", status_code=202, responses={202: {"model": RepositoryShape}})
async def sync_repository(services: Ports, principal: Approver, name: str, wait: Wait = False) -> Response:
    """Looks at the remote now; with `wait` answers when what was found is applied."""
    _check_known(services, name)
    row = await services.repositories.sync(name, is_awaited=wait)
    await note(services, principal, "sync-repository", name)
    return answer(repository_json(row), 202)


@router.post("/v1/repositories/{name}/suspend", responses={200: {"model": RepositoryShape}})
async def suspend_repository(services: Ports, principal: Approver, name: str) -> Response:
    """Stops looking at a repository until it is resumed, across restarts too. Its runs go on."""
    _check_known(services, name)
    row = await services.repositories.suspend(name, principal.name)
    await note(services, principal, "suspend-repository", name)
    return answer(repository_json(row))


@router.post("/v1/repositories/{name}/resume", responses={200: {"model": RepositoryShape}})
async def resume_repository(services: Ports, principal: Approver, name: str) -> Response:
    """Looks at a suspended repository again, at once: what was pushed meanwhile is handled as one movement."""
    _check_known(services, name)
    row = await services.repositories.resume(name, principal.name)
    await note(services, principal, "resume-repository", name)
    return answer(repository_json(row))


def _check_known(services: Services, name: str) -> None:
    names = [row.name for row in services.repositories.status()]
    if name not in names:
        known = escape_for_display(", ".join(names) or "none")
        text = f"there is no repository {quote(name)}; the repositories are: {known}"
        raise Rejected("WF604", text, status=404)


@router.get("/v1/definitions", responses={200: {"model": DefinitionList}})
async def list_definitions(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """Workflows known from repositories, by path."""
    rows = services.repositories.definitions()
    return answer(page("definitions", rows, _place, definition_json, limit=limit, cursor=cursor))


def _place(row: DefinitionRow) -> str:
    return f"{row.path} {row.repository}"


@router.get("/v1/definitions/{path:path}", responses={200: {"model": DefinitionShape}})
async def show_definition(services: Ports, _: Viewer, path: str, repository: Text = None) -> Response:
    """One workflow, by its path or its name."""
    return answer(definition_json(find_definition(services.repositories.definitions(), path, repository)))


def find_definition(rows: Sequence[DefinitionRow], path: str, repository: str | None) -> DefinitionRow:
    """The definition with this path, else with this name; `Rejected` 404 for none, 409 for several."""
    candidates = [row for row in rows if repository is None or row.repository == repository]
    found = [row for row in candidates if row.path == path] or [row for row in candidates if row.name == path]
    shown = escape_for_display(path, 80)
    if not found:
        raise Rejected("WF604", f'there is no workflow "{shown}"; see `waterflowctl workflows`', status=404)
    if len(found) > 1:
        places = ", ".join(f"{row.path} in {row.repository}" for row in found[:5])
        raise Rejected(
            "WF606", f'several workflows are called "{shown}": {places}; use the path and `?repository=`', status=409
        )
    return found[0]


@router.post(
    "/v1/definitions/{path:path}/run",
    status_code=201,
    openapi_extra=described(run_starts.Given),
    responses={200: {"model": DryRunShape}, 201: {"model": StartedShape}},
)
async def run_definition(
    request: Request, services: Ports, principal: Runner, path: str, repository: Text = None
) -> Response:
    """Starts a known workflow by hand, with inputs and vars."""
    given = await read_json(request, run_starts.Given)
    check_values(given.inputs, "inputs")
    check_values(given.vars, "vars")
    row = find_definition(services.repositories.definitions(), path, repository)
    found = services.repositories.plan(row.path, row.repository)
    key = run_starts.idempotency_key(request, principal)
    wanted = StartRequest(
        plan=found.plan,
        trigger=Trigger(kind=TriggerKind.MANUAL, by=principal.name, key=key, ref=found.ref, git=found.git),
        repository=found.repository,
        revision=found.revision,
        inputs=given.inputs,
        vars=given.vars,
    )
    answered = await run_starts.start(services, principal, wanted, is_dry_run=given.dry_run)
    if not given.dry_run:
        await note(services, principal, "start-run", row.path, run=run_starts.run_of(answered))
    return answered
