"""The API as one ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from waterflowd.api import openapi, problems
from waterflowd.api.access.auth import AuthMiddleware
from waterflowd.api.access.quotas import Pools
from waterflowd.api.access.wrong_secrets import WrongSecrets
from waterflowd.api.routes import (
    attention,
    caches,
    live,
    metrics,
    payloads,
    repositories,
    schedules,
    schema,
    sessions,
    system,
    validation,
)
from waterflowd.api.routes.administration import (
    agent_maintenance,
    agents,
    audit,
    configuration,
    notices,
    repository_changes,
    retention,
    tokens,
    webhooks,
)
from waterflowd.api.routes.runs import (
    approvals,
    artifacts,
    differences,
    outlines,
    output,
    reports,
    reruns,
    run_parts,
    runs,
    why,
)
from waterflowd.api.runs.outlines import Outlines
from waterflowd.api.services import Services
from waterflowd.api.streaming.live import Live
from waterflowd.api.streaming.output_search import OutputSearch
from waterflowd.api.streaming.streams import Streams
from waterflowd.api.web_pages import WebPages

#: One router per resource, in the order in which their routes are matched.
ROUTERS = [
    system.router,
    metrics.router,
    attention.router,
    live.router,
    schema.router,
    validation.router,
    runs.router,
    run_parts.router,
    output.router,
    artifacts.router,
    reports.router,
    why.router,
    differences.router,
    outlines.router,
    approvals.router,
    reruns.router,
    agents.router,
    agent_maintenance.router,
    repositories.router,
    repository_changes.router,
    caches.router,
    schedules.router,
    webhooks.router,
    tokens.router,
    sessions.router,
    audit.router,
    retention.router,
    configuration.router,
    notices.router,
    payloads.router,
]


class Api:
    """The application behind its authentication, and a way to end its streams. To be made on the event loop's thread."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.streams = Streams()
        self.pools = Pools(services.is_busy)
        wrong = WrongSecrets()
        app: ASGIApp = _build(services, self.streams, wrong)
        if services.web is not None:
            app = WebPages(app, services.web)
        self._app: ASGIApp = AuthMiddleware(app, services, self.pools, wrong)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        await self._app(scope, receive, send)

    def stop(self) -> None:
        """Ends all streams, and lets `/ready` answer 503."""
        self.streams.stop()
        self.services.audit.stop()


def _build(services: Services, streams: Streams, wrong: WrongSecrets) -> FastAPI:
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
    app.state.wrong_secrets = wrong
    app.state.outlines = Outlines(services.history)
    app.state.output_search = OutputSearch(services.outputs)
    app.state.live = Live(services, app.state.outlines)
    app.state.signature_failures = webhooks.SignatureFailures()
    app.state.payload_readers = payloads.RecentReaders()
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app, ROUTERS)
    return app
