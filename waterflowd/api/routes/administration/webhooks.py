"""Webhooks: a signed request from another program starts a workflow.

Rules of this file: the signature is the permission, so no token is needed. Clients that cannot sign learn nothing: an unknown
webhook, a webhook whose secret has no value, and a wrong signature get the same answer after the same work. The checks before
the signature (size, type, rate) do not depend on the webhook.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Path, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import Principal, Role
from waterflowd.api.access.auth import source_of
from waterflowd.api.dependencies import Ports
from waterflowd.api.request_bodies import check_values, content_type, parse_json, read_body
from waterflowd.api.responses import JSON_TYPE, json_response, returns
from waterflowd.api.schemas.runs import StartedRunSchema, run_url
from waterflowd.rates import BucketPerName

router = APIRouter(tags=["hooks"])

BODY_BYTES_MAX = 1 << 20
FORM_TYPE = "application/x-www-form-urlencoded"
#: The event that GitHub sends when a webhook is created.
PING = "ping"
#: Fields of a form.
_FIELDS_MAX = 1_000
#: Wrong signatures from one address: enough for a secret that was changed on one side only, too few for a search.
_WRONG_PER_S, _WRONG_BURST, _NAMES_MAX = 1.0, 20, 4_096


class SignatureFailures:
    """The rate of wrong signatures per address."""

    def __init__(self) -> None:
        self._rates = BucketPerName(_WRONG_PER_S, _WRONG_BURST, _NAMES_MAX)

    def reject(self, source: str, now: int) -> Rejected:
        """Counts one failure, and returns the error to answer with."""
        if self._rates.take(source, now):
            text = "the webhook does not exist, or the signature is wrong"
            return Rejected("WF601", text, status=401)
        return Rejected("WF611", "too many wrong signatures from this address; wait a minute", status=429)


async def _failures(request: Request) -> SignatureFailures:
    failures: SignatureFailures = request.app.state.signature_failures
    return failures


@router.post(
    "/v1/hooks/{name}",
    status_code=202,
    openapi_extra={
        "x-signed": True,
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": {"type": "object"}} for kind in (JSON_TYPE, FORM_TYPE)},
        },
    },
    responses={202: returns(StartedRunSchema), 204: {"description": "A ping from GitHub; nothing starts."}},
)
async def deliver(
    request: Request,
    services: Ports,
    failures: Annotated[SignatureFailures, Depends(_failures)],
    name: Annotated[str, Path(max_length=200)],
) -> Response:
    """Start the workflow with this webhook. Signed with `X-Hub-Signature-256`. A repeated delivery starts nothing."""
    kind = content_type(request)
    if kind not in (JSON_TYPE, FORM_TYPE):
        raise Rejected("WF608", f"send the payload as `{JSON_TYPE}` or `{FORM_TYPE}`", status=415)
    body = await read_body(request, BODY_BYTES_MAX)
    delivered = services.webhooks.verify(name, request.headers, body)
    if delivered is None:
        raise failures.reject(source_of(request.scope), services.clock.now())
    if delivered.delivery.event == PING:
        return Response(status_code=204)
    row, is_new = await services.webhooks.start(delivered, _payload(kind, body))
    if is_new:
        principal = Principal(name=f"hook:{name}", role=Role.VIEWER)
        await services.audit.action(principal, "start-run", delivered.path, run=row.id, delivery=delivered.delivery.id)
    return json_response(StartedRunSchema.of(row), 202, {"Location": run_url(row.id)})


def _payload(kind: str, body: bytes) -> Any:
    payload = parse_json(body, Any) if kind == JSON_TYPE else _form(body)
    check_values(payload, "payload")
    return payload


def _form(body: bytes) -> Any:
    """The fields of a form. GitHub sends one field, `payload`, that holds the JSON."""
    try:
        fields = parse_qs(
            body.decode(),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError as error:
        raise Rejected("WF605", "the body is not a valid form") from error
    if list(fields) == ["payload"] and len(fields["payload"]) == 1:
        return parse_json(fields["payload"][0].encode(), Any)
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
