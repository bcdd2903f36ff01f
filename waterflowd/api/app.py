"""The API as one ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from waterflowd.api import (
    agents,
    approvals,
    audit,
    children,
    description,
    hooks,
    language,
    metrics,
    problems,
    repositories,
    reruns,
    runs,
    schedules,
    system,
    tokens,
    validate,
)
from waterflowd.api.auth import Gate
from waterflowd.api.services import Services
from waterflowd.api.streams import Streams
from waterflowd.api.trail import Refusals

#: All resources, in the order in which their routes are tried.
ROUTERS = [
    resource.router
    for resource in (
        *(system, metrics, language, validate, runs, children, approvals, reruns),
        *(agents, repositories, schedules, hooks, tokens, audit),
    )
]


class Api:
    """The application behind its gate, and a way to end its streams."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.streams = Streams()
        #: Who was turned away; the ports for agents tell it too.
        self.refusals = Refusals(services)
        self._app: ASGIApp = Gate(_build(services, self.streams), services, self.refusals)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        await self._app(scope, receive, send)

    def stop(self) -> None:
        """Ends all streams and makes `/ready` say no."""
        self.streams.stop()
        self.refusals.stop()


def build_app(services: Services) -> Api:
    """Builds the API over the ports; call it on the event loop's thread."""
    return Api(services)


def _build(services: Services, streams: Streams) -> FastAPI:
    app = FastAPI(
        title="Waterflow",
        version=services.version,
        summary="Git-driven workflows on your own servers that survive any crash",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    app.state.streams = streams
    app.state.wrong_signatures = hooks.WrongSignatures()
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    description.install(app, ROUTERS)
    return app
