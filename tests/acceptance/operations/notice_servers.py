"""A web server and a mail server that keep what they get, for tests of notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.patience import PATIENCE_S


class Hook:
    """A webhook; its behavior can be changed at any time."""

    def __init__(self) -> None:
        #: The bodies and the headers of all requests, also of those that were not answered.
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        #: The status of answers.
        self.status = 200
        #: While it is not set, requests are taken and not answered.
        self.answers = threading.Event()
        self.answers.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                hook.headers.append({name.lower(): value for name, value in self.headers.items()})
                hook.bodies.append(json.loads(content))
                hook.answers.wait()
                with contextlib.suppress(OSError):
                    self.send_response(hook.status)
                    self.send_header("location", "/elsewhere")
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Prints nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/secret-path"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def notices(self) -> list[dict[str, Any]]:
        """All notices of the format json."""
        return [notice for body in self.bodies for notice in body["notices"]]

    def titles(self) -> list[str]:
        """The titles of all notices."""
        return [notice["title"] for notice in self.notices]

    def close(self) -> None:
        """Stops it."""
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def webhook() -> Iterator[Hook]:
    """Runs a webhook."""
    hook = Hook()
    try:
        yield hook
    finally:
        hook.close()


class Mailbox:
    """A mail server's handler that keeps all mail."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        #: The answer to mail.
        self.answer = "250 OK"
        #: The passwords that were tried. Only "right" is.
        self.passwords: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Takes a mail."""
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.append(list(envelope.rcpt_tos))
        return self.answer

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any
    ) -> AuthResult:
        """Lets in who knows the password."""
        assert isinstance(given, LoginPassword)
        self.passwords.append(given.password.decode())
        return AuthResult(success=given.password == b"right", handled=False)


@contextlib.contextmanager
def mail_server(security: str = "none", tls: ssl.SSLContext | None = None) -> Iterator[tuple[Mailbox, int]]:
    """Runs a mail server on loopback, with `security` of `[smtp]`; yields its mailbox and port."""
    mailbox = Mailbox()

    def smtp() -> SMTP:
        # A server with TLS from the first byte does not see that there is TLS.
        return SMTP(
            mailbox,
            loop=loop,
            tls_context=tls if security == "starttls" else None,
            authenticator=mailbox.authenticate,
            auth_require_tls=security == "starttls",
        )

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await loop.create_server(smtp, "127.0.0.1", 0, ssl=tls if security == "tls" else None)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE_S)
    try:
        yield mailbox, server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
