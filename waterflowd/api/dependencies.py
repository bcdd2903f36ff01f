"""What routes depend on: the services, and a principal with a role that permits the request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import Principal, Role
from waterflowd.api.services import Services


def _require(request: Request, role: Role) -> Principal:
    """The principal of the request, if it has the role; `Rejected` 403 otherwise."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None:
        raise Rejected("WF601", "a token is required", status=401)
    if not principal.role.includes(role):
        text = f'token "{principal.name}" has role {principal.role.value}; this needs role {role.value}'
        raise Rejected("WF602", text, status=403)
    return principal


async def _viewer(request: Request) -> Principal:
    return _require(request, Role.VIEWER)


async def _runner(request: Request) -> Principal:
    return _require(request, Role.RUNNER)


async def _approver(request: Request) -> Principal:
    return _require(request, Role.APPROVER)


async def _operator(request: Request) -> Principal:
    return _require(request, Role.OPERATOR)


async def _admin(request: Request) -> Principal:
    return _require(request, Role.ADMIN)


#: The role that each dependency requires.
ROLE_OF: dict[object, Role] = {
    _viewer: Role.VIEWER,
    _runner: Role.RUNNER,
    _approver: Role.APPROVER,
    _operator: Role.OPERATOR,
    _admin: Role.ADMIN,
}


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Viewer = Annotated[Principal, Depends(_viewer)]
Runner = Annotated[Principal, Depends(_runner)]
Approver = Annotated[Principal, Depends(_approver)]
Operator = Annotated[Principal, Depends(_operator)]
Admin = Annotated[Principal, Depends(_admin)]
Ports = Annotated[Services, Depends(_services)]
