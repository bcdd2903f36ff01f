"""Reading what a request holds: bodies with limits of size, time and depth, and names that come in paths.

Rules of this file: a request is wrong until it is proven right, and what is wrong with it is a `Rejected` that says what
would be right. Numbers are kept to 64 bits, because that is what the log can hold.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected

#: A workflow file of 1 MiB, escaped as JSON, with room for inputs.
BODY_BYTES_MAX = 2 << 20
#: A client that takes longer than this for 2 MiB is not one of ours.
BODY_S_MAX = 30.0
#: Depth of `vars` and `inputs`; the language itself allows 64.
DEPTH_MAX = 48
#: Values in `vars` and `inputs` together.
VALUES_MAX = 50_000

YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/vnd.yaml"})
JSON_TYPE = "application/json"

_Shape = TypeVar("_Shape")
_encoder = msgspec.json.Encoder()


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(_encoder.encode(content), status_code=status, headers=headers, media_type=JSON_TYPE)


def content_type(request: Request) -> str:
    """The media type without its parameters, in small letters; empty when there is none."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def read_body(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The whole body; `Rejected` 413 beyond the limit, 408 when it takes too long, 400 when the client goes away."""
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
        raise Rejected("WF605", "the client went away in the middle of the body") from None
    return b"".join(pieces)


async def read_json(request: Request, shape: type[_Shape]) -> _Shape:
    """The body as `shape`; an empty body is an empty object. `Rejected` 400 or 415 for anything else."""
    body = await read_body(request)
    if not body.strip():
        return parse_json(b"{}", shape)
    if content_type(request) != JSON_TYPE:
        raise Rejected("WF608", "send the body as `Content-Type: application/json`", status=415)
    return parse_json(body, shape)


def parse_json(body: bytes, shape: type[_Shape]) -> _Shape:
    """`body` as `shape`, with unknown keys refused."""
    try:
        return msgspec.json.decode(body, type=shape)
    except RecursionError:
        raise Rejected("WF605", "the body is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Rejected("WF605", f"the body is not what is expected here: {escape_for_display(str(error))}") from None


def described(shape: type[msgspec.Struct]) -> dict[str, Any]:
    """The body that `read_json` takes for `shape`, for `openapi_extra` of its route."""
    schema = msgspec.json.schema(shape)
    content = {JSON_TYPE: {"schema": schema["$defs"][shape.__name__]}}
    is_required = any(field.required for field in msgspec.structs.fields(shape))
    return {"requestBody": {"required": is_required, "content": content}}


def check_values(values: Any, where: str) -> None:
    """`Rejected` 400 when `values` are too deep, too many, or hold a number that 64 bits cannot."""
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
                raise Rejected("WF605", f"{where}: a whole number needs more than 64 bits", where=where)
        count += len(following)
        if count > VALUES_MAX:
            raise Rejected("WF605", f"{where}: more than {VALUES_MAX} values", where=where)
        if not following:
            return
        level = following
    raise Rejected("WF605", f"{where}: nested deeper than {DEPTH_MAX} levels", where=where)


def checked_path(path: str) -> str:
    """The path under which a file was sent: relative, short, without `..` and control characters."""
    parts = path.split("/")
    if not path or len(path) > 255 or not path.isprintable() or path.startswith("/") or ".." in parts or "\\" in path:
        raise Rejected(
            "WF605", "`path` must be relative, printable, without `..`, and at most 255 characters", where="path"
        )
    return path
