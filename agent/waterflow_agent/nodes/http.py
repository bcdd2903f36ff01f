"""The nodes `http/request` and `http/wait`.

A refused status fails with the beginning of the body. A status of `retry-status`, and a server that cannot be reached, are
failures after which trying again can help; `Retry-After` is waited for when it is short enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx

from waterflow_agent.nodes import files, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.parameter_values import duration_s

#: Of a refused answer's body, shown in the log.
SHOWN_BYTES = 1024
#: A `Retry-After` up to here is waited for by the node itself, once.
RETRY_AFTER_S_MAX = 60.0
_CHUNK = 64 << 10
#: Of headers, as the library takes them.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[!-~]+(?:[ \t]+[!-~]+)*)?")


def _statuses(wanted: Any) -> list[range]:
    found: list[range] = []
    for item in wanted if isinstance(wanted, list) else str(wanted).split(","):
        text = str(item).strip()
        if len(text) == 3 and text.endswith("xx") and text[0].isdigit():
            found.append(range(int(text[0]) * 100, int(text[0]) * 100 + 100))
        elif text.isdigit():
            found.append(range(int(text), int(text) + 1))
        else:
            raise NodeFailure(f'"{text}" is no status; write 200, or 2xx for all of them')
    return found


def _is_in(status: int, ranges: list[range]) -> bool:
    return any(status in one for one in ranges)


def client(*, verify: bool | str, timeout_s: float) -> httpx.AsyncClient:
    """A client that follows no redirect to another scheme's dangers: redirects are answers like others.

    Raises `NodeFailure` when there is no certificate in the file `verify`.
    """
    import ssl

    try:
        context: ssl.SSLContext | bool = (
            ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
        )
    except OSError as error:
        raise NodeFailure(f"verify: {verify}: {error.strerror or error}") from error
    return httpx.AsyncClient(verify=context, timeout=timeout_s, follow_redirects=False)


def headers(given: dict[str, str]) -> dict[str, str]:
    """The headers, if a request can have them. Raises `NodeFailure`, without a value: the library's own error shows it."""
    for name, value in given.items():
        if not _NAME.fullmatch(name):
            raise NodeFailure(f'headers: "{name}" is no name of a header')
        if not _VALUE.fullmatch(value):
            why = "a line break, a space at an end, or a letter that is not ASCII"
            raise NodeFailure(f'headers: "{name}" has a value that no header can have: {why}')
    return given


def may_pass(error: httpx.HTTPError) -> bool:
    """Whether trying again can help: not with what is no request, nor with a certificate that is not trusted."""
    is_request = not isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
    return is_request and "CERTIFICATE_VERIFY_FAILED" not in str(error)


class HttpRequestNode(Node[schema.HttpRequest]):
    """One request and its answer."""

    parameters = schema.HttpRequest

    async def run(self, context: Context, given: schema.HttpRequest) -> dict[str, Any]:
        """See the base class."""
        bodies = [name for name in ("body", "json", "form") if getattr(given, name) is not None]
        if len(bodies) > 1:
            raise NodeFailure(f"only one of {' and '.join(bodies)} can be sent")
        wanted, again = _statuses(given.expect_status), _statuses(given.retry_status)
        async with client(verify=given.verify, timeout_s=duration_s(given.timeout, "timeout")) as http:
            answer = await self._send(context, given, http)
            if _is_in(answer["status"], again) and not _is_in(answer["status"], wanted):
                wait_s = _retry_after_s(answer["headers"])
                if wait_s is not None:
                    context.log(f"{answer['status']}: asked to come back in {wait_s:g} s")
                    await asyncio.sleep(wait_s)
                    answer = await self._send(context, given, http)
        if not _is_in(answer["status"], wanted):
            beginning = answer["body"][:SHOWN_BYTES]
            if beginning:
                context.warn(beginning)
            may_retry = _is_in(answer["status"], again)
            raise NodeFailure(
                f"{given.method} {_shown(given.url)}: status {answer['status']}", may_retry=may_retry, outputs=answer
            )
        return answer

    async def _send(self, context: Context, given: schema.HttpRequest, http: httpx.AsyncClient) -> dict[str, Any]:
        began = time.monotonic()
        try:
            request = http.build_request(
                given.method.upper(),
                given.url,
                headers=headers(given.headers),
                params=given.query or None,
                content=given.body.encode() if given.body is not None else None,
                json=given.json,
                data=given.form,
            )
            response = await http.send(request, stream=True)
            try:
                body = await self._read(context, given, response)
            finally:
                await response.aclose()
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise NodeFailure(f"{_shown(given.url)} is no address: {error}") from error
        except httpx.HTTPError as error:
            text = str(error) or type(error).__name__
            raise NodeFailure(f"{given.method} {_shown(given.url)}: {text}", may_retry=may_pass(error)) from error
        elapsed_ms = round((time.monotonic() - began) * 1000)
        context.log(f"{given.method.upper()} {_shown(given.url)}: {response.status_code} in {elapsed_ms} ms")
        return {
            "status": response.status_code,
            "headers": dict(response.headers),
            "body": body,
            "json": _parsed(response, body),
            "elapsed-ms": elapsed_ms,
        }

    async def _read(self, context: Context, given: schema.HttpRequest, response: httpx.Response) -> str:
        target = context.path(given.save_to) if given.save_to is not None and response.is_success else None
        if target is None:
            content = b"".join([chunk async for chunk in self._chunks(given, response)])
            return content.decode(response.charset_encoding or "utf-8", "replace")
        new = target.with_name(f".{target.name}.{os.getpid()}.new")
        try:
            with new.open("wb") as file:
                async for chunk in self._chunks(given, response):
                    file.write(chunk)
                size = file.tell()
            new.replace(target)
        except OSError as error:
            raise files.failure("cannot write", target, error) from error
        finally:
            # Also when the step is cancelled; what is complete has another name by then.
            with contextlib.suppress(OSError):
                new.unlink()
        context.log(f"saved {size} bytes to {target}")
        return ""

    async def _chunks(self, given: schema.HttpRequest, response: httpx.Response) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in response.aiter_bytes(_CHUNK):
            size += len(chunk)
            if size > given.max_bytes:
                raise NodeFailure(f"the answer has more than {given.max_bytes} bytes; raise max-bytes")
            yield chunk


def _parsed(response: httpx.Response, body: str) -> Any:
    if "json" not in response.headers.get("content-type", ""):
        return None
    try:
        return json.loads(body)
    except ValueError:
        return None


def _retry_after_s(headers: dict[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    wait_s = float(text) if text.isdigit() else None
    return wait_s if wait_s is not None and wait_s <= RETRY_AFTER_S_MAX else None


def _shown(url: str) -> str:
    """The address without a password and without its query, either of which may be a secret."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "the address"
    return str(parsed.copy_with(userinfo=b"", query=None, fragment=None))


class HttpWaitNode(Node[schema.HttpWait]):
    """Asks again and again until the answer is the wanted one: a health check after a deploy."""

    parameters = schema.HttpWait

    async def run(self, context: Context, given: schema.HttpWait) -> dict[str, Any]:
        """See the base class."""
        wanted = _statuses(given.expect_status)
        give_up_at = time.monotonic() + duration_s(given.timeout, "timeout")
        pause_s = duration_s(given.interval, "interval")
        attempts, said = 0, ""
        async with client(verify=given.verify, timeout_s=max(1.0, min(30.0, pause_s * 5))) as http:
            while True:
                attempts += 1
                try:
                    response = await http.get(given.url)
                    if _is_in(response.status_code, wanted):
                        context.log(f"{_shown(given.url)}: {response.status_code} after {attempts} attempts")
                        return {"attempts": attempts, "status": response.status_code}
                    text = f"status {response.status_code}"
                except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                    raise NodeFailure(f"{_shown(given.url)} is no address: {error}") from error
                except httpx.HTTPError as error:
                    text = str(error) or type(error).__name__
                if text != said:
                    said = text
                    context.log(f"{_shown(given.url)}: {text}")
                if time.monotonic() + pause_s > give_up_at:
                    raise NodeFailure(
                        f"{_shown(given.url)} was not ready after {attempts} attempts: {text}",
                        may_retry=True,
                        outputs={"attempts": attempts},
                    )
                await asyncio.sleep(pause_s)
