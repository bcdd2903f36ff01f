"""Encodes what is stored as bytes, and decodes bytes into the values of this release.

Rules of this file:

- There is one kind of value for each kind of stream (its events), and one for inputs and one for commands of the engine.
- Everything stored names the schema it was written with. An older value is decoded into plain values and passed through the
  upcasters, version by version, until it has the current shape; then it becomes a typed value.
- What this release does not know (a newer schema, an unknown type) is never skipped and never guessed. A new field needs no
  new schema as long as it has a default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from waterflow_agent.errors import Stalled

#: The schema that values are written with.
SCHEMA = 1

#: Converts a value in plain form from one schema to the next.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

#: By kind of value, its type and its schema; the result has the next schema. Empty: 1 is the first schema.
UPCASTERS: dict[tuple[str, str, int], Upcaster] = {}


class UnreadableError(ValueError):
    """This release does not understand a stored value; the text says why."""

    def stalled(self, name: str) -> Stalled:
        """The error for people; `name` says which value it is."""
        return Stalled("WF401", f"this release cannot read {name}: {self}; upgrade Waterflow")


class _Tagged(msgspec.Struct):
    """Any value, reduced to its type."""

    type: str = ""


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """A value together with its schema, for places that store only bytes."""

    schema: int
    body: msgspec.Raw


class ValueCodec:
    """Encodes and decodes the values of one kind. Safe to use from several threads."""

    def __init__(
        self,
        kind: str,
        union: Any,
        *,
        schema: int = SCHEMA,
        upcasters: Mapping[tuple[str, str, int], Upcaster] = UPCASTERS,
    ) -> None:
        self.schema = schema
        self._kind = kind
        self._union = union
        self._upcasters = upcasters
        self._decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(union).decode
        #: Bytes of one value.
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode

    def decode(self, schema: int, body: bytes) -> Any:
        """The value in `body`, which was written with `schema`. Raises `UnreadableError` if this release does not know it."""
        try:
            if schema == self.schema:
                return self._decode(body)
            return msgspec.convert(self._upcast(schema, body), self._union)
        except msgspec.DecodeError as error:
            raise _not_understood(body, error) from error

    def pack(self, value: Any) -> bytes:
        """Bytes of one value that name their schema."""
        return msgspec.msgpack.encode(_Packed(self.schema, msgspec.Raw(self.encode(value))))

    def unpack(self, packed: bytes) -> Any:
        """The value of `pack`. Raises `UnreadableError` if this release does not know it."""
        try:
            found = msgspec.msgpack.decode(packed, type=_Packed)
        except msgspec.DecodeError as error:
            raise UnreadableError(f"it cannot be decoded ({error})") from error
        return self.decode(found.schema, bytes(found.body))

    def _upcast(self, schema: int, body: bytes) -> dict[str, Any]:
        if schema > self.schema:
            raise UnreadableError(f"it has schema {schema}; this release knows schemas up to {self.schema}")
        value: dict[str, Any] = msgspec.msgpack.decode(body, type=dict[str, Any])
        for version in range(schema, self.schema):
            upcaster = self._upcasters.get((self._kind, value.get("type", ""), version))
            if upcaster is not None:
                value = upcaster(value)
        return value


def _not_understood(body: bytes, error: msgspec.DecodeError) -> UnreadableError:
    try:
        name = msgspec.msgpack.decode(body, type=_Tagged).type
    except msgspec.DecodeError:
        return UnreadableError(f"it cannot be decoded ({error})")
    return UnreadableError(f'its type is "{name}" ({error})')
