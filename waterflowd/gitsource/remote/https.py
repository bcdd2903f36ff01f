"""Fetching over https: one origin, verified certificates, no proxies, and clear errors.

Rules of this file: requests go only to the origin of the configured URL, whatever a redirect or a server's list of packs says;
a redirect within the origin is followed for reading refs (a renamed repository). Servers without Git's smart protocol are
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
#: A server may count objects for a while before it sends more.
_SILENCE_S = 60.0
_REDIRECTS_MAX = 5
_ADVERTISEMENT = "application/x-git-upload-pack-advertisement"


def client(url: RemoteUrl, credentials: RemoteCredentials) -> HttpGitClient:
    """Dulwich's client over an `OriginPool`."""
    pool = OriginPool(url, credentials)
    login = credentials.login
    return HttpGitClient(
        f"{url.scheme}://{url.authority}",
        pool_manager=pool,
        username=login.user if login else None,
        password=login.secret if login else None,
    )


class OriginPool(urllib3.PoolManager):
    """Connections to one origin. Raises `FetchError` for an unusable response."""

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
        """One request, following redirects within the origin."""
        for _ in range(_REDIRECTS_MAX):
            self._check_origin(url)
            try:
                response = super().urlopen(method, url, redirect=False, **options)
            except HTTPError as error:
                raise connection_error(self._authority, error) from error
            target = response.get_redirect_location()
            if not target:
                self._check_response(response, url)
                return response
            response.drain_conn()
            if method != "GET":
                raise no_repository(f"{self._authority} redirects a request that Git does not allow to be redirected")
            url = urljoin(url, target)
        raise no_repository(f"{self._authority} redirects too often")

    def _check_origin(self, url: str) -> None:
        parsed = parse_url(url)
        scheme = parsed.scheme or ""
        port = parsed.port or {"https": PORTS["https"], "http": PORTS["http"]}.get(scheme)
        host = (parsed.host or "").strip("[]").lower()
        if (scheme, host, port) != self._origin:
            where = escape_for_display(f"{scheme}://{host}" + (f":{parsed.port}" if parsed.port else ""), 100)
            text = f"{self._authority} redirects to {where}; redirects to other hosts are not followed; change the URL"
            raise FetchError(codes.URL_REFUSED, text)

    def _check_response(self, response: Any, url: str) -> None:
        status = response.status
        if status == 401:
            problem = "rejects the token" if self._has_login else "requires a token, and none is configured"
            raise no_access(f"{self._authority} {problem} (401); see credentials-file")
        if status == 403:
            raise no_access(
                f"{self._authority} denies access (403); the token may not have read access to this repository"
            )
        if status in (404, 410):
            hint = "the token may not have access" if self._has_login else "it may require a token"
            raise no_repository(f"{self._authority} has no such repository ({status}), or {hint}")
        if status == 429 or status >= 500:
            raise unreachable(f"{self._authority} is temporarily unavailable (status {status})")
        if status != 200:
            raise no_repository(f"{self._authority} responded with status {status}")
        kind = response.headers.get("content-type", "").partition(";")[0]
        if "/info/refs?" in url and kind != _ADVERTISEMENT:
            text = f"{self._authority} does not serve a repository with Git's smart protocol at this URL"
            raise no_repository(f'{text} (content type "{escape_for_display(kind, 60)}")')


def connection_error(authority: str, error: HTTPError) -> FetchError:
    """The error for a server that cannot be reached, or that cannot be trusted."""
    cause: BaseException = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    if isinstance(cause, SSLError) and not _is_closed_early(cause):
        text = f"the certificate of {authority} is not trusted ({escape_for_display(_inner(cause), 120)})"
        return no_access(f"{text}; if you use your own certificate authority, set ca-file")
    if isinstance(cause, NewConnectionError):
        return unreachable(f"cannot reach {authority}: {escape_for_display(_inner(cause), 120)}")
    return unreachable(f"{authority} closed the connection: {escape_for_display(_inner(cause), 120)}")


def _is_closed_early(error: SSLError) -> bool:
    """Whether the connection ended during the TLS handshake, which says nothing about the certificate."""
    causes = (error.__cause__, error.__context__, *error.args)
    return any(isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) for cause in causes)


def _inner(error: BaseException) -> str:
    """The part of a library's message that is useful to a person."""
    text = str(error.__cause__ or error.__context__ or error)
    return text.partition(" (_ssl.c")[0].rpartition("] ")[2] or type(error).__name__
