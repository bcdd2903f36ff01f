"""Opens sealed payloads for people, and shows what is inside as JSON: for Temporal's web pages and command line.

Rules of this file:

- It shows; nothing that it returns is used again. So it needs no types: stored values name their kinds and fields, and those of
  a newer release are shown as well.
- Bytes inside of a value are shown as what they contain: a fact, an order or an input as an object, text as text.
- A payload that does not open becomes one sentence with the reason. The others are shown.
- Everything is limited, because a small payload may inflate to a large one: `SHOWN_BYTES_MAX` for one request.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from temporalio.api.common.v1 import Payload

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.admin.ports import DecodedPayloads, SealedPayload
from waterflowd.temporal.sealing import codec
from waterflowd.temporal.sealing.payload_keys import PayloadKeys

#: The content of all payloads of one request together.
SHOWN_BYTES_MAX = 8 << 20
#: Values inside of values; the language itself allows 64 levels, and each level of bytes has one of its own.
_DEPTH_MAX = 100
#: Bytes that are neither a value nor text, such as hashes, are shown up to here.
_RAW_BYTES_MAX = 64
#: Times before 2001 and after 2286 are numbers.
_TIMES = range(10**12, 10**13)
_SHOWN = b"json/plain"


class PayloadDecoder:
    """Implements `admin.ports.PayloadDecoder`."""

    def __init__(self, keys: PayloadKeys) -> None:
        self._keys = keys

    async def decode(self, payloads: Sequence[SealedPayload]) -> DecodedPayloads:
        """See `admin.ports.PayloadDecoder`."""
        return await asyncio.to_thread(self._decode, payloads)

    def _decode(self, payloads: Sequence[SealedPayload]) -> DecodedPayloads:
        streams: set[str] = set()
        shown: list[SealedPayload] = []
        left = SHOWN_BYTES_MAX
        for item in payloads:
            payload = Payload(metadata=item.metadata, data=item.data)
            stream = codec.stated_workflow(payload)
            if stream is None:
                # A signal that somebody sent by hand, for example.
                shown.append(item)
                continue
            try:
                opened = codec.unseal(payload, stream, self._keys, max(left, 1))
            except Stalled as error:
                shown.append(_json(f"this payload cannot be shown: {error.text} [{error.code}]"))
                continue
            except Rejected as error:
                text = (
                    f"the payloads of this request have more than {SHOWN_BYTES_MAX:,} bytes; next: open fewer at a time"
                )
                shown.append(_json(f"this payload cannot be shown: {text} [{error.code}]"))
                continue
            if refusal := codec.refusal(opened):
                shown.append(_json(f"no daemon has sealed this payload for a workflow: {refusal}"))
                continue
            streams.add(stream)
            left -= len(opened.data)
            shown.append(_show(opened))
        return DecodedPayloads(streams=frozenset(streams), payloads=shown)


def _show(payload: Payload) -> SealedPayload:
    if payload.metadata.get("encoding") in (b"binary/plain", b"binary/msgpack"):
        return _json(_readable(payload.data, 0))
    return SealedPayload(metadata=dict(payload.metadata), data=payload.data)


def _json(value: Any) -> SealedPayload:
    return SealedPayload(metadata={"encoding": _SHOWN}, data=msgspec.json.encode(value))


def _readable(content: bytes, depth: int) -> Any:
    """Bytes as what they contain: a value, text, or only bytes."""
    fields = _fields(content)
    if fields is not None:
        return _plain(fields, depth)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if all(letter.isprintable() or letter in "\n\t" for letter in text):
        return text
    shown = base64.b64encode(content[:_RAW_BYTES_MAX]).decode()
    return f"{len(content):,} bytes: {shown}{'...' if len(content) > _RAW_BYTES_MAX else ''}"


def _fields(content: bytes) -> dict[Any, Any] | None:
    """The fields of a stored value, which may be packed with its schema, and a fact with its time; None for other bytes."""
    try:
        found = msgspec.msgpack.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    match found:
        case dict() as fields:
            return fields
        case [int(), dict() as fields]:
            return fields
        case [int(), int() as at, dict() as fields]:
            return {"at": at, **fields}
    return None


def _plain(value: Any, depth: int, name: str = "") -> Any:
    """A value as JSON can hold it."""
    if depth > _DEPTH_MAX:
        return "(nested too deeply to be shown)"
    match value:
        case dict():
            return {str(key): _plain(each, depth + 1, str(key)) for key, each in value.items()}
        case list():
            return [_plain(each, depth + 1) for each in value]
        case bytes():
            return _readable(value, depth + 1)
        case int() if value in _TIMES and (name in ("at", "now") or name.endswith("_at")):
            return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case float() | int() | str() | None:
            return value
    return str(value)
