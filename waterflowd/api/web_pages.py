"""The web pages as part of the API's server: a page request gets the pages' files, the API answers any other request."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from waterflowd.web.files import WebFiles


class WebPages:
    """ASGI middleware: answers requests for pages and their files."""

    def __init__(self, app: ASGIApp, files: WebFiles) -> None:
        self._app = app
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or forwards it."""
        answer = (
            self._files.answer(scope["method"], scope["path"], Headers(scope=scope))
            if scope["type"] == "http"
            else None
        )
        if answer is None:
            await self._app(scope, receive, send)
            return
        await Response(answer.body, answer.status, dict(answer.headers))(scope, receive, send)
