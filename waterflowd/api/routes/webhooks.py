"""Webhooks: a signed request of another program starts a workflow.

Rules of this file: the signature is the whole permission, so no token is needed. Who cannot sign learns nothing: an unknown
hook, one whose secret has no value, and a wrong signature have one answer, after the same work. What is checked before the
signature (size, type, rate) does not depend on the hook.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Path, Request, Response

from waterflow_agent.errors import Rejected
from waterflowd.access.audit_trail import note
from waterflowd.access.registry import Principal, Role
from waterflowd.api.gate import Ports, source_of
from waterflowd.api.request_bodies import JSON_TYPE, answer, check_values, content_type, parse_json, read_body
from waterflowd.api.run_starts import started_json
from waterflowd.api.views.rendering import run_url
from waterflowd.api.views.shapes import StartedShape
from waterflowd.rates import BucketPerName

router = APIRouter(tags=["hooks"])

BODY_BYTES_MAX = 1 << 20
FORM_TYPE = "application/x-www-form-urlencoded"
#: What GitHub says once when a hook is made.
PING = "ping"
#: Fields of a form.
_FIELDS_MAX = 1_000
#: Wrong signatures of one address: a secret that was changed on one side only, but no search.
_WRONG_PER_S, _WRONG_BURST, _NAMES_MAX = 1.0, 20, 4_096


class WrongSignatures:
    """How many more wrong signatures an address may send."""

    def __init__(self) -> None:
        self._rates = BucketPerName(_WRONG_PER_S, _WRONG_BURST, _NAMES_MAX)

    def refuse(self, source: str, now: int) -> Rejected:
        """Counts one, and gives what to answer."""
        if self._rates.take(source, now):
            text = "there is no such webhook, or the signature is not right for it"
            return Rejected("WF601", text, status=401)
        return Rejected("WF611", "too many wrong signatures from this address; wait for a while", status=429)


async def _wrong(request: Request) -> WrongSignatures:
    wrong: WrongSignatures = request.app.state.wrong_signatures
    return wrong


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
    responses={202: {"model": StartedShape}, 204: {"description": "GitHub's ping: nothing starts"}},
)
async def deliver(
    request: Request,
    services: Ports,
    wrong: Annotated[WrongSignatures, Depends(_wrong)],
    name: Annotated[str, Path(max_length=200)],
) -> Response:
    """Starts the workflow with this webhook. Signed by `X-Hub-Signature-256`; a delivery that comes again starts nothing."""
    kind = content_type(request)
    if kind not in (JSON_TYPE, FORM_TYPE):
        raise Rejected("WF608", f"send the payload as `{JSON_TYPE}` or `{FORM_TYPE}`", status=415)
    body = await read_body(request, BODY_BYTES_MAX)
    delivered = services.webhooks.verify(name, request.headers, body)
    if delivered is None:
        raise wrong.refuse(source_of(request.scope), services.clock.now())
    if delivered.delivery.event == PING:
        return Response(status_code=204)
    row, is_new = await services.webhooks.start(delivered, _payload(kind, body))
    if is_new:
        principal = Principal(name=f"hook:{name}", role=Role.VIEWER)
        await note(services, principal, "start-run", delivered.path, run=row.id, delivery=delivered.delivery.id)
    return answer(started_json(row), 202, {"Location": run_url(row.id)})


def _payload(kind: str, body: bytes) -> Any:
    payload = parse_json(body, Any) if kind == JSON_TYPE else _form(body)
    check_values(payload, "payload")
    return payload


def _form(body: bytes) -> Any:
    """The fields of a form; GitHub's holds the JSON in one that is called `payload`."""
    try:
        fields = parse_qs(
            body.decode(),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError as error:
        raise Rejected("WF605", "the body is no form as its content type says") from error
    if list(fields) == ["payload"] and len(fields["payload"]) == 1:
        return parse_json(fields["payload"][0].encode(), Any)
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
