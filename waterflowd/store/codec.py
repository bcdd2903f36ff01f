"""Encodes events as bytes, and decodes bytes into the events of this release.

Rules of this file:

- The caller passes in the unions: one per kind of stream, keyed by the part of the stream's name before `/`.
- Every record names the schema it was written with. An older one is decoded into plain values and passed through the
  upcasters, version by version, until it has the current shape; then it becomes a typed event.
- What this release does not know (a newer schema, an unknown kind of event) is never skipped and never guessed:
  `Stalled` WF401. A new field needs no new schema as long as it has a default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from waterflow_agent.errors import Stalled
from waterflowd.model.ids import StreamName

#: The schema that events are written with.
SCHEMA = 1

#: Converts an event in plain values from one schema to the next.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

#: By kind of stream, type of event and the event's schema; the result has the next schema. Empty: 1 is the first schema.
UPCASTERS: dict[tuple[str, str, int], Upcaster] = {}


class _Tagged(msgspec.Struct):
    """Any event, reduced to its type."""

    type: str = ""


class Codec:
    """Encodes and decodes the events of all streams. Safe to use from several threads."""

    def __init__(
        self,
        unions: Mapping[str, Any],
        *,
        schema: int = SCHEMA,
        upcasters: Mapping[tuple[str, str, int], Upcaster] = UPCASTERS,
    ) -> None:
        self.schema = schema
        self._upcasters = upcasters
        self._unions = dict(unions)
        self._decoders = {kind: msgspec.msgpack.Decoder(union) for kind, union in unions.items()}
        #: Bytes of one event.
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode

    def check(self, stream: StreamName) -> None:
        """Raises `ValueError` for a stream of an unknown kind."""
        if stream.partition("/")[0] not in self._decoders:
            raise ValueError(f"unknown kind of stream: {stream!r}")

    def decode(self, stream: StreamName, position: int, schema: int, body: bytes) -> Any:
        """The event in `body`. Raises `Stalled` WF401 when this release does not understand it."""
        kind = stream.partition("/")[0]
        decoder = self._decoders.get(kind)
        if decoder is None:
            raise _unknown(stream, position, "this kind of stream is unknown")
        try:
            if schema == self.schema:
                return decoder.decode(body)
            return msgspec.convert(self._upcast(stream, position, schema, body), self._unions[kind])
        except msgspec.DecodeError as error:
            raise self._not_understood(stream, position, body, error) from error

    def _upcast(self, stream: StreamName, position: int, schema: int, body: bytes) -> dict[str, Any]:
        if schema > self.schema:
            raise _unknown(stream, position, f"it has schema {schema}; this release knows schemas up to {self.schema}")
        kind = stream.partition("/")[0]
        event: dict[str, Any] = msgspec.msgpack.decode(body, type=dict[str, Any])
        for version in range(schema, self.schema):
            upcaster = self._upcasters.get((kind, event.get("type", ""), version))
            if upcaster is not None:
                event = upcaster(event)
        return event

    def _not_understood(self, stream: StreamName, position: int, body: bytes, error: msgspec.DecodeError) -> Stalled:
        try:
            name = msgspec.msgpack.decode(body, type=_Tagged).type
        except msgspec.DecodeError:
            return _unknown(stream, position, f"it cannot be decoded ({error})")
        return _unknown(stream, position, f'its type is "{name}" ({error})')


def _unknown(stream: StreamName, position: int, what: str) -> Stalled:
    return Stalled("WF401", f"this release cannot read event {position} of {stream}: {what}; upgrade Waterflow")
