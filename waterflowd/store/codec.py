"""Events as bytes, and bytes as events of this release.

Rules of this file:

- The caller brings the unions: one per kind of stream, keyed by what stands before `/` in the stream's name.
- Every record says which schema it was written under. An older one is decoded into plain values and led through the
  upcasters, one version after the other, until it has today's shape; then it becomes a typed event.
- What this release does not know (a newer schema, an unknown kind of event) is never skipped and never guessed:
  `Stalled` WF401. New fields need no new schema as long as they have defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from waterflow_agent.errors import Stalled
from waterflowd.model.ids import StreamName

#: The schema that events are written under today.
SCHEMA = 1

#: Takes an event in plain values from one schema to the next.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

#: By kind of stream, type of event and the schema that the event has; the result has the next one. Empty since schema 1.
UPCASTERS: dict[tuple[str, str, int], Upcaster] = {}


class _Tagged(msgspec.Struct):
    """Any event, as far as it says what it is."""

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
            raise ValueError(f"no events are known for streams like {stream!r}")

    def decode(self, stream: StreamName, position: int, schema: int, body: bytes) -> Any:
        """The event in `body`. Raises `Stalled` WF401 when this release does not understand it."""
        kind = stream.partition("/")[0]
        decoder = self._decoders.get(kind)
        if decoder is None:
            raise _unknown(stream, position, "this release knows no streams of that kind")
        try:
            if schema == self.schema:
                return decoder.decode(body)
            return msgspec.convert(self._upcast(stream, position, schema, body), self._unions[kind])
        except msgspec.DecodeError as error:
            raise self._not_understood(stream, position, body, error) from error

    def _upcast(self, stream: StreamName, position: int, schema: int, body: bytes) -> dict[str, Any]:
        if schema > self.schema:
            raise _unknown(stream, position, f"it has schema {schema}, this release knows {self.schema} and older")
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
        return _unknown(stream, position, f'its kind is "{name}" ({error})')


def _unknown(stream: StreamName, position: int, what: str) -> Stalled:
    return Stalled("WF401", f"this release does not understand event {position} of {stream}: {what}; upgrade Waterflow")
