"""`/openapi.json`: what the routes say of themselves, and what is true of all of them.

Rules of this file: an answer that can be given stands in the description, with its content type. Errors are problems
(problems.py), whatever the framework says by itself. A test holds the description against the running daemon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIRouter

from waterflowd.access.registry import Role
from waterflowd.api.gate import PUBLIC, ROLE_OF
from waterflowd.api.problems import MEDIA_TYPE

_TEXTS = {
    400: "malformed",
    401: "no token, or one that is unknown, revoked or expired",
    403: "the role or the groups do not allow it; or `Host` or `Origin` is not this daemon's",
    404: "it does not exist",
    408: "the body did not arrive in time",
    409: "ambiguous, or in conflict with what is there",
    413: "the body is too large",
    415: "another content type than is taken here",
    422: "a workflow that does not validate, or inputs that do not fit",
    429: "too much at once",
    503: "stopping, or not possible at the moment",
    507: "the disk is full; nothing was changed",
}
_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Makes `app` describe itself so; `routers` are all that it includes."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(made(), routers)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def routes(routers: Sequence[APIRouter]) -> Iterator[tuple[str, str, Role | None]]:
    """(method, path, role) of every route, those under an older name too; None where nobody needs to be known."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                role = _role(route.dependant)
                yield from ((method, route.path_format, role) for method in sorted(route.methods or ()))


def _role(dependant: Dependant) -> Role | None:
    roles = [ROLE_OF[inner.call] for inner in dependant.dependencies if inner.call in ROLE_OF]
    return max(roles, default=None)


def _completed(document: dict[str, Any], routers: Sequence[APIRouter]) -> dict[str, Any]:
    roles = {(method.lower(), path): role for method, path, role in routes(routers)}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete(operation, method, path, roles[method, path])
    components = document["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return document


def _complete(operation: dict[str, Any], method: str, path: str, role: Role | None) -> None:
    if path not in PUBLIC and "x-signed" not in operation:
        operation["security"] = [{"token": []}]
    if role is not None:
        operation["x-role"] = role.word
        operation["description"] = f"{operation.get('description', '')}\n\nNeeds the role {role.word}.".strip()
    responses = operation["responses"]
    said = {status for status in responses if status.isdecimal() and int(status) >= 400}
    body = operation.get("requestBody", {}).get("content", {})
    possible = {400, 403, 429, 503}
    possible |= {401} if path not in PUBLIC else set()
    # Ids may be shortened, and a beginning may be several's.
    possible |= {404, 409} if "{" in path else set()
    possible |= {408, 413, 415} if body else set()
    possible |= {409, 507} if method != "get" else {507} if path == "/ready" else set()
    is_workflow = "application/yaml" in body or path.endswith(("/run", "/rerun"))
    possible |= {int(status) for status in said if status != "422"} | ({422} if is_workflow else set())
    for status in said:
        del responses[status]
    for number in sorted(possible):
        responses[str(number)] = {"description": _TEXTS[number], "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
