"""The https side of a fetch: one origin, verified, no proxies, and answers that say what is wrong.

Rules of this file: requests go to the origin of the configured url and to no other, whatever a redirect or a server's list of
packs says; a redirect within it is followed for reading refs (a renamed repository). Servers without Git's smart protocol are
refused, because their files cannot be bounded.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urljoin

import urllib3
from dulwich.client import HttpGitClient
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, SSLError
from urllib3.util import parse_url

from waterflow_agent.display import escape_for_display
from waterflowd.gitsource.remote.fetch_errors import FetchError, no_access, no_repository, unreachable
from waterflowd.gitsource.remote.fetch_protocol import RemoteCredentials
from waterflowd.gitsource.urls import PORTS, RemoteUrl
from waterflowd.reconcile import codes

_CONNECT_S = 20.0
#: A server may count objects for a while before it says the next thing.
_SILENCE_S = 60.0
_REDIRECTS_MAX = 5
_ADVERTISEMENT = "application/x-git-upload-pack-advertisement"


def client(url: RemoteUrl, credentials: RemoteCredentials) -> HttpGitClient:
    """Dulwich's client over a pool that obeys the rules above."""
    pool = OriginPool(url, credentials)
    login = credentials.login
    return HttpGitClient(
        f"{url.scheme}://{url.authority}",
        pool_manager=pool,
        username=login.user if login else None,
        password=login.secret if login else None,
    )


class OriginPool(urllib3.PoolManager):
    """Connections to one origin. Raises `FetchError` instead of giving back an answer that is of no use."""

    def __init__(self, url: RemoteUrl, credentials: RemoteCredentials) -> None:
        super().__init__(
            headers={"User-Agent": "git/waterflow"},
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=_SILENCE_S),
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=credentials.ca_file or None,
        )
        self._origin = (url.scheme, url.host.lower(), url.port)
        self._authority = url.authority
        self._has_login = credentials.login is not None

    def urlopen(self, method: str, url: str, redirect: bool = True, **options: Any) -> Any:  # type: ignore[override]
        """One request, with redirects within the origin."""
        for _ in range(_REDIRECTS_MAX):
            self._check_origin(url)
            try:
                answer = super().urlopen(method, url, redirect=False, **options)
            except HTTPError as error:
                raise self._unreachable(error) from error
            target = answer.get_redirect_location()
            if not target:
                self._check_answer(answer, url)
                return answer
            answer.drain_conn()
            if method != "GET":
                raise no_repository(f"{self._authority} redirects a request that Git does not let it redirect")
            url = urljoin(url, target)
        raise no_repository(f"{self._authority} redirects in a circle")

    def _check_origin(self, url: str) -> None:
        parsed = parse_url(url)
        scheme = parsed.scheme or ""
        port = parsed.port or {"https": PORTS["https"], "http": PORTS["http"]}.get(scheme)
        host = (parsed.host or "").strip("[]").lower()
        if (scheme, host, port) != self._origin:
            where = escape_for_display(f"{scheme}://{host}" + (f":{parsed.port}" if parsed.port else ""), 100)
            text = (
                f"{self._authority} redirects to {where}, and redirects across hosts are not followed: if it has moved"
            )
            raise FetchError(codes.URL_REFUSED, f"{text}, change the url")

    def _check_answer(self, answer: Any, url: str) -> None:
        status = answer.status
        if status == 401:
            why = "does not accept the token" if self._has_login else "wants a token, and there is none"
            raise no_access(f"{self._authority} {why} (401): see credentials-file")
        if status == 403:
            raise no_access(f"{self._authority} forbids it (403): the token may lack the right to read this repository")
        if status in (404, 410):
            seen = "this token" if self._has_login else "no token"
            raise no_repository(f"{self._authority} knows no such repository ({status}), or shows it not to {seen}")
        if status == 429 or status >= 500:
            raise unreachable(f"{self._authority} cannot answer now (status {status})")
        if status != 200:
            raise no_repository(f"{self._authority} answers with status {status}")
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if "/info/refs?" in url and kind != _ADVERTISEMENT:
            text = f"what {self._authority} has there is no repository with Git's smart protocol"
            raise no_repository(f'{text}: its content type is "{escape_for_display(kind, 60)}"')

    def _unreachable(self, error: HTTPError) -> FetchError:
        cause: BaseException = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        if isinstance(cause, SSLError) and not _is_broken_off(cause):
            text = f"the certificate of {self._authority} is not trusted ({escape_for_display(_inner(cause), 120)})"
            return no_access(f"{text}: if its authority is your own, name it with ca-file")
        if isinstance(cause, NewConnectionError):
            return unreachable(f"{self._authority} cannot be reached: {escape_for_display(_inner(cause), 120)}")
        return unreachable(f"{self._authority} broke off: {escape_for_display(_inner(cause), 120)}")


def _is_broken_off(error: SSLError) -> bool:
    """Whether the connection ended in the middle of TLS: that says nothing about a certificate, and may pass."""
    causes = (error.__cause__, error.__context__, *error.args)
    return any(isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) for cause in causes)


def _inner(error: BaseException) -> str:
    """The part of a library's message that means something to a person."""
    text = str(error.__cause__ or error.__context__ or error)
    return text.partition(" (_ssl.c")[0].rpartition("] ")[2] or type(error).__name__
