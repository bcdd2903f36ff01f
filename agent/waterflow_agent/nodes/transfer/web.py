"""Files of HTTP servers: read with GET, written with PUT.

Up to five redirects of a GET are followed, never from https to http; the headers of the step are only sent to the original
server. Redirects of a PUT are not followed. The server decides whether an incomplete file is visible; it never receives the end
of a file whose size or checksum is wrong.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Self
from urllib.parse import quote, unquote, urlsplit

import httpx

from waterflow_agent.nodes import http
from waterflow_agent.nodes.node import NodeFailure
from waterflow_agent.nodes.transfer import names
from waterflow_agent.nodes.transfer.address import Address
from waterflow_agent.nodes.transfer.content import CHUNK_BYTES, Content
from waterflow_agent.nodes.transfer.endpoints import Listing, SourceFile

REDIRECTS_MAX = 5
#: The part of an error response that is included in the reason.
SHOWN_CHARS = 200


class Web:
    """A source and target: one URL, or with a trailing slash a folder to write to."""

    def __init__(self, address: Address, *, headers: dict[str, str], verify: bool | str, timeout_s: float) -> None:
        self._address = address
        self._headers = http.headers(headers)
        self._client = http.client(verify=verify, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def list_files(self) -> Listing:
        """See `Source`. A missing file is only noticed when it is read."""
        last = unquote(urlsplit(self._address.path).path.rpartition("/")[2])
        name = names.checked(last, self._address) if last else "index"
        return Listing(entries=[SourceFile(name=name, key=self._address.path, size=None)], is_many=False)

    async def read(self, entry: SourceFile) -> AsyncGenerator[bytes]:
        """See `endpoints`."""
        try:
            response = await self._get(entry.key)
            try:
                async for chunk in response.aiter_bytes(CHUNK_BYTES):
                    yield chunk
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise self._failure("GET", error) from error

    async def _get(self, url: str) -> httpx.Response:
        headers = self._headers
        for _ in range(REDIRECTS_MAX + 1):
            try:
                # The server must not compress the response.
                request = self._client.build_request("GET", url, headers={"Accept-Encoding": "identity", **headers})
            except (httpx.InvalidURL, UnicodeError) as error:
                raise NodeFailure(f"invalid URL {self._address}: {error}") from error
            response = await self._client.send(request, stream=True)
            follow = response.next_request
            if follow is None:
                await self._check("GET", response)
                return response
            await response.aclose()
            if (request.url.scheme, follow.url.scheme) == ("https", "http"):
                raise NodeFailure(f"GET {self._address}: refusing to follow a redirect from https to http")
            if (request.url.scheme, request.url.netloc) != (follow.url.scheme, follow.url.netloc):
                headers = {}
            url = str(follow.url)
        raise NodeFailure(f"GET {self._address}: more than {REDIRECTS_MAX} redirects")

    async def is_folder(self) -> bool:
        """See `Target`: only with a trailing slash."""
        return False

    async def write(self, name: str | None, content: Content) -> None:
        """See `endpoints`."""
        url = self._address.path if name is None else self._address.path.rstrip("/") + "/" + quote(name)
        # Many servers require the length, so it is sent if it is known.
        length = {} if content.size is None else {"Content-Length": str(content.size)}
        try:
            request = self._client.build_request(
                "PUT", url, headers={**self._headers, **length}, content=aiter(content)
            )
            response = await self._client.send(request, stream=True)
            try:
                await self._check("PUT", response)
            finally:
                await response.aclose()
        except (httpx.InvalidURL, UnicodeError) as error:
            raise NodeFailure(f"invalid URL {self._address}: {error}") from error
        except httpx.HTTPError as error:
            raise self._failure("PUT", error) from error

    async def _check(self, method: str, response: httpx.Response) -> None:
        if response.is_success:
            return
        status = response.status_code
        text = (await anext(response.aiter_text(SHOWN_CHARS), "")).strip()[:SHOWN_CHARS]
        await response.aclose()
        if response.has_redirect_location:
            text = "redirects of a PUT are not followed"
        may_retry = status in (408, 425, 429) or status >= 500
        raise NodeFailure(
            f"{method} {self._address}: status {status}{f': {text}' if text else ''}", may_retry=may_retry
        )

    def _failure(self, method: str, error: httpx.HTTPError) -> NodeFailure:
        text = str(error) or type(error).__name__
        return NodeFailure(f"{method} {self._address}: {text}", may_retry=http.may_retry(error))
