"""The nodes `http/request` and `http/wait`.

An unexpected status fails and prints the beginning of the body. A retry can help after a status of `retry-status` or a
connection error; a short `Retry-After` is honoured at once.
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

#: The part of an unexpected response that is printed.
SHOWN_BYTES = 1024
#: The node waits once for a `Retry-After` up to this long.
RETRY_AFTER_S_MAX = 60.0
_CHUNK = 64 << 10
#: Names and values of headers that the library accepts.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[!-~]+(?:[ \t]+[!-~]+)*)?")


def _statuses(statuses: Any) -> list[range]:
    found: list[range] = []
    for item in statuses if isinstance(statuses, list) else str(statuses).split(","):
        text = str(item).strip()
        if len(text) == 3 and text.endswith("xx") and text[0].isdigit():
            found.append(range(int(text[0]) * 100, int(text[0]) * 100 + 100))
        elif text.isdigit():
            found.append(range(int(text), int(text) + 1))
        else:
            raise NodeFailure(f'invalid status "{text}"; use a number such as 200, or a class such as 2xx')
    return found


def _is_in(status: int, ranges: list[range]) -> bool:
    return any(status in one for one in ranges)


def client(*, verify: bool | str, timeout_s: float) -> httpx.AsyncClient:
    """Return a client that does not follow redirects.

    Raises `NodeFailure` if the file `verify` contains no certificate.
    """
    import ssl

    try:
        context: ssl.SSLContext | bool = (
            ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
        )
    except OSError as error:
        raise NodeFailure(f"verify: {verify}: {error.strerror or error}") from error
    return httpx.AsyncClient(verify=context, timeout=timeout_s, follow_redirects=False)


def headers(fields: dict[str, str]) -> dict[str, str]:
    """Check headers. Raises `NodeFailure` without the value, which the error of the library would reveal."""
    for name, value in fields.items():
        if not _NAME.fullmatch(name):
            raise NodeFailure(f'headers: invalid header name "{name}"')
        if not _VALUE.fullmatch(value):
            reason = "it contains a line break, space at an end, or characters outside ASCII"
            raise NodeFailure(f'headers: invalid value of "{name}": {reason}')
    return fields


def may_retry(error: httpx.HTTPError) -> bool:
    """Return whether a retry can help: not for an invalid request or an untrusted certificate."""
    is_request = not isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
    return is_request and "CERTIFICATE_VERIFY_FAILED" not in str(error)


class HttpRequestNode(Node[schema.HttpRequest]):
    """Sends one request."""

    parameters = schema.HttpRequest

    async def run(self, context: Context, parameters: schema.HttpRequest) -> dict[str, Any]:
        """See the base class."""
        bodies = [name for name in ("body", "json", "form") if getattr(parameters, name) is not None]
        if len(bodies) > 1:
            raise NodeFailure(f"{' and '.join(bodies)} are mutually exclusive")
        expected, retried = _statuses(parameters.expect_status), _statuses(parameters.retry_status)
        async with client(verify=parameters.verify, timeout_s=duration_s(parameters.timeout, "timeout")) as http:
            answer = await self._send(context, parameters, http)
            if _is_in(answer["status"], retried) and not _is_in(answer["status"], expected):
                wait_s = _retry_after_s(answer["headers"])
                if wait_s is not None:
                    context.log(f"{answer['status']}: retrying after {wait_s:g} s (Retry-After)")
                    await asyncio.sleep(wait_s)
                    answer = await self._send(context, parameters, http)
        if not _is_in(answer["status"], expected):
            beginning = answer["body"][:SHOWN_BYTES]
            if beginning:
                context.warn(beginning)
            may_retry = _is_in(answer["status"], retried)
            raise NodeFailure(
                f"{parameters.method} {_display_url(parameters.url)}: status {answer['status']}",
                may_retry=may_retry,
                outputs=answer,
            )
        return answer

    async def _send(self, context: Context, parameters: schema.HttpRequest, http: httpx.AsyncClient) -> dict[str, Any]:
        began = time.monotonic()
        try:
            request = http.build_request(
                parameters.method.upper(),
                parameters.url,
                headers=headers(parameters.headers),
                params=parameters.query or None,
                content=parameters.body.encode() if parameters.body is not None else None,
                json=parameters.json,
                data=parameters.form,
            )
            response = await http.send(request, stream=True)
            try:
                body = await self._read(context, parameters, response)
            finally:
                await response.aclose()
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise NodeFailure(f"invalid URL {_display_url(parameters.url)}: {error}") from error
        except httpx.HTTPError as error:
            text = str(error) or type(error).__name__
            raise NodeFailure(
                f"{parameters.method} {_display_url(parameters.url)}: {text}", may_retry=may_retry(error)
            ) from error
        elapsed_ms = round((time.monotonic() - began) * 1000)
        context.log(
            f"{parameters.method.upper()} {_display_url(parameters.url)}: {response.status_code} in {elapsed_ms} ms"
        )
        return {
            "status": response.status_code,
            "headers": dict(response.headers),
            "body": body,
            "json": _parsed(response, body),
            "elapsed-ms": elapsed_ms,
        }

    async def _read(self, context: Context, parameters: schema.HttpRequest, response: httpx.Response) -> str:
        target = context.path(parameters.save_to) if parameters.save_to is not None and response.is_success else None
        if target is None:
            content = b"".join([chunk async for chunk in self._chunks(parameters, response)])
            return _decoded(content, response.charset_encoding or "utf-8")
        new = target.with_name(f".{target.name}.{os.getpid()}.new")
        try:
            with new.open("wb") as file:
                async for chunk in self._chunks(parameters, response):
                    file.write(chunk)
                size = file.tell()
            new.replace(target)
        except OSError as error:
            raise files.failure("cannot write", target, error) from error
        finally:
            # Also if the step is cancelled; a complete file has been renamed by then.
            with contextlib.suppress(OSError):
                new.unlink()
        context.log(f"saved {size} bytes to {target}")
        return ""

    async def _chunks(self, parameters: schema.HttpRequest, response: httpx.Response) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in response.aiter_bytes(_CHUNK):
            size += len(chunk)
            if size > parameters.max_bytes:
                raise NodeFailure(f"the response is larger than {parameters.max_bytes} bytes; increase max-bytes")
            yield chunk


def _decoded(content: bytes, charset: str) -> str:
    """Return the text; UTF-8 if the server names a charset that Python does not have, or that is none."""
    try:
        return content.decode(charset, "replace")
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")


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


def _display_url(url: str) -> str:
    """Return the URL without password and query, which may be secrets."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "(hidden)"
    return str(parsed.copy_with(userinfo=b"", query=None, fragment=None))


async def _status(http: httpx.AsyncClient, url: str) -> int:
    """Return the status of one response, whose body is not read: it may be endless."""
    async with http.stream("GET", url) as response:
        return response.status_code


class HttpWaitNode(Node[schema.HttpWait]):
    """Sends requests until a response has an expected status, as a health check after a deployment."""

    parameters = schema.HttpWait

    async def run(self, context: Context, parameters: schema.HttpWait) -> dict[str, Any]:
        """See the base class."""
        expected = _statuses(parameters.expect_status)
        give_up_at = time.monotonic() + duration_s(parameters.timeout, "timeout")
        pause_s = duration_s(parameters.interval, "interval")
        attempts, reported = 0, ""
        async with client(verify=parameters.verify, timeout_s=max(1.0, min(30.0, pause_s * 5))) as http:
            while True:
                attempts += 1
                try:
                    # A server that sends its answer byte by byte must not outlast the timeout either.
                    async with asyncio.timeout(max(0.0, give_up_at - time.monotonic())):
                        status = await _status(http, parameters.url)
                    if _is_in(status, expected):
                        context.log(f"{_display_url(parameters.url)}: {status} after {attempts} attempts")
                        return {"attempts": attempts, "status": status}
                    text = f"status {status}"
                except TimeoutError:
                    # Only the last attempt is cut off. What those before it have found says more.
                    text = reported or f"no answer within {parameters.timeout}"
                except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                    raise NodeFailure(f"invalid URL {_display_url(parameters.url)}: {error}") from error
                except httpx.HTTPError as error:
                    text = str(error) or type(error).__name__
                if text != reported:
                    reported = text
                    context.log(f"{_display_url(parameters.url)}: {text}")
                if time.monotonic() + pause_s > give_up_at:
                    raise NodeFailure(
                        f"{_display_url(parameters.url)} not ready after {attempts} attempts: {text}",
                        may_retry=True,
                        outputs={"attempts": attempts},
                    )
                await asyncio.sleep(pause_s)
