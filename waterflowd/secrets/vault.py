"""Vault (or OpenBao): secrets of a key/value engine, version 1 or 2, over its HTTP API.

Rules of this file:

- The configuration maps each secret to a path and a field. A workflow cannot name a path, and a name that is not mapped causes
  no request.
- The daemon authenticates with a token, or with AppRole, whose token it renews after two thirds of its time to live or when
  Vault rejects it. The token or secret id comes from the environment, a systemd credential or a file, and is read for each use.
- One address, verified, without proxies, and https unless it is this machine. A redirect is refused, because the token would
  follow it.
- Responses are bounded in time and size. Their text is never in a message.

| response | meaning |
|---|---|
| none, 412, 429, 472, 473, 5xx, not decodable | `Retryable`: sealed, a standby, overloaded, or a proxy in between |
| 404, or a path without the field | the secret does not exist |
| any other status | `Rejected`: a person must act |
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any, NoReturn

import httpx
import msgspec

from waterflow_agent.errors import Rejected, Retryable
from waterflowd.secrets.vault_settings import VaultField, VaultSettings

#: A path of a key/value engine holds a few keys; Vault accepts at most 1 MiB for one.
RESPONSE_BYTES_MAX = 2 << 20
_CODE = "WF626"
_NOT_FOUND = 404
_FORBIDDEN = 403
#: Of 4xx: consistency not reached, too many requests, standby of a cluster.
_TEMPORARY = frozenset({412, 429, 472, 473})


class _SecretResponse(msgspec.Struct):
    data: dict[str, Any] = {}
    #: Seconds; 0 if not stated.
    lease_duration: int = 0


class _LoginAuth(msgspec.Struct):
    client_token: str
    lease_duration: int = 0


class _LoginResponse(msgspec.Struct):
    auth: _LoginAuth


class Vault:
    """A client of one server. `key` gives the token or the role's secret id; it may block, and raises `Rejected`."""

    def __init__(
        self, settings: VaultSettings, key: Callable[[], str], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._key = key
        self._monotonic = monotonic
        self._http: httpx.AsyncClient | None = None
        #: The AppRole token, and when to renew it.
        self._role_token: tuple[str, float] | None = None
        self._login = asyncio.Lock()

    def field(self, name: str) -> VaultField | None:
        """The location of the secret with this normalized name; None if the configuration has none."""
        return self._settings.fields.get(name)

    async def read(self, path: str) -> tuple[dict[str, str], float]:
        """The values at a path by field (none if the path does not exist), and how many seconds they may be cached.

        Raises `Retryable` and `Rejected` WF626, and `Rejected` WF622 for a key that cannot be used.
        """
        settings = self._settings
        middle = "/data/" if settings.version == 2 else "/"
        status, content = await self._request("GET", f"/v1/{settings.mount}{middle}{path}", await self._token())
        if status == _FORBIDDEN and self._role_token is not None:
            # The token may have been revoked, or Vault was restored.
            self._role_token = None
            status, content = await self._request("GET", f"/v1/{settings.mount}{middle}{path}", await self._token())
        if status == _NOT_FOUND:
            return {}, settings.cache_s
        if status != 200:
            _raise_for_status(status, f"path {path}")
        response = _decoded(content, _SecretResponse)
        found = response.data.get("data") if settings.version == 2 else response.data
        if not isinstance(found, dict):
            raise Retryable(_CODE, "Vault's response holds no data; check vault.kv-version")
        cache_s = min(settings.cache_s, response.lease_duration or settings.cache_s)
        return {name: text for name, value in found.items() if (text := _text(value)) is not None}, cache_s

    async def close(self) -> None:
        """Closes the connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _token(self) -> str:
        if not self._settings.role_id:
            return await asyncio.to_thread(self._key)
        async with self._login:
            if self._role_token is None or self._role_token[1] <= self._monotonic():
                self._role_token = await self._log_in()
            return self._role_token[0]

    async def _log_in(self) -> tuple[str, float]:
        settings = self._settings
        body = {"role_id": settings.role_id, "secret_id": await asyncio.to_thread(self._key)}
        status, content = await self._request("POST", f"/v1/auth/{settings.approle_mount}/login", None, body)
        if status != 200:
            _raise_for_status(status, "the role login")
        auth = _decoded(content, _LoginResponse).auth
        lease_s = auth.lease_duration or 3600
        return auth.client_token, self._monotonic() + lease_s * 2 / 3

    async def _request(self, method: str, path: str, token: str | None, body: Any = None) -> tuple[int, bytes]:
        headers = {"X-Vault-Request": "true"}
        if token is not None:
            headers["X-Vault-Token"] = token
        if self._settings.namespace:
            headers["X-Vault-Namespace"] = self._settings.namespace
        http = await self._client()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                async with http.stream(method, path, headers=headers, json=body) as response:
                    return response.status_code, await _content(response)
        except TimeoutError:
            raise Retryable(_CODE, f"Vault did not answer in {self._settings.timeout_s:g} s") from None
        except httpx.HTTPError as error:
            # Without the request, because its headers hold the token.
            raise Retryable(_CODE, f"cannot reach Vault: {str(error) or type(error).__name__}") from None

    async def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            settings = self._settings
            try:
                context = await asyncio.to_thread(ssl.create_default_context, cafile=settings.ca_file or None)
            except (OSError, ssl.SSLError) as error:
                raise Rejected("WF622", f"vault.ca-file: {settings.ca_file} cannot be used: {error}") from error
            self._http = httpx.AsyncClient(
                base_url=settings.address,
                verify=context,
                timeout=settings.timeout_s,
                follow_redirects=False,
                trust_env=False,
            )
        return self._http


async def _content(response: httpx.Response) -> bytes:
    content = b""
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > RESPONSE_BYTES_MAX:
            raise Retryable(_CODE, f"Vault's response has more than {RESPONSE_BYTES_MAX >> 20} MiB")
    return content


def _text(value: Any) -> str | None:
    """A field as a step receives it: numbers and booleans as JSON. Lists and maps are not secrets."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if isinstance(value, bool | int | float) else None


def _raise_for_status(status: int, request: str) -> NoReturn:
    if status in _TEMPORARY or status >= 500:
        state = {429: "is overloaded or a standby", 503: "is sealed or in maintenance"}.get(status, "cannot answer now")
        raise Retryable(_CODE, f"Vault {state} (status {status})")
    if 300 <= status < 400:
        text = f"Vault redirects (status {status}), which is not followed; set vault.address to the active node"
        raise Rejected(_CODE, text)
    if status == _FORBIDDEN:
        raise Rejected(
            _CODE, f"Vault refuses {request} (status 403): the token is no longer valid, or its policy forbids it"
        )
    raise Rejected(_CODE, f"Vault refuses {request} (status {status})")


def _decoded(content: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # The decoder's message may quote the response.
        raise Retryable(_CODE, "the server at vault.address does not answer like Vault") from None
