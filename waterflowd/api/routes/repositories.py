"""Repositories, and the workflows known from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response

from waterflow_agent.display import escape_for_display, quote
from waterflow_agent.errors import Rejected
from waterflowd.access import roles
from waterflowd.admin.ports import DefinitionRow
from waterflowd.api.dependencies import Approver, Ports, Runner, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, page
from waterflowd.api.request_bodies import check_values, read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.runs import run_starts
from waterflowd.api.runs.run_lookup import Text
from waterflowd.api.schemas.repositories import DefinitionList, DefinitionSchema, RepositoryList, RepositorySchema
from waterflowd.api.schemas.runs import DryRunSchema, StartDefinitionBody, StartedRunSchema, run_url
from waterflowd.api.services import Services
from waterflowd.model import plan as plans
from waterflowd.model.records import StartRequest, TriggerKind

router = APIRouter(tags=["repositories"])

Wait = Annotated[bool, Query(description="Answer only when the newest revision is applied.")]


@router.get("/v1/repositories", responses={200: returns(RepositoryList)})
async def list_repositories(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """Watched repositories, with the revisions that were fetched, attempted and applied."""
    rows, following = page(services.repositories.status(), lambda row: row.name, limit, cursor)
    return json_response(RepositoryList(repositories=[RepositorySchema.of(row) for row in rows], next=following))


@router.post("/v1/repositories/{name}/sync", status_code=202, responses={202: returns(RepositorySchema)})
async def sync_repository(services: Ports, principal: Approver, name: str, wait: Wait = False) -> Response:
    """Fetch the repository now. With `wait`, the answer comes when the newest revision is applied."""
    check_access(services, principal, name)
    row = await services.repositories.sync(name, is_awaited=wait)
    await services.audit.action(principal, "sync-repository", name)
    return json_response(RepositorySchema.of(row), 202)


@router.post("/v1/repositories/{name}/suspend", responses={200: returns(RepositorySchema)})
async def suspend_repository(services: Ports, principal: Approver, name: str) -> Response:
    """Ignore pushes to the repository until it is resumed, even across restarts. Its open runs continue."""
    check_access(services, principal, name)
    row = await services.repositories.suspend(name, principal.name)
    await services.audit.action(principal, "suspend-repository", name)
    return json_response(RepositorySchema.of(row))


@router.post("/v1/repositories/{name}/resume", responses={200: returns(RepositorySchema)})
async def resume_repository(services: Ports, principal: Approver, name: str) -> Response:
    """Resume a suspended repository at once. Everything that was pushed meanwhile counts as one update per ref."""
    check_access(services, principal, name)
    row = await services.repositories.resume(name, principal.name)
    await services.audit.action(principal, "resume-repository", name)
    return json_response(RepositorySchema.of(row))


def check_access(services: Services, principal: roles.Principal, name: str) -> None:
    """Raises `Rejected` 404 for an unknown repository, 403 for one that may use a group which the principal may not use.

    Fetching a repository starts runs, and a suspension stops them, on all of its groups.
    """
    rows = {row.name: row for row in services.repositories.status()}
    if name not in rows:
        known = escape_for_display(", ".join(rows) or "none")
        raise Rejected("WF604", f"repository {quote(name)} not found; configured repositories: {known}", status=404)
    roles.check_groups(principal, rows[name].groups)


@router.get("/v1/definitions", responses={200: returns(DefinitionList)})
async def list_definitions(services: Ports, _: Viewer, limit: Limit = ROWS_MAX, cursor: PageCursor = None) -> Response:
    """Workflows known from repositories, by path."""
    rows, following = page(await services.repositories.definitions(), _key, limit, cursor)
    return json_response(DefinitionList(definitions=[DefinitionSchema.of(row) for row in rows], next=following))


def _key(row: DefinitionRow) -> str:
    return f"{row.path} {row.repository}"


@router.get("/v1/definitions/{path:path}", responses={200: returns(DefinitionSchema)})
async def show_definition(services: Ports, _: Viewer, path: str, repository: Text = None) -> Response:
    """One workflow, by its path or name."""
    return json_response(
        DefinitionSchema.of(find_definition(await services.repositories.definitions(), path, repository))
    )


def find_definition(rows: Sequence[DefinitionRow], path: str, repository: str | None) -> DefinitionRow:
    """The workflow with this path, or else with this name; `Rejected` 404 for none, 409 for several."""
    candidates = [row for row in rows if repository is None or row.repository == repository]
    found = [row for row in candidates if row.path == path] or [row for row in candidates if row.name == path]
    displayed = escape_for_display(path, 80)
    if not found:
        text = f'workflow "{displayed}" not found; list workflows with `waterflowctl workflows`'
        raise Rejected("WF604", text, status=404)
    if len(found) > 1:
        matches = ", ".join(f"{row.path} in {row.repository}" for row in found[:5])
        text = f'several workflows are named "{displayed}": {matches}; use the path and `?repository=`'
        raise Rejected("WF606", text, status=409)
    return found[0]


@router.post(
    "/v1/definitions/{path:path}/run",
    status_code=201,
    openapi_extra=takes(StartDefinitionBody),
    responses={200: returns(DryRunSchema), 201: returns(StartedRunSchema)},
)
async def run_definition(
    request: Request, services: Ports, principal: Runner, path: str, repository: Text = None
) -> Response:
    """Start a known workflow, with inputs and vars."""
    body = await read_json(request, StartDefinitionBody)
    check_values(body.inputs, "inputs")
    check_values(body.vars, "vars")
    row = find_definition(await services.repositories.definitions(), path, repository)
    found = await services.repositories.plan(row.path, row.repository)
    plan = plans.decode(found.plan)
    key = run_starts.idempotency_key(request, principal)
    start_request = StartRequest(
        plan=found.plan,
        trigger=msgspec.structs.replace(
            roles.trigger_of(principal, TriggerKind.MANUAL, key=key), ref=found.ref, git=found.git
        ),
        repository=found.repository,
        revision=found.revision,
        inputs=body.inputs,
        vars=body.vars,
    )
    checked = run_starts.check_start(principal, plan, start_request)
    if body.dry_run:
        return run_starts.dry_run(services, plan, checked)
    run = await run_starts.start(services, checked)
    await services.audit.action(principal, "start-run", row.path, run=run.id)
    return json_response(StartedRunSchema.of(run), 201, {"Location": run_url(run.id)})
