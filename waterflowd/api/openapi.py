"""`/openapi.json`: the routes, the Structs that they take and return, and what is true of all of them.

Rules of this file: every possible answer is described, with its content type. Errors are problems (problems.py). An acceptance
test compares the description with the running daemon.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIRouter

from waterflowd.access.roles import Role
from waterflowd.api.access.auth import PUBLIC, SIGN_IN
from waterflowd.api.dependencies import ROLE_OF
from waterflowd.api.problems import MEDIA_TYPE
from waterflowd.api.responses import REF_TEMPLATE, Described, schema_name
from waterflowd.api.schemas.problems import ProblemSchema

_DESCRIPTIONS = {
    400: "The request is malformed.",
    401: "The token is missing, unknown, revoked or expired.",
    403: "The role or the groups of the token do not permit this, or `Host` or `Origin` is not this daemon.",
    404: "Not found.",
    408: "The body did not arrive in time.",
    409: "The name is ambiguous, or the request conflicts with the current state.",
    413: "The body is too large.",
    416: "The range begins behind the end.",
    415: "The content type is not supported here.",
    422: "The workflow or its inputs are not valid.",
    429: "Too many requests, streams or tokens.",
    503: "The daemon is stopping, or cannot do this at the moment.",
    507: "The disk is full; nothing was changed.",
}
_REF_PREFIX = REF_TEMPLATE.format(name="")
_PROBLEM = {"$ref": REF_TEMPLATE.format(name=schema_name(ProblemSchema.__name__))}


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Makes `app` serve this description; `routers` are all that it includes."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate(), routers)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def routes(routers: Sequence[APIRouter]) -> Iterator[tuple[str, str, Role | None]]:
    """(method, path, role) of every route, including older names; None for routes without authentication."""
    for route in _api_routes(routers):
        role = _role(route.dependant)
        yield from ((method, route.path_format, role) for method in sorted(route.methods or ()))


def _api_routes(routers: Sequence[APIRouter]) -> Iterator[APIRoute]:
    for router in routers:
        yield from (route for route in router.routes if isinstance(route, APIRoute))


def _role(dependant: Dependant) -> Role | None:
    return next((ROLE_OF[inner.call] for inner in dependant.dependencies if inner.call in ROLE_OF), None)


def _components(routers: Sequence[APIRouter]) -> dict[str, Any]:
    """The schemas of all Structs that routes declare."""
    bodies: list[Any] = []
    for route in _api_routes(routers):
        bodies += [*route.responses.values(), (route.openapi_extra or {}).get("requestBody")]
    types = {body.schema: None for body in bodies if isinstance(body, Described)}
    _, components = msgspec.json.schema_components([ProblemSchema, *types], ref_template=REF_TEMPLATE)
    for schema in components.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    named = {schema_name(name): _adapted(schema) for name, schema in components.items()}
    assert len(named) == len(components), "two classes have the same name in the document"
    return named


def _adapted(schema: Any) -> Any:
    """The schema with the document's names, and with `oneOf` for tagged unions, which match exactly one of their types."""
    if isinstance(schema, list):
        return [_adapted(item) for item in schema]
    if isinstance(schema, str):
        return schema_name(schema) if schema.startswith(_REF_PREFIX) else schema
    if not isinstance(schema, dict):
        return schema
    adapted = {key: _adapted(value) for key, value in schema.items()}
    if isinstance(title := adapted.get("title"), str):
        adapted["title"] = schema_name(title)
    if "discriminator" in adapted and "anyOf" in adapted:
        adapted["oneOf"] = adapted.pop("anyOf")
    return adapted


def _completed(document: dict[str, Any], routers: Sequence[APIRouter]) -> dict[str, Any]:
    roles = {(method.lower(), path): role for method, path, role in routes(routers)}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete(operation, method, path, roles[method, path])
    document["components"] = {
        "schemas": _components(routers),
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    }
    return document


def _complete(operation: dict[str, Any], method: str, path: str, role: Role | None) -> None:
    is_public = path in PUBLIC or (method == "post" and path == SIGN_IN)
    if not is_public and "x-signed" not in operation:
        operation["security"] = [{"token": []}]
    if role is not None:
        operation["x-role"] = role.value
        operation["description"] = f"{operation.get('description', '')}\n\nRequires role {role.value}.".strip()
    responses = operation["responses"]
    declared = {status for status in responses if status.isdecimal() and int(status) >= 400}
    body = operation.get("requestBody", {}).get("content", {})
    possible = {400, 403, 429, 503}
    possible |= {401} if path not in PUBLIC else set()
    # Ids may be abbreviated, and a prefix may be ambiguous.
    possible |= {404, 409} if "{" in path else set()
    possible |= {408, 413, 415} if body else set()
    possible |= {409, 507} if method != "get" else {507} if path == "/ready" else set()
    is_workflow = "application/yaml" in body or path.endswith(("/run", "/rerun"))
    # FastAPI declares its own 422, which is a 400 here.
    possible |= {int(status) for status in declared if status != "422"} | ({422} if is_workflow else set())
    for status in declared:
        del responses[status]
    for number in sorted(possible):
        responses[str(number)] = {"description": _DESCRIPTIONS[number], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
