"""The events of all streams as bytes, and back; see `model/codec.py` for the rules of one kind.

Rules of this file: the caller passes in the unions, one per kind of stream, keyed by the part of the stream's name before `/`.
An event that this release does not know is `Stalled` WF401.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from waterflowd.model.codec import SCHEMA, UPCASTERS, UnreadableError, Upcaster, ValueCodec
from waterflowd.model.ids import StreamName


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
        self._kinds = {
            kind: ValueCodec(kind, union, schema=schema, upcasters=upcasters) for kind, union in unions.items()
        }
        #: Bytes of one event.
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode

    def check(self, stream: StreamName) -> None:
        """Raises `ValueError` for a stream of an unknown kind."""
        if stream.partition("/")[0] not in self._kinds:
            raise ValueError(f"unknown kind of stream: {stream!r}")

    def decode(self, stream: StreamName, position: int, schema: int, body: bytes) -> Any:
        """The event in `body`. Raises `Stalled` WF401 when this release does not understand it."""
        try:
            kind = self._kinds.get(stream.partition("/")[0])
            if kind is None:
                raise UnreadableError("this kind of stream is unknown")
            return kind.decode(schema, body)
        except UnreadableError as error:
            raise error.stalled(f"event {position} of {stream}") from error
