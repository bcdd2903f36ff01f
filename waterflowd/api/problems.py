"""Error responses: `application/problem+json` (RFC 9457) with a stable code and the next action.

Rules of this file: text from outside is shortened and its control characters are escaped before it is echoed. An unexpected
exception is a bug: the server logs it with its traceback, and the client gets a 500 without internal details.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflowd.api.schemas.problems import FileErrorSchema, ProblemSchema
from waterflowd.dsl.reporting.diagnostics import Diagnostic

_encoder = msgspec.json.Encoder()
MEDIA_TYPE = "application/problem+json"
#: Codes of the errors that the router and the body readers report by status only.
_CODES = {
    400: "WF605",
    401: "WF601",
    403: "WF602",
    404: "WF604",
    405: "WF605",
    408: "WF605",
    409: "WF606",
    413: "WF607",
    415: "WF608",
    422: "WF100",
    429: "WF609",
    507: "WF302",
}


class InvalidWorkflow(Exception):
    """A workflow is not valid: 422 with all its errors."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__(f"{len(diagnostics)} errors")
        self.diagnostics = diagnostics


def problem(
    status: int,
    detail: str,
    *,
    code: str | None = None,
    instance: str = "",
    errors: Sequence[Diagnostic] | None = None,
    where: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Builds the response."""
    code = code or _CODES.get(status, "WF600")
    content = ProblemSchema(
        type=f"urn:waterflow:problem:{code.lower()}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=escape_for_display(instance),
        code=code,
        where=where,
        errors=[FileErrorSchema.of(error) for error in errors] if errors is not None else None,
    )
    return Response(_encoder.encode(content), status_code=status, headers=headers, media_type=MEDIA_TYPE)


def retry_after(after_s: float) -> str:
    """The value of `Retry-After`: whole seconds, at least one."""
    return str(max(1, math.ceil(after_s)))


async def _rejected(request: Request, error: Exception) -> Response:
    assert isinstance(error, Rejected)
    # For the audit trail; the middleware reads it after the answer was sent.
    request.state.refused_code = error.code
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    if error.after_s or error.is_limit:
        headers["Retry-After"] = retry_after(error.after_s)
    path = request.url.path
    return problem(error.status, error.text, code=error.code, instance=path, where=error.where, headers=headers)


async def _retryable(request: Request, error: Exception) -> Response:
    assert isinstance(error, Retryable)
    status = 507 if error.code == "WF302" else 503
    headers = {"Retry-After": retry_after(error.after_s)}
    return problem(status, error.text, code=error.code, instance=request.url.path, headers=headers)


async def _stalled(request: Request, error: Exception) -> Response:
    assert isinstance(error, Stalled)
    return problem(503, error.text, code=error.code, instance=request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidWorkflow)
    count = len(error.diagnostics)
    detail = "the workflow has 1 error" if count == 1 else f"the workflow has {count} errors"
    first = error.diagnostics[0].code if error.diagnostics else "WF100"
    return problem(422, detail, code=first, instance=request.url.path, errors=error.diagnostics)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404:
        detail = "no such path; /openapi.json lists all paths"
    elif error.status_code == 405:
        detail = f"method {request.method[:20]} is not allowed here; /openapi.json lists the methods"
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, escape_for_display(detail), instance=request.url.path, headers=headers)


async def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return problem(400, escape_for_display(f"{field}: {first['msg']}"), instance=request.url.path)


async def _bug(request: Request, error: Exception) -> Response:
    detail = "internal error: this is a bug in Waterflow; the traceback is in the daemon's log"
    return problem(500, detail, code="WF600", instance=request.url.path)


def install(app: FastAPI) -> None:
    """Makes `app` answer every error with a problem."""
    app.add_exception_handler(Rejected, _rejected)
    app.add_exception_handler(Retryable, _retryable)
    app.add_exception_handler(Stalled, _stalled)
    app.add_exception_handler(InvalidWorkflow, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _bug)
