"""Stores and reads blocks in a bucket, at the addresses that the daemon has signed.

Rules of this file:

- An address is a secret for as long as it is valid, so no message contains one; only the server's name.
- Requests of a step are bounded (`REQUESTS_MAX`); what does not pass at once is repeated after a growing pause.
- `AddressExpired` asks the caller for a new address, and `Unreachable` to use the daemon instead, from now on.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire.messages import ARTIFACT_BLOCK_BYTES_MAX, BlockAddress

if TYPE_CHECKING:
    import httpx

#: Of one step.
REQUESTS_MAX = 8
_CONNECT_S, _TIMEOUT_S = 10.0, 60.0
#: Pauses before the next try. A server that was never reached gets one try more.
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
_FORBIDDEN, _NOT_FOUND = 403, 404
#: The content has changed on its way.
_DAMAGED = ("BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentChecksumMismatch")
#: Of an error's text that is read.
_ERROR_BYTES_MAX = 64 << 10


class AddressExpired(Exception):
    """The service did not accept the address; a new one may help. The text is the service's code."""


class Unreachable(Exception):
    """This server cannot reach the bucket's."""


class BucketClient:
    """See the file's docstring. For the loop's thread."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        """`warn` says, once, that content goes through the daemon."""
        self._warn = warn
        self._client: httpx.AsyncClient | None = None
        self._free = asyncio.Semaphore(REQUESTS_MAX)
        self._has_reached = False
        #: Whether to ask for addresses: the library is there, and the bucket was not unreachable.
        self.is_usable = importlib.util.find_spec("httpx") is not None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def store(self, address: BlockAddress, data: bytes) -> None:
        """Stores a block. Raises `AddressExpired`, `Unreachable`, `Retryable` and `Rejected` WF764."""
        await self._request("PUT", address, data)

    async def read(self, address: BlockAddress) -> bytes:
        """The content at an address, which is not verified. Raises as `store`."""
        return await self._request("GET", address, None)

    async def _request(self, method: str, address: BlockAddress, data: bytes | None) -> bytes:
        problem = ""
        async with self._free:
            for pause_s in (*_PAUSES_S, None):
                if not self.is_usable:
                    raise Unreachable
                result = await self._try(method, address, data)
                if isinstance(result, bytes):
                    return result
                problem = result
                if not self._has_reached and pause_s != _PAUSES_S[0]:
                    self._give_up(address, problem)
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
        raise Retryable("WF764", f"{server_of(address)}: {problem}")

    async def _try(self, method: str, address: BlockAddress, data: bytes | None) -> bytes | str:
        """What was read, or why another try may help."""
        import httpx

        if self._client is None:
            self._client = _new_client()
        try:
            async with self._client.stream(method, address.url, content=data, headers=address.headers) as response:
                self._has_reached = True
                content = await _content(response)
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                self._give_up(address, "the certificate of its server is not trusted here")
            return str(error) or type(error).__name__
        except httpx.InvalidURL as error:
            raise Rejected("WF762", "the server sent an unexpected answer") from error
        if response.is_success:
            return content
        code = content.partition(b"<Code>")[2].partition(b"</Code>")[0].decode("ascii", "replace")
        return _failure(response.status_code, escape_for_display(code, 60), server_of(address))

    def _give_up(self, address: BlockAddress, problem: str) -> None:
        if self.is_usable:
            self.is_usable = False
            shown = escape_for_display(problem, 200)
            self._warn(f"warning: cannot reach {server_of(address)} ({shown}); the content goes through the daemon")
        raise Unreachable


def server_of(address: BlockAddress) -> str:
    """The server of an address, for people."""
    parts = urlsplit(address.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _new_client() -> httpx.AsyncClient:
    import httpx

    timeout: Any = httpx.Timeout(_TIMEOUT_S, connect=_CONNECT_S)
    # The system's certificates, as for other programs of the server.
    return httpx.AsyncClient(verify=ssl.create_default_context(), timeout=timeout, follow_redirects=False)


async def _content(response: httpx.Response) -> bytes:
    bytes_max = ARTIFACT_BLOCK_BYTES_MAX if response.is_success else _ERROR_BYTES_MAX
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > bytes_max:
            if not response.is_success:
                break
            raise Rejected("WF762", "a block of the artifact is larger than blocks can be")
    return bytes(content)


def _failure(status: int, code: str, server: str) -> str:
    """Why another try may help; raises if none can."""
    shown = f"status {status} ({code})" if code else f"status {status}"
    if status == _FORBIDDEN or code in ("ExpiredToken", "RequestTimeTooSkewed"):
        raise AddressExpired(f"{server}: {shown}")
    if status == _NOT_FOUND:
        raise Rejected("WF764", f"{server}: a block of the artifact is not in the bucket any longer ({shown})")
    if status in (408, 409, 429) or status >= 500 or code in _DAMAGED:
        return shown
    raise Rejected("WF764", f"{server} refused a block: {shown}")
