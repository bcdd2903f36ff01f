"""Running again: a new run that keeps what need not be done again.

Rules of this file: the engine says what is kept (engine/rules/rerun.py); here the new run gets its plan, the inputs, the `vars`
that were given, the ref and the event of the old one. Its trigger is `rerun`, by whoever asked, and it names the
run that it repeats. With `at` the file of another revision runs, as far as this daemon knows it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request, Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Stalled
from waterflowd.access.audit_trail import note
from waterflowd.access.registry import check_plan
from waterflowd.admin.ports import DefinitionPlan
from waterflowd.api import run_starts
from waterflowd.api.gate import Ports, Runner
from waterflowd.api.request_bodies import answer, described, read_json
from waterflowd.api.run_lookup import read_run, resolve
from waterflowd.api.services import Services
from waterflowd.api.views.rendering import run_url
from waterflowd.api.views.shapes import RerunShape
from waterflowd.engine import events
from waterflowd.engine.rules import rerun
from waterflowd.engine.state.runs import Run
from waterflowd.model import plan as plans
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.inputs import check_start
from waterflowd.model.records import Kept, RunSummary, StartRequest, Trigger, TriggerKind

router = APIRouter(tags=["runs"])

#: Names of what is kept and done again in one answer.
NAMES_MAX = 1_000
_Revision = Annotated[str, msgspec.Meta(min_length=4, max_length=64)]


class RerunBody(msgspec.Struct, forbid_unknown_fields=True):
    """What is done again; without `failed`, `from` and `servers` everything is."""

    #: Only what did not succeed, and what comes after it.
    failed: bool = False
    #: `JOB`, `JOB/STEP`, or a step that only one job has.
    start: Annotated[str, msgspec.Meta(max_length=4_000)] | None = msgspec.field(name="from", default=None)
    #: `failed`, `not-reached`: of jobs on each server, those alone.
    servers: Annotated[list[str], msgspec.Meta(max_length=2)] = []
    #: The revision whose file runs.
    at: _Revision | None = None
    #: Say what would be kept, and start nothing.
    dry_run: bool = False


@router.post(
    "/v1/runs/{run_id}/rerun",
    status_code=201,
    openapi_extra=described(RerunBody),
    responses={200: {"model": RerunShape}, 201: {"model": RerunShape}},
)
async def rerun_run(request: Request, services: Ports, principal: Runner, run_id: str) -> Response:
    """Runs a completed run again, as a whole or in part; with `dry_run` only says what is kept and what is done again."""
    identity = resolve(services, run_id)
    body = await read_json(request, RerunBody)
    if sum((body.failed, body.start is not None, bool(body.servers))) > 1:
        raise Rejected("WF605", "`failed`, `from` and `servers` exclude each other: give one of them", where="from")
    run = read_run(services, identity)
    wanted = _request(services, run, body)
    plan = run.plan if wanted.revision == run.revision else plans.decode(wanted.plan)
    check_plan(principal, plan)
    wish = rerun.Wish(is_failed=body.failed, start=body.start, servers=tuple(body.servers))
    selection = rerun.select(run, plan, wish)
    shown = {
        "rerun_of": identity,
        "revision": wanted.revision,
        "kept": selection.kept_names[:NAMES_MAX],
        "kept_total": len(selection.kept_names),
        "again": selection.again_names[:NAMES_MAX],
        "again_total": len(selection.again_names),
    }
    if body.dry_run:
        return answer({**_started(None, plan.name), **shown})
    key = run_starts.idempotency_key(request, principal)
    trigger = msgspec.structs.replace(wanted.trigger, by=principal.name, key=key)
    inputs = check_start(plan.inputs, wanted.inputs) if plan is not run.plan else wanted.inputs
    row = await services.runs.start(
        msgspec.structs.replace(wanted, trigger=trigger, inputs=inputs, kept=selection.kept)
    )
    if key is not None:
        _check_same(services, row, identity, selection.kept)
    await note(services, principal, "rerun-run", identity, run=row.id, kept=len(selection.kept_names))
    return answer({**_started(row, row.name), **shown}, 201, {"Location": run_url(row.id)})


def _started(row: RunSummary | None, name: str) -> dict[str, Any]:
    if row is None:
        return {"id": None, "number": None, "name": name, "status": "not-started", "url": None}
    return run_starts.started_json(row)


def _check_same(services: Services, row: RunSummary, identity: RunId, kept: Kept | None) -> None:
    """A key that comes again must come with the same request: anything else is a slip that would be swallowed."""
    created = services.log.read(run_stream(row.id), 1, 1)[0].event
    if not isinstance(created, events.RunCreated) or (created.rerun_of, created.kept) != (identity, kept):
        raise Rejected("WF606", f"this `Idempotency-Key` has started run {row.id}; use a new key", status=409)


def _request(services: Services, run: Run, body: RerunBody) -> StartRequest:
    """The start of the same thing again, for nobody yet and with nothing kept."""
    old = run.trigger
    # For the file it is the same event: a step that asks for `event.name == 'push'` is not skipped by being done again.
    trigger = Trigger(kind=TriggerKind.RERUN, ref=old.ref, git=old.git, payload={"name": old.kind.value, **old.payload})
    plan, revision = services.log.plan(run.plan_hash), run.revision
    if plan is None:
        raise Stalled("WF305", f"the plan of run {run.id} is missing from the store; run waterflowd fsck")
    if body.at is not None and not (run.revision or "").startswith(body.at.lower()):
        found = _at(services, run, body.at.lower())
        plan, revision = found.plan, found.revision
        trigger = msgspec.structs.replace(trigger, ref=found.ref, git=found.git)
    return StartRequest(
        plan=plan,
        trigger=trigger,
        repository=run.repository,
        revision=revision,
        inputs=run.inputs,
        vars=run.given_vars,
        rerun_of=run.id,
    )


def _at(services: Services, run: Run, revision: str) -> DefinitionPlan:
    """The file at another revision: the one that is applied now, or one of which there has been a run."""
    if run.repository is None:
        raise Rejected(
            "WF606", f"run {run.id} is of a file that was sent: it has no other revision", where="at", status=409
        )
    path, repository = run.plan.path, run.repository
    newest = [row for row in services.repositories.definitions() if (row.path, row.repository) == (path, repository)]
    if any(row.revision.startswith(revision) for row in newest):
        return services.repositories.plan(path, repository)

    def fits(row: RunSummary) -> bool:
        return (row.path, row.repository) == (path, repository) and (row.revision or "").startswith(revision)

    rows, _ = services.log.runs(before=None, limit=1, accept=fits)
    earlier = services.reader.run(rows[0].id) if rows else None
    plan = services.log.plan(earlier.plan_hash) if earlier is not None else None
    if earlier is None or plan is None:
        known = f"; the newest is {newest[0].revision[:12]}" if newest else ""
        text = (
            f"this daemon has no plan of {path} at {escape_for_display(revision, 64)}: "
            f"`at` is the revision that is applied now, or one of an earlier run{known}"
        )
        raise Rejected("WF606", text, where="at", status=409)
    return DefinitionPlan(
        plan=plan,
        repository=repository,
        revision=earlier.revision or "",
        ref=earlier.trigger.ref,
        git=earlier.trigger.git,
    )
