"""Frames survive any cut, and requests are checked field by field."""

from __future__ import annotations

import struct

import pytest

from waterflow_agent.runner import protocol
from waterflow_agent.runner.protocol import BadMessage, Decoder, StartRequest

MESSAGES: list[protocol.Message] = [
    {"type": "status"},
    {"type": "forget", "name": "a"},
    {"type": "start", "argv": ["ü", "\udcff"]},
]
VALID: protocol.Message = {"type": "start", "name": "a.1", "argv": ["/bin/true"], "cwd": "/", "env": {"A": "b"}}


def test_messages_are_decoded_wherever_the_stream_is_split() -> None:
    """The decoder returns the same messages wherever the bytes are cut."""
    stream = protocol.frames(map(protocol.encode, MESSAGES)) * 2
    for cut in range(len(stream)):
        decoder = Decoder()
        assert decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) == MESSAGES * 2


def test_many_messages_are_split_into_frames_that_a_peer_accepts() -> None:
    """No frame exceeds the limit, and nothing is lost."""
    large = protocol.encode({"type": "x", "text": "y" * (protocol.FRAME_BYTES_MAX // 3)})

    assert len(Decoder().feed(protocol.frames([large] * 7))) == 7


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">I", protocol.FRAME_BYTES_MAX + 1),
        struct.pack(">I", 3) + b"{]}",
        struct.pack(">I", 2) + b"{}",
        struct.pack(">I", 4) + b"[17]",
        struct.pack(">I", 4) + b"[{}]",
        struct.pack(">I", 12) + b'[{"type":1}]',
        struct.pack(">I", 1) + b"\xff",
        struct.pack(">I", 100_000) + b"[" * 100_000,
    ],
)
def test_an_invalid_list_of_messages_is_refused(frame: bytes) -> None:
    """Garbage closes the connection but does not stop the runner."""
    with pytest.raises(BadMessage):
        Decoder().feed(frame)


def test_a_valid_request_has_the_documented_defaults() -> None:
    """Omitted limits are those of the protocol."""
    request = StartRequest(VALID)

    assert (request.timeout_ms, request.grace_ms, request.output_bytes_max) == (None, 10_000, 64 * 1024 * 1024)
    assert (request.stop_signal, request.cgroup) == (15, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../x"),
        ("name", ".hidden"),
        ("name", "-option"),
        ("name", "a/b"),
        ("name", "a\nb"),
        ("name", ""),
        ("name", "x" * 201),
        ("name", None),
        ("argv", []),
        ("argv", [""]),
        ("argv", ["a\0b"]),
        ("argv", "true"),
        ("argv", [1]),
        ("cwd", "relative"),
        ("cwd", "/a\0b"),
        ("env", {"A=B": "c"}),
        ("env", {"": "c"}),
        ("env", {"A": "b\0c"}),
        ("env", {"A": 1}),
        ("env", None),
        ("timeout_ms", -1),
        ("timeout_ms", True),
        ("timeout_ms", 1.5),
        ("grace_ms", 2**53),
        ("stop_signal", 65),
        ("output_bytes_max", "64"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(field: str, value: object) -> None:
    """The refusal names the field."""
    with pytest.raises(BadMessage, match=field):
        StartRequest(VALID | {field: value})


def test_a_refusal_does_not_reveal_the_value_of_a_variable() -> None:
    """An environment may contain secrets."""
    with pytest.raises(BadMessage) as refusal:
        StartRequest(VALID | {"env": {"TOKEN": "hunter2\0"}})

    assert "hunter2" not in str(refusal.value)
