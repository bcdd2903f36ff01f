"""How values of the daemon become payloads and values again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter, WorkflowSerializationContext
from temporalio.exceptions import ApplicationError

from waterflowd.temporal.sealing import codec, converter
from waterflowd.temporal.sealing.payload_keys import PayloadKeys

KEYS = PayloadKeys([bytes(range(32))])


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A struct of this test."""

    text: str
    content: bytes = b""


class NewerNote(msgspec.Struct, frozen=True, kw_only=True):
    """The same struct in a newer release."""

    text: str
    more: int


def bound(workflow_id: str) -> DataConverter:
    return converter.data_converter(KEYS).with_context(
        WorkflowSerializationContext(namespace="waterflow", workflow_id=workflow_id)
    )


@pytest.mark.parametrize(
    ("value", "hint"),
    [(None, None), (b"\x00\xff", bytes), ("text", str), (Note(text="x", content=b"\x80"), Note), ({"a": [1]}, dict)],
)
async def test_every_kind_of_value_returns(value: Any, hint: type | None) -> None:
    """Structs become MessagePack, bytes are kept, everything else is JSON; all of it sealed."""
    payloads = await bound("run/1").encode([value])
    assert [payload.metadata["encoding"] for payload in payloads] == [codec.SEALED]
    assert await bound("run/1").decode(payloads, [hint] if hint else None) == [value]


async def test_a_field_of_a_newer_release_is_ignored() -> None:
    """During an upgrade, daemons of two releases work on one history."""
    payloads = await bound("run/1").encode([NewerNote(text="x", more=1)])
    assert await bound("run/1").decode(payloads, [Note]) == [Note(text="x")]


async def test_a_refused_payload_is_never_a_value() -> None:
    """Callers that do not ask for the refusal get an error, never a value."""
    [payload] = await bound("run/1").encode([Note(text="x")])
    with pytest.raises(KeyError, match="Unknown payload encoding"):
        await bound("run/2").decode([payload], [Note])


async def test_the_text_of_an_error_is_sealed() -> None:
    """Its type is readable: it is the name of a class or a code."""
    failure = Failure()
    error = ApplicationError("the password is hunter2", "more", type="WF111")
    await bound("run/1").encode_failure(error, failure)
    assert b"hunter2" not in failure.SerializeToString()
    assert b"more" not in failure.SerializeToString()
    assert failure.application_failure_info.type == "WF111"
    opened = await bound("run/1").decode_failure(failure)
    assert isinstance(opened, ApplicationError)
    assert (opened.message, list(opened.details)) == ("the password is hunter2", ["more"])


async def test_an_error_that_is_not_sealed_stays_an_error() -> None:
    """Temporal's own errors, such as a timeout, are not sealed."""
    failure = Failure(message="activity timed out")
    failure.timeout_failure_info.SetInParent()
    opened = await bound("run/1").decode_failure(failure)
    assert "timed out" in str(opened)


def test_only_structs_are_converted_as_structs() -> None:
    """Other values are left to the next conversion."""
    assert converter.StructPayloadConverter().to_payload({"a": 1}) is None
    made = converter.StructPayloadConverter().to_payload(Note(text="x"))
    assert isinstance(made, Payload)
    assert converter.StructPayloadConverter().from_payload(made) == {"text": "x", "content": b""}
