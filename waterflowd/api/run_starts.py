"""From a request to a start: what may be sent, how it is checked, and what comes back."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from waterflow_agent.errors import Rejected
from waterflowd.access.registry import Principal, check_plan
from waterflowd.api import unknown_nodes
from waterflowd.api.problems import Invalid
from waterflowd.api.request_bodies import (
    JSON_TYPE,
    YAML_TYPES,
    answer,
    check_values,
    checked_path,
    content_type,
    parse_json,
    read_body,
)
from waterflowd.api.services import Services
from waterflowd.api.views.rendering import run_url
from waterflowd.engine import events
from waterflowd.model import plan as plans
from waterflowd.model.ids import run_stream
from waterflowd.model.inputs import check_start
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind

#: What a file is called that came without a name.
DEFAULT_PATH = "workflow.yml"
_KEY_LENGTH_MAX = 200


class SentFile(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON form of a workflow that is sent."""

    yaml: str
    vars: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    dry_run: bool = False
    #: Under which name it is known; runs of one name are numbered together.
    path: str = DEFAULT_PATH


class Given(msgspec.Struct, forbid_unknown_fields=True):
    """What is given to a start of a known workflow."""

    inputs: dict[str, Any] = {}
    vars: dict[str, Any] = {}
    dry_run: bool = False


async def read_file(request: Request, path: str | None) -> SentFile:
    """The workflow in the body, as YAML or as JSON; `path` is the query's and wins."""
    kind = content_type(request)
    if kind in YAML_TYPES:
        body = await read_body(request)
        if not body.strip():
            raise Rejected("WF605", "the body is empty; send the workflow: curl --data-binary @file")
        sent = SentFile(yaml=body.decode("utf-8", "surrogateescape"))
    elif kind == JSON_TYPE:
        sent = parse_json(await read_body(request), SentFile)
    else:
        raise Rejected(
            "WF608",
            'send the workflow with `Content-Type: application/yaml`: curl -H "Content-Type: application/yaml"'
            " --data-binary @file (or as JSON with the key `yaml`)",
            status=415,
        )
    check_values(sent.inputs, "inputs")
    check_values(sent.vars, "vars")
    sent.path = checked_path(path if path is not None else sent.path)
    return sent


async def compile_file(services: Services, sent: SentFile) -> bytes:
    """The plan of a sent file; raises `Invalid` with every error."""
    compiled = await services.compiler.compile(sent.path, sent.yaml.encode("utf-8", "surrogateescape"))
    if compiled.plan is None:
        raise Invalid(compiled.diagnostics)
    if errors := list(unknown_nodes.unseen(plans.decode(compiled.plan), services.agents.rows())):
        raise Invalid(errors)
    return compiled.plan


def idempotency_key(request: Request, principal: Principal) -> str | None:
    """The trigger key that the client gave, apart from everybody else's."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not key or len(key) > _KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
        raise Rejected(
            "WF605",
            f"`Idempotency-Key` is 1 to {_KEY_LENGTH_MAX} printable ASCII characters",
            where="Idempotency-Key",
        )
    return f"api/{principal.name}/{key}"


def trigger_kind(request: Request) -> TriggerKind:
    """`cli` for our own command, `api` for everything else."""
    return TriggerKind.CLI if request.headers.get("user-agent", "").startswith("waterflowctl/") else TriggerKind.API


async def start(services: Services, principal: Principal, request: StartRequest, *, is_dry_run: bool) -> Response:
    """Checks the last things, starts the run, and answers when it is durable."""
    plan = plans.decode(request.plan)
    check_plan(principal, plan)
    if plan.triggers.is_only_called:
        text = (
            f'the workflow "{plan.name}" is only called: its `on` has workflow_call alone; next: add workflow_dispatch to'
            " `on`, or start it from another workflow, by `uses` of a job or a step with workflow/run"
        )
        raise Rejected("WF605", text, where="on", status=422)
    inputs = check_start(plan.inputs, request.inputs)
    request = msgspec.structs.replace(request, inputs=inputs)
    if is_dry_run:
        return answer({"valid": True, "name": plan.name, "path": plan.path, "inputs": inputs, "status": "not-started"})
    key = request.trigger.key
    earlier = services.log.run_for_key(key) if key is not None else None
    row = await services.runs.start(request)
    if earlier is not None:
        _check_same(services, row, request)
    return answer(started_json(row), 201, {"Location": run_url(row.id)})


def run_of(answered: Response) -> str:
    """The id of the run that was started, from the answer."""
    return answered.headers["location"].rpartition("/")[2]


def started_json(row: RunSummary) -> dict[str, Any]:
    """What a start answers."""
    return {"id": row.id, "number": row.number, "name": row.name, "status": row.status.value, "url": run_url(row.id)}


def _check_same(services: Services, row: RunSummary, request: StartRequest) -> None:
    """A key that comes again must come with the same request: anything else is a slip that would be swallowed."""
    first = services.log.read(run_stream(row.id), 1, 1)
    created = first[0].event if first else None
    if not isinstance(created, events.RunCreated):
        return
    if created.plan_hash != plans.content_hash(request.plan) or created.inputs != request.inputs:
        raise Rejected(
            "WF606",
            f"this `Idempotency-Key` has started run {row.id} with another workflow or other inputs; use a new key",
            status=409,
        )


def trigger_of(request: Request, principal: Principal, kind: TriggerKind) -> Trigger:
    """Who starts, how, and under which key."""
    return Trigger(kind=kind, by=principal.name, key=idempotency_key(request, principal))
