"""The API as one ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from waterflowd.access.audit_trail import Refusals
from waterflowd.api import openapi, problems
from waterflowd.api.gate import Gate
from waterflowd.api.routes import (
    agents,
    approvals,
    audit,
    metrics,
    repositories,
    reruns,
    run_parts,
    runs,
    schedules,
    schema,
    system,
    tokens,
    validation,
    webhooks,
)
from waterflowd.api.services import Services
from waterflowd.api.streaming.streams import Streams

#: All resources, in the order in which their routes are tried.
ROUTERS = [
    resource.router
    for resource in (
        *(system, metrics, schema, validation, runs, run_parts, approvals, reruns),
        *(agents, repositories, schedules, webhooks, tokens, audit),
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
    app.state.wrong_signatures = webhooks.WrongSignatures()
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app, ROUTERS)
    return app
