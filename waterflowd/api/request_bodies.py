"""Reading requests: bodies with limits on size, time and depth, and the values in them.

Rules of this file: whatever is not known to be valid is rejected, with a `Rejected` that says what is expected. Integers are
limited to 64 bits, because the log can store no larger ones.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.api.responses import JSON_TYPE
from waterflowd.model import durations

#: A workflow file of 1 MiB, escaped as JSON, with room for inputs.
BODY_BYTES_MAX = 2 << 20
#: Our own clients send 2 MiB much faster.
BODY_S_MAX = 30.0
#: Depth of `vars` and `inputs`; the language itself allows 64.
DEPTH_MAX = 48
#: Values in `vars` and `inputs` together.
VALUES_MAX = 50_000

_TTL_MS_MIN = 1_000
#: Tokens with a longer life would never be replaced.
_TTL_MS_MAX = 400 * 86_400_000

YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/vnd.yaml"})

_Body = TypeVar("_Body")


def content_type(request: Request) -> str:
    """The media type without its parameters, in lower case; empty when there is none."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def read_body(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The whole body; `Rejected` 413 beyond the limit, 408 after the time limit, 400 when the client disconnects."""
    too_large = Rejected("WF607", f"the body is larger than {bytes_max >> 20} MiB", status=413)
    stated = request.headers.get("content-length", "0")
    if stated.isascii() and stated.isdecimal() and (len(stated) > 12 or int(stated) > bytes_max):
        raise too_large
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S_MAX):
            async for piece in request.stream():
                size += len(piece)
                if size > bytes_max:
                    raise too_large
                pieces.append(piece)
    except TimeoutError:
        raise Rejected("WF605", f"the body did not arrive within {BODY_S_MAX:.0f} s", status=408) from None
    except ClientDisconnect:
        raise Rejected("WF605", "the client disconnected before the end of the body") from None
    return b"".join(pieces)


async def read_json(request: Request, body_type: type[_Body]) -> _Body:
    """The body as `body_type`; an empty body is an empty object. `Rejected` 400 or 415 for anything else."""
    body = await read_body(request)
    if not body.strip():
        return parse_json(b"{}", body_type)
    if content_type(request) != JSON_TYPE:
        raise Rejected("WF608", "send the body as `Content-Type: application/json`", status=415)
    return parse_json(body, body_type)


def parse_json(body: bytes, body_type: type[_Body]) -> _Body:
    """`body` as `body_type`, without unknown keys."""
    try:
        return msgspec.json.decode(body, type=body_type)
    except RecursionError:
        raise Rejected("WF605", "the body is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Rejected("WF605", f"the body is not valid: {escape_for_display(str(error))}") from None


def check_values(values: Any, where: str) -> None:
    """`Rejected` 400 when `values` are nested too deeply, too many, or contain an integer beyond 64 bits."""
    count = 0
    level = [values]
    for _ in range(DEPTH_MAX + 1):
        following: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                following.extend(value.values())
            elif isinstance(value, list):
                following.extend(value)
            elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                raise Rejected("WF605", f"{where}: an integer exceeds 64 bits", where=where)
        count += len(following)
        if count > VALUES_MAX:
            raise Rejected("WF605", f"{where}: more than {VALUES_MAX} values", where=where)
        if not following:
            return
        level = following
    raise Rejected("WF605", f"{where}: nested deeper than {DEPTH_MAX} levels", where=where)


def check_path(path: str) -> str:
    """The path of a workflow that was sent; `Rejected` 400 unless it is relative, short, and without `..`."""
    parts = path.split("/")
    if not path or len(path) > 255 or not path.isprintable() or path.startswith("/") or ".." in parts or "\\" in path:
        raise Rejected(
            "WF605", "`path` must be relative, printable, without `..`, and at most 255 characters", where="path"
        )
    return path


def parse_ttl(ttl: str | int | None, *, default_ms: int) -> int:
    """The time to live of a token in ms: a duration such as `1h`, or seconds; `Rejected` 400 for anything else."""
    if ttl is None:
        return default_ms
    try:
        milliseconds = ttl * 1000 if isinstance(ttl, int) else durations.parse(ttl)
    except ValueError as error:
        raise Rejected("WF605", f"`ttl`: {error}", where="ttl") from None
    if not _TTL_MS_MIN <= milliseconds <= _TTL_MS_MAX:
        raise Rejected("WF605", "`ttl` must be between 1 s and 400 days", where="ttl")
    return milliseconds
