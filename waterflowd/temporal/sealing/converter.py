"""How values become payloads: structs as MessagePack, bytes as they are, errors without readable text; then all are sealed."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    BinaryNullPayloadConverter,
    BinaryPlainPayloadConverter,
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    EncodingPayloadConverter,
    JSONPlainPayloadConverter,
)

from waterflowd.temporal.sealing.codec import SealingCodec
from waterflowd.temporal.sealing.payload_keys import PayloadKeys

Value = TypeVar("Value")


class StructPayloadConverter(EncodingPayloadConverter):
    """Converts `msgspec.Struct` values. An unknown field of a newer release is ignored."""

    @property
    def encoding(self) -> str:
        """The name of the encoding in a payload's metadata."""
        return "binary/msgpack"

    def to_payload(self, value: Any) -> Payload | None:
        """The payload of a struct; None for anything else."""
        if not isinstance(value, msgspec.Struct):
            return None
        return Payload(metadata={"encoding": self.encoding.encode()}, data=msgspec.msgpack.encode(value))

    def from_payload(self, payload: Payload, type_hint: type[Value] | None = None) -> Any:
        """The struct; `type_hint` is its type."""
        return msgspec.msgpack.decode(payload.data, type=type_hint or Any)


class PayloadConverter(CompositePayloadConverter):
    """The conversions, in the order in which they are tried."""

    def __init__(self) -> None:
        super().__init__(
            BinaryNullPayloadConverter(),
            BinaryPlainPayloadConverter(),
            StructPayloadConverter(),
            JSONPlainPayloadConverter(),
        )


def data_converter(keys: PayloadKeys) -> DataConverter:
    """What a client of Temporal needs to read and write this engine's payloads."""
    return DataConverter(
        payload_converter_class=PayloadConverter,
        payload_codec=SealingCodec(keys),
        # The text of an error may contain anything, so it is a payload as well.
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
