"""Starting runs: reading and compiling a workflow that is sent, checking the request, and making it idempotent."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import Principal, check_plan, trigger_of
from waterflowd.api.access.auth import ADMISSION
from waterflowd.api.disconnects import while_connected
from waterflowd.api.problems import InvalidWorkflow
from waterflowd.api.request_bodies import YAML_TYPES, check_path, check_values, content_type, parse_json, read_body
from waterflowd.api.responses import JSON_TYPE, json_response
from waterflowd.api.schemas.runs import DryRunSchema, StartRunBody
from waterflowd.api.services import Services
from waterflowd.api.unknown_nodes import unknown_nodes
from waterflowd.engine import events
from waterflowd.model import accesses
from waterflowd.model import inputs as input_checks
from waterflowd.model import plan as plans
from waterflowd.model.ids import run_stream
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind
from waterflowd.ports import Compiler, FileReader

_KEY_LENGTH_MAX = 200

_Body = TypeVar("_Body", bound=StartRunBody)


async def read_workflow(request: Request, path: str | None, body_type: type[_Body]) -> _Body:
    """The workflow in the body, as YAML or as JSON. `path` comes from the query and takes precedence."""
    kind = content_type(request)
    if kind in YAML_TYPES:
        body = await read_body(request)
        if not body.strip():
            raise Rejected("WF605", "the body is empty; send the workflow: curl --data-binary @file")
        sent = body_type(yaml=body.decode("utf-8", "surrogateescape"))
    elif kind == JSON_TYPE:
        sent = parse_json(await read_body(request), body_type)
    else:
        raise Rejected(
            "WF608",
            'send the workflow with `Content-Type: application/yaml`: curl -H "Content-Type: application/yaml"'
            " --data-binary @file (or as JSON with the key `yaml`)",
            status=415,
        )
    check_values(sent.inputs, "inputs")
    check_values(sent.vars, "vars")
    sent.path = check_path(path if path is not None else sent.path)
    return sent


async def compile_workflow(
    request: Request, services: Services, compiler: Compiler, sent: StartRunBody, files: FileReader | None = None
) -> bytes:
    """The plan of a workflow that was sent; raises `InvalidWorkflow` with every error. Stops when the client disconnects."""
    client: str = getattr(request.state, ADMISSION).client
    content = sent.yaml.encode("utf-8", "surrogateescape")
    compiled = await while_connected(request, compiler.compile(sent.path, content, files, client=client))
    if compiled.plan is None:
        raise InvalidWorkflow(compiled.diagnostics)
    if errors := list(unknown_nodes(plans.decode(compiled.plan), services.agents.rows())):
        raise InvalidWorkflow(errors)
    return compiled.plan


def idempotency_key(request: Request, principal: Principal) -> str | None:
    """The trigger key from the `Idempotency-Key` header. Keys of different principals never collide."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not key or len(key) > _KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
        raise Rejected(
            "WF605",
            f"`Idempotency-Key` must consist of 1 to {_KEY_LENGTH_MAX} printable ASCII characters",
            where="Idempotency-Key",
        )
    return f"api/{principal.name}/{key}"


def client_trigger(request: Request, principal: Principal) -> Trigger:
    """The trigger of a run whose workflow is sent: `cli` for our own command, `api` for other clients."""
    is_cli = request.headers.get("user-agent", "").startswith("waterflowctl/")
    kind = TriggerKind.CLI if is_cli else TriggerKind.API
    return trigger_of(principal, kind, key=idempotency_key(request, principal))


def check_start(principal: Principal, plan: plans.Plan, request: StartRequest) -> StartRequest:
    """The request with its inputs checked and typed; `Rejected` when the principal or the workflow does not permit it."""
    check_plan(principal, plan)
    if not plan.triggers.dispatch:
        raise Rejected("WF605", _not_dispatched(plan), where="on", status=422)
    return msgspec.structs.replace(request, inputs=input_checks.check_start(plan.inputs, request.inputs))


def _not_dispatched(plan: plans.Plan) -> str:
    """Why the workflow cannot be started by hand, and what would allow it."""
    if plan.triggers.is_only_called:
        return (
            f'workflow "{plan.name}" can only be called, because `workflow_call` is its only trigger; add workflow_dispatch'
            " to `on`, or call it with `uses` of a job, or with the node workflow/run"
        )
    others = " and ".join(plan.triggers.names)
    return (
        f'workflow "{plan.name}" cannot be started by hand: its `on` lists only {others}; add workflow_dispatch to `on`,'
        " or re-run one of its runs"
    )


def dry_run(services: Services, plan: plans.Plan, request: StartRequest) -> Response:
    """The answer for a checked request that is not started; refused as its start would be."""
    services.access.check_plan(request.repository, accesses.of_plan(plan))
    return json_response(DryRunSchema.of(plan, request.inputs))


async def start(services: Services, request: StartRequest) -> RunSummary:
    """Starts a checked request; durable when it returns. A repeated key returns the earlier run."""
    key = request.trigger.key
    earlier = await services.history.run_for_key(key, request.repository) if key is not None else None
    row = await services.runs.start(request)
    if earlier is not None:
        await _check_same(services, row, request)
    return row


async def _check_same(services: Services, row: RunSummary, request: StartRequest) -> None:
    """A repeated key must come with the same request: otherwise a mistake of the client would stay unnoticed."""
    first = await services.history.read(run_stream(row.id), 1, 1)
    created = first[0].event if first else None
    if not isinstance(created, events.RunCreated):
        return
    if created.plan_hash != plans.content_hash(request.plan) or created.inputs != request.inputs:
        raise Rejected(
            "WF606",
            f"this `Idempotency-Key` started run {row.id} with a different workflow or different inputs; use a new key",
            status=409,
        )
