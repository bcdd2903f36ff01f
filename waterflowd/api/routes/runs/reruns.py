"""Re-runs: a new run that reuses what need not run again.

Rules of this file: the engine decides what is reused (engine/rules/rerun.py). The new run has the plan, inputs, given `vars`,
ref and event of the earlier one. Its trigger is `rerun`, its author is the author of the request, and it names the earlier run.
With `at`, the file of another revision runs, if this daemon knows it. With `after`, what had succeeded after that event is
reused.
"""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Stalled
from waterflow_agent.wire.messages import KEPT_MS
from waterflowd.access.roles import check_plan, narrowed, trigger_of
from waterflowd.admin.ports import DefinitionPlan
from waterflowd.api.dependencies import Ports, Runner
from waterflowd.api.request_bodies import read_json
from waterflowd.api.responses import json_response, returns, takes
from waterflowd.api.runs import run_starts
from waterflowd.api.runs.run_lookup import read_run, resolve
from waterflowd.api.schemas.runs import RerunBody, RerunSchema, run_url
from waterflowd.api.services import Services
from waterflowd.engine import events
from waterflowd.engine.rules import rerun
from waterflowd.engine.state.runs import Run
from waterflowd.model import accesses
from waterflowd.model import inputs as input_checks
from waterflowd.model import plan as plans
from waterflowd.model.ids import JobId, RunId, run_stream
from waterflowd.model.records import Reused, RunFilter, RunSummary, StartRequest, Trigger, TriggerKind

router = APIRouter(tags=["runs"])


@router.post(
    "/v1/runs/{run_id}/rerun",
    status_code=201,
    openapi_extra=takes(RerunBody),
    responses={200: returns(RerunSchema), 201: returns(RerunSchema)},
)
async def rerun_run(request: Request, services: Ports, principal: Runner, run_id: str) -> Response:
    """Run a completed run again, completely or in part. With `dry_run`, only show what is reused and what would run."""
    earlier = await resolve(services, run_id)
    body = await read_json(request, RerunBody)
    if sum((body.failed, body.start is not None, bool(body.servers), body.after is not None)) > 1:
        text = "`failed`, `from`, `servers` and `after` exclude each other; use only one of them"
        raise Rejected("WF605", text, where="from")
    run = await read_run(services, earlier)
    past = await _run_after(services, run, body.after) if body.after is not None else None
    start_request = await _request(services, run, body)
    plan = run.plan if start_request.revision == run.revision else plans.decode(start_request.plan)
    check_plan(principal, plan)
    wish = rerun.RerunRequest(is_failed=body.failed, start=body.start, servers=tuple(body.servers))
    if past is None:
        selection = rerun.select(run, plan, wish)
        for job, problem in _missing_directories(services, run, selection).items():
            text = f"job {job} cannot start at a step: {problem}; run the whole job: waterflowctl rerun {run.id} --from {job}"
            raise Rejected("WF606", text, where="from", status=409)
    else:
        past_plan = past.plan if plan is run.plan else plan
        selection = rerun.select_after(past, past_plan)
        whole = _missing_directories(services, run, selection)
        if whole:
            selection = rerun.select_after(past, past_plan, whole)
    if body.dry_run:
        services.access.check_plan(start_request.repository, accesses.of_plan(plan))
        return json_response(RerunSchema.of(None, run, plan, start_request.revision, selection))
    key = run_starts.idempotency_key(request, principal)
    starter = trigger_of(principal, TriggerKind.RERUN, key=key)
    # A re-run follows from the earlier run, so it may use no group that the earlier run could not use.
    trigger = msgspec.structs.replace(
        start_request.trigger,
        by=starter.by,
        principal=starter.principal,
        scope=narrowed(starter.scope, run.trigger.scope),
        key=key,
    )
    inputs = (
        input_checks.check_start(plan.inputs, start_request.inputs) if plan is not run.plan else start_request.inputs
    )
    row = await services.runs.start(
        msgspec.structs.replace(start_request, trigger=trigger, inputs=inputs, reused=selection.reused)
    )
    if key is not None:
        await _check_same(services, row, earlier, selection.reused)
    if services.artifacts is not None:
        await services.artifacts.keep(row.id)
    await services.audit.action(principal, "rerun-run", earlier, run=row.id, reused=len(selection.reused_names))
    content = RerunSchema.of(row, run, plan, start_request.revision, selection)
    return json_response(content, 201, {"Location": run_url(row.id)})


def _missing_directories(services: Services, run: Run, selection: rerun.Selection) -> dict[str, str]:
    """The jobs that cannot continue in the directory of the earlier job, each with the reason."""
    if selection.reused is None:
        return {}
    agents = {row.fingerprint: row for row in services.agents.rows()}
    found = {}
    for name, kept in selection.reused.directories.items():
        agent = agents.get(kept.agent)
        problem = rerun.directory_problem(run.jobs_by_id[JobId(name)], services.clock.now(), KEPT_MS)
        if problem is None and agent is None:
            problem = f"its directory is on server {kept.agent_name}, which is no longer enrolled"
        elif problem is None and agent is not None and not agent.is_connected:
            problem = f"its directory is on server {kept.agent_name}, which is not connected"
        if problem is not None:
            found[name] = problem
    return found


async def _run_after(services: Services, run: Run, after: int) -> Run:
    """The run as it was after an event."""
    rerun.check_completed(run)
    if after > run.seq:
        text = f"`after` must be between 1 and {run.seq}, the last event of run {run.id}"
        raise Rejected("WF604", text, where="after", status=404)
    return await read_run(services, run.id, after)


async def _check_same(services: Services, row: RunSummary, earlier: RunId, reused: Reused | None) -> None:
    """A repeated key must come with the same request: otherwise a mistake of the client would stay unnoticed."""
    first = await services.history.read(run_stream(row.id), 1, 1)
    created = first[0].event if first else None
    # On Temporal a run that has just been started has no facts before its first turn.
    if isinstance(created, events.RunCreated) and (created.rerun_of, created.reused) != (earlier, reused):
        raise Rejected(
            "WF606", f"this `Idempotency-Key` started run {row.id} with another request; use a new key", status=409
        )


async def _request(services: Services, run: Run, body: RerunBody) -> StartRequest:
    """A request for the same run again, without an author, and without reuse."""
    old = run.trigger
    # The file sees the same event: a step with `if: event.name == 'push'` must not be skipped in a re-run.
    trigger = Trigger(kind=TriggerKind.RERUN, ref=old.ref, git=old.git, payload={"name": old.kind.value, **old.payload})
    plan, revision = await services.history.plan(run.plan_hash), run.revision
    if plan is None:
        raise Stalled("WF305", f"the plan of run {run.id} is missing from the log; run waterflowd fsck")
    if body.at is not None and not (run.revision or "").startswith(body.at.lower()):
        found = await _plan_at(services, run, body.at.lower())
        plan, revision = found.plan, found.revision
        trigger = msgspec.structs.replace(trigger, ref=found.ref, git=found.git)
    return StartRequest(
        plan=plan,
        trigger=trigger,
        repository=run.repository,
        revision=revision,
        inputs=run.inputs,
        vars=run.start_vars,
        rerun_of=run.id,
    )


async def _plan_at(services: Services, run: Run, revision: str) -> DefinitionPlan:
    """The file at another revision: the one that is applied now, or that of an earlier run."""
    if run.repository is None:
        raise Rejected(
            "WF606",
            f"run {run.id} has no other revision, because its workflow was sent to the API",
            where="at",
            status=409,
        )
    path, repository = run.plan.path, run.repository
    newest = [
        row for row in await services.repositories.definitions() if (row.path, row.repository) == (path, repository)
    ]
    if any(row.revision.startswith(revision) for row in newest):
        return await services.repositories.plan(path, repository)
    selected = RunFilter(path=path, repository=repository, revision=revision)
    rows, _ = await services.history.runs(selected, limit=1)
    earlier = (await services.history.read(run_stream(rows[0].id), 1, 1))[0].event if rows else None
    plan = await services.history.plan(earlier.plan_hash) if isinstance(earlier, events.RunCreated) else None
    if not isinstance(earlier, events.RunCreated) or plan is None:
        known = f"; the newest is {newest[0].revision[:12]}" if newest else ""
        text = (
            f"this daemon has no plan of {path} at {escape_for_display(revision, 64)}; "
            f"`at` must be the revision that is applied now, or that of an earlier run{known}"
        )
        raise Rejected("WF606", text, where="at", status=409)
    return DefinitionPlan(
        plan=plan,
        repository=repository,
        revision=earlier.revision or "",
        ref=earlier.trigger.ref,
        git=earlier.trigger.git,
    )
