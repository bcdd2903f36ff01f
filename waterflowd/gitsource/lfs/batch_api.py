"""The batch API of Git LFS: asks a server where contents are, and fetches them. Blocking; for the transfer child.

Rules of this file:

- The server's address is that of the repository, or what its ssh server names. `.lfsconfig` is not read: anybody who may push
  could send the daemon's credentials to another host with it.
- Contents may be on any host that the server names, such as a storage service. The repository's credentials are sent to its
  own origin only, and the headers of an action only to the origin of its address.
- What an earlier attempt has fetched of a content is continued (`Range`), if the server can do that.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.gitsource import urls
from waterflowd.gitsource.lfs.partial_content import LfsError, PartialContent
from waterflowd.gitsource.lfs.pointers import LargeFile
from waterflowd.gitsource.lfs.transfer_protocol import StoredFile
from waterflowd.gitsource.remote import https
from waterflowd.gitsource.remote.fetch_errors import FetchError, no_access, unreachable
from waterflowd.gitsource.remote.fetch_protocol import RemoteCredentials
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.reconcile import codes

#: As many as Git LFS itself asks for at a time.
BATCH_MAX = 100
_ANSWER_BYTES_MAX = 8 << 20
_CHUNK_BYTES = 1 << 20
_REDIRECTS_MAX = 5
_CONNECT_S, _SILENCE_S = 20.0, 60.0
_TYPE = "application/vnd.git-lfs+json"


# Servers write null for what they leave out.


class _Action(msgspec.Struct):
    href: str
    header: dict[str, str] | None = None


class _Actions(msgspec.Struct):
    download: _Action | None = None


class _Error(msgspec.Struct):
    code: int = 0
    message: str | None = None


class _Object(msgspec.Struct):
    oid: str = ""
    actions: _Actions | None = None
    error: _Error | None = None


class _Answer(msgspec.Struct):
    objects: list[_Object] = []
    transfer: str | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server answers, and with which headers."""

    href: str
    header: Mapping[str, str] = {}


def https_endpoint(url: RemoteUrl) -> Endpoint:
    """The address of the LFS server of a repository over https."""
    path = url.path.rstrip("/")
    path = path if path.endswith(".git") else f"{path}.git"
    return Endpoint(href=f"{url.scheme}://{url.authority}{path}/info/lfs")


class LfsServer:
    """One LFS server. Raises `FetchError`: WF502, WF503, WF507, and WF534 for what it lacks or answers wrongly."""

    def __init__(self, endpoint: Endpoint, credentials: RemoteCredentials, *, allow_http: bool = False) -> None:
        self._endpoint = endpoint
        self._login = credentials.login
        self._allow_http = allow_http
        self._own = self._parsed(endpoint.href)
        self._own_pool = _pool(credentials.ca_file or None)
        self._other_pool = _pool(None)

    def fetch(self, files: Sequence[LargeFile], target: Path) -> list[StoredFile]:
        """Writes all contents into a directory."""
        stored = []
        for start in range(0, len(files), BATCH_MAX):
            batch = files[start : start + BATCH_MAX]
            for large, action in zip(batch, self._actions(batch), strict=True):
                with PartialContent(large, target) as partial:
                    stored.append(partial.completed(lambda: self._fetch_rest(partial, action)))  # noqa: B023
        return stored

    def _fetch_rest(self, partial: PartialContent, action: _Action) -> None:
        """Fetches what is missing of a content."""
        header = dict(action.header or {})
        if partial.offset:
            header["Range"] = f"bytes={partial.offset}-"
        response = self._request("GET", action.href, header)
        try:
            if partial.offset and response.status in (200, 206, 416) and not _is_rest(response, partial.offset):
                partial.restart()
                if response.status != 200:
                    response.close()
                    response = self._request("GET", action.href, action.header or {})
            self._check(response.status, action.href, partial.large)
            for chunk in self._chunks(response):
                partial.append(chunk)
        finally:
            response.release_conn()

    def _actions(self, files: Sequence[LargeFile]) -> list[_Action]:
        """Where each content is."""
        href = f"{self._endpoint.href}/objects/batch"
        body = {
            "operation": "download",
            "transfers": ["basic"],
            "objects": [{"oid": large.oid, "size": large.size} for large in files],
            "hash_algo": "sha256",
        }
        headers = {"Accept": _TYPE, "Content-Type": _TYPE, **self._endpoint.header}
        response = self._request("POST", href, headers, msgspec.json.encode(body))
        content = b"".join(self._chunks(response, _ANSWER_BYTES_MAX))
        self._check(response.status, href)
        try:
            answer = msgspec.json.decode(content, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise LfsError(f"{self._own.authority} does not answer as a Git LFS server") from error
        if answer.transfer not in (None, "", "basic"):
            raise LfsError(f"{self._own.authority} does not offer the transfer that every Git LFS client supports")
        found = {item.oid: item for item in answer.objects}
        return [self._action(large, found.get(large.oid)) for large in files]

    def _action(self, large: LargeFile, item: _Object | None) -> _Action:
        if item is None or item.error is not None or item.actions is None or item.actions.download is None:
            said = item.error.message if item is not None and item.error is not None else None
            reason = f": {escape_for_display(said, 200)}" if said else ""
            text = f"{self._own.authority} does not have the Git LFS object {large.oid[:12]}{reason}"
            raise LfsError(text, large.oid)
        return item.actions.download

    def _request(self, method: str, href: str, headers: Mapping[str, str], body: bytes | None = None) -> Any:
        """One request, following redirects; its content is not read yet."""
        first = self._parsed(href)
        for _ in range(_REDIRECTS_MAX):
            url = self._parsed(href)
            is_own = _origin(url) == _origin(self._own)
            sent = {"Accept-Encoding": "identity", **(headers if _origin(url) == _origin(first) else {})}
            if is_own and self._login is not None and not any(name.lower() == "authorization" for name in sent):
                login = f"{self._login.user}:{self._login.secret}".encode()
                sent["Authorization"] = "Basic " + base64.b64encode(login).decode("ascii")
            pool = self._own_pool if is_own else self._other_pool
            try:
                response = pool.request(method, href, headers=sent, body=body, redirect=False, preload_content=False)
            except HTTPError as error:
                raise https.connection_error(url.authority, error) from error
            location = response.get_redirect_location()
            if not location:
                return response
            response.drain_conn()
            if method != "GET":
                raise LfsError(f"{url.authority} redirects a request to Git LFS; change the URL of the repository")
            href = urljoin(href, location)
        raise LfsError(f"{first.authority} redirects too often")

    def _parsed(self, href: str) -> RemoteUrl:
        try:
            url = urls.parse(href, allow_http=self._allow_http)
        except Rejected as error:
            # Without the address: it may have a signature.
            problem = error.text.rpartition('": ')[2]
            raise FetchError(
                codes.URL_REFUSED, f"the Git LFS server names an address that is not used: {problem}"
            ) from error
        if not isinstance(url, RemoteUrl) or url.scheme not in ("https", "http"):
            raise FetchError(codes.URL_REFUSED, "the Git LFS server names an address that is neither https nor http")
        return url

    def _check(self, status: int, href: str, content: LargeFile | None = None) -> None:
        """Raises `FetchError` for an answer without what was asked for: a content, or where contents are."""
        where = self._parsed(href).authority
        what = "a Git LFS object" if content is not None else "Git LFS"
        if status == 401:
            problem = "rejects the token" if self._login is not None else "requires a token, and none is configured"
            raise no_access(f"{where} {problem} for {what} (401); see credentials-file")
        if status == 403:
            raise no_access(f"{where} denies access to {what} (403)")
        if status == 429 or status >= 500:
            raise unreachable(f"{where} is temporarily unavailable for {what} (status {status})")
        if status != 200 and not (status == 206 and content is not None):
            if content is not None:
                text = f"{where} does not have the Git LFS object {content.oid[:12]} that should be there (status {status})"
                raise LfsError(text, content.oid)
            text = f"{where} has no Git LFS for this repository (status {status})"
            raise LfsError(f"{text}; another server, which .lfsconfig may name, is not asked")

    def _chunks(self, response: Any, bytes_max: int | None = None) -> Iterator[bytes]:
        left = bytes_max
        try:
            for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
                if left is not None:
                    left -= len(chunk)
                    if left < 0:
                        raise LfsError(f"{self._own.authority} sends an answer of more than {bytes_max:,} bytes")
                yield chunk
        except HTTPError as error:
            raise https.connection_error(self._own.authority, error) from error


def _is_rest(response: Any, offset: int) -> bool:
    """Whether an answer is what was asked for with `Range`; servers may send everything, or refuse."""
    found: str = response.headers.get("Content-Range", "")
    return response.status == 206 and found.startswith(f"bytes {offset}-")


def _pool(ca_file: str | None) -> urllib3.PoolManager:
    return urllib3.PoolManager(
        headers={"User-Agent": "git-lfs/waterflow"},
        timeout=urllib3.Timeout(connect=_CONNECT_S, read=_SILENCE_S),
        retries=False,
        cert_reqs="CERT_REQUIRED",
        ca_certs=ca_file,
    )


def _origin(url: RemoteUrl) -> tuple[str, str, int]:
    return url.scheme, url.host.lower(), url.port
