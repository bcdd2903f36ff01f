"""Vault (or OpenBao): secrets of a key/value engine, version 1 or 2, over its HTTP API.

Rules of this file:

- The configuration says which field of which path each secret is. So a workflow can name no path, and what it cannot have is
  nobody's question to Vault.
- The daemon is let in by a token, or by AppRole, whose token it gets anew when two thirds of its time are over or Vault
  takes it no more. Either key comes from the environment, a systemd credential or a file, and is read each time it is used.
- One address, verified, without proxies, and https unless it is this machine: a redirect is refused, because the token would
  follow it.
- Answers are bounded in time and size. What they say is in no message: a status and our own words are enough.

| Vault | means |
|---|---|
| no answer, 412, 429, 472, 473, 5xx, garbage | `Retryable`: sealed, a standby, overloaded, or something in between |
| 404, or a path without the field | there is no such secret |
| any other status | `Rejected`: only a person can help |
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
from waterflowd.secrets.vault_settings import Field, Settings

#: A path of a key/value engine holds a few keys; Vault itself takes 1 MiB for one.
ANSWER_BYTES_MAX = 2 << 20
_CODE = "WF626"
_NOT_FOUND = 404
_FORBIDDEN = 403
#: Of 4xx: consistency not reached, too many requests, standby of a cluster.
_PASSING = frozenset({412, 429, 472, 473})


class _Answer(msgspec.Struct):
    data: dict[str, Any] = {}
    #: Seconds; 0 for no statement.
    lease_duration: int = 0


class _Auth(msgspec.Struct):
    client_token: str
    lease_duration: int = 0


class _Login(msgspec.Struct):
    auth: _Auth


class Vault:
    """A client of one server. `key` gives the token, or the secret id of the role; it may block, and raises `Rejected`."""

    def __init__(
        self, settings: Settings, key: Callable[[], str], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._key = key
        self._monotonic = monotonic
        self._http: httpx.AsyncClient | None = None
        #: The token that AppRole has given, and until when it is used.
        self._role_token: tuple[str, float] | None = None
        self._login = asyncio.Lock()

    def field(self, name: str) -> Field | None:
        """Where the secret with this plain name stands; None when the configuration does not say so."""
        return self._settings.fields.get(name)

    async def read(self, path: str) -> tuple[dict[str, str], float]:
        """What stands at a path by field, and for how many seconds they may be held; nothing when nothing is there.

        Raises `Retryable` and `Rejected` WF626, `Rejected` WF622 for a key that cannot be used.
        """
        settings = self._settings
        middle = "/data/" if settings.version == 2 else "/"
        status, content = await self._ask("GET", f"/v1/{settings.mount}{middle}{path}", await self._token())
        if status == _FORBIDDEN and self._role_token is not None:
            # It may have been revoked, or Vault was restored.
            self._role_token = None
            status, content = await self._ask("GET", f"/v1/{settings.mount}{middle}{path}", await self._token())
        if status == _NOT_FOUND:
            return {}, settings.held_s
        if status != 200:
            _refuse(status, f"path {path}")
        answer = _decoded(content, _Answer)
        found = answer.data.get("data") if settings.version == 2 else answer.data
        if not isinstance(found, dict):
            raise Retryable(_CODE, "Vault's answer holds no data; is kv-version right?")
        held_s = min(settings.held_s, answer.lease_duration or settings.held_s)
        return {name: text for name, value in found.items() if (text := _text(value)) is not None}, held_s

    async def close(self) -> None:
        """Closes the connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _token(self) -> str:
        if not self._settings.role_id:
            return await asyncio.to_thread(self._key)
        async with self._login:
            if self._role_token is None or self._role_token[1] <= self._monotonic():
                self._role_token = await self._logged_in()
            return self._role_token[0]

    async def _logged_in(self) -> tuple[str, float]:
        settings = self._settings
        body = {"role_id": settings.role_id, "secret_id": await asyncio.to_thread(self._key)}
        status, content = await self._ask("POST", f"/v1/auth/{settings.approle_mount}/login", None, body)
        if status != 200:
            _refuse(status, "login of the role")
        auth = _decoded(content, _Login).auth
        lease_s = auth.lease_duration or 3600
        return auth.client_token, self._monotonic() + lease_s * 2 / 3

    async def _ask(self, method: str, path: str, token: str | None, body: Any = None) -> tuple[int, bytes]:
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
            # Without the request, whose headers hold the token.
            raise Retryable(_CODE, f"Vault cannot be reached: {str(error) or type(error).__name__}") from None

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
        if len(content) > ANSWER_BYTES_MAX:
            raise Retryable(_CODE, f"Vault's answer has more than {ANSWER_BYTES_MAX >> 20} MiB")
    return content


def _text(value: Any) -> str | None:
    """A field as a step gets it: a number or a truth value is its JSON, what has parts is no secret."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if isinstance(value, bool | int | float) else None


def _refuse(status: int, what: str) -> NoReturn:
    if status in _PASSING or status >= 500:
        words = {429: "is overloaded or a standby", 503: "is sealed or in maintenance"}.get(status, "cannot answer now")
        raise Retryable(_CODE, f"Vault {words} (status {status})")
    if 300 <= status < 400:
        text = f"Vault redirects (status {status}), which is not followed; name the address of the active node"
        raise Rejected(_CODE, text)
    if status == _FORBIDDEN:
        raise Rejected(
            _CODE, f"Vault refuses the {what} (status 403): the token is none any more, or its policy forbids it"
        )
    raise Rejected(_CODE, f"Vault refuses the {what} (status {status})")


def _decoded(content: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # Its message may quote the answer.
        raise Retryable(_CODE, "what answers at Vault's address is not Vault") from None
