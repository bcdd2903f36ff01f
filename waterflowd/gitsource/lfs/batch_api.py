"""The batch API of Git LFS: asks a server where contents are, and fetches them. Blocking; for the transfer child.

Rules of this file:

- The server's address is that of the repository, or what its ssh server names. `.lfsconfig` is not read: anybody who may push
  could send the daemon's credentials to another host with it.
- Contents may be on any host that the server names, such as a storage service. The repository's credentials are sent to its
  own origin only, and the headers of an action only to the origin of its address.
- A content is written under a temporary name until its size and its SHA-256 are right.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.gitsource import urls
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
                response = self._request("GET", action.href, action.header or {})
                try:
                    self._check(response.status, action.href, is_content=True)
                    stored.append(write(large, target, lambda response=response: self._chunks(response)))  # type: ignore[misc]
                finally:
                    response.release_conn()
        return stored

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
            raise _failed(f"{self._own.authority} does not answer as a Git LFS server") from error
        if answer.transfer not in (None, "", "basic"):
            raise _failed(f"{self._own.authority} does not offer the transfer that every Git LFS client supports")
        found = {item.oid: item for item in answer.objects}
        return [self._action(large, found.get(large.oid)) for large in files]

    def _action(self, large: LargeFile, item: _Object | None) -> _Action:
        if item is None or item.error is not None or item.actions is None or item.actions.download is None:
            said = item.error.message if item is not None and item.error is not None else None
            reason = f": {escape_for_display(said, 200)}" if said else ""
            raise _failed(f"{self._own.authority} does not have the Git LFS object {large.oid[:12]}{reason}")
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
                raise _failed(f"{url.authority} redirects a request to Git LFS; change the URL of the repository")
            href = urljoin(href, location)
        raise _failed(f"{first.authority} redirects too often")

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

    def _check(self, status: int, href: str, *, is_content: bool = False) -> None:
        where = self._parsed(href).authority
        what = "a Git LFS object" if is_content else "Git LFS"
        if status == 401:
            problem = "rejects the token" if self._login is not None else "requires a token, and none is configured"
            raise no_access(f"{where} {problem} for {what} (401); see credentials-file")
        if status == 403:
            raise no_access(f"{where} denies access to {what} (403)")
        if status == 429 or status >= 500:
            raise unreachable(f"{where} is temporarily unavailable for {what} (status {status})")
        if status != 200:
            if is_content:
                raise _failed(f"{where} does not have a Git LFS object that should be there (status {status})")
            text = f"{where} has no Git LFS for this repository (status {status})"
            raise _failed(f"{text}; another server, which .lfsconfig may name, is not asked")

    def _chunks(self, response: Any, bytes_max: int | None = None) -> Iterator[bytes]:
        left = bytes_max
        try:
            for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
                if left is not None:
                    left -= len(chunk)
                    if left < 0:
                        raise _failed(f"{self._own.authority} sends an answer of more than {bytes_max:,} bytes")
                yield chunk
        except HTTPError as error:
            raise https.connection_error(self._own.authority, error) from error


def write(large: LargeFile, target: Path, chunks: Callable[[], Iterator[bytes]]) -> StoredFile:
    """Writes one content. Raises `FetchError` WF534 if it is another one, and `OSError`."""
    digest = hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % large.size, usedforsecurity=False)
    temporary = target / f"tmp_{large.oid}"
    left = large.size
    with temporary.open("wb") as file:
        for chunk in chunks():
            left -= len(chunk)
            if left < 0:
                break
            digest.update(chunk)
            blob.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if left or digest.hexdigest() != large.oid:
        temporary.unlink()
        problem = "another size" if left else "another content"
        raise _failed(f"the Git LFS object {large.oid[:12]} that was fetched has {problem} than its pointer says")
    stored = StoredFile(oid=large.oid, size=large.size, blob=blob.digest())
    temporary.rename(target / stored.name)
    return stored


def _failed(text: str) -> FetchError:
    return FetchError(codes.LFS, text)


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
