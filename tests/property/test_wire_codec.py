"""Any bytes are either a frame or the single error that closes a session."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.attempts import Outcome
from waterflow_agent.errors import RemoteProtocolError
from waterflow_agent.testing import task_id
from waterflow_agent.wire import codec, messages

_numbers = st.integers(min_value=0, max_value=2**53)
_texts = st.text(max_size=12)
_keys = st.builds(task_id, run=_texts, job=_texts, step=_texts, number=_numbers, epoch=_numbers)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=5,
)
_tasks = st.builds(
    messages.Task,
    key=_keys,
    node=_texts,
    params=st.dictionaries(_texts, _json, max_size=3),
    env=st.dictionaries(_texts, _texts, max_size=3),
    step_name=_texts,
    working_directory=st.none() | _texts,
    timeout_ms=_numbers,
    stop_signal=_texts,
    grace_ms=_numbers,
    output_bytes_max=_numbers,
    boot_id=_texts,
    instance=_texts,
)
_started = st.builds(messages.Started, key=_keys, at=_numbers)
_finished = st.builds(
    messages.Finished,
    key=_keys,
    outcome=st.sampled_from(Outcome),
    exit_code=st.none() | st.integers(-255, 255),
    reason_code=_texts,
    reason_text=_texts,
    outputs=st.dictionaries(_texts, _json, max_size=3),
    env=st.dictionaries(_texts, _texts, max_size=2),
    started_at=_numbers,
    finished_at=_numbers,
    output_bytes=_numbers,
    output_dropped=_numbers,
    summary=_texts,
)
_chunks = st.builds(messages.OutputChunk, at=_numbers, stream=st.sampled_from([1, 2]), data=st.binary(max_size=20))
_outputs = st.builds(messages.Output, key=_keys, offset=_numbers, chunks=st.lists(_chunks, max_size=3))
_offers = st.builds(messages.Offer, task=_tasks)
_cancels = st.builds(messages.Cancel, key=_keys, force=st.booleans(), reason=_texts)
_releases = st.builds(messages.Release, run=_texts, job=_texts)
_output_acks = st.builds(messages.OutputAck, key=_keys, offset=_numbers)
_wanted = st.builds(
    messages.FileRequest,
    key=_keys,
    number=_numbers,
    blobs=st.lists(st.binary(max_size=20), max_size=3),
    offset=_numbers,
)
_contents = st.builds(
    messages.FileResponse,
    key=_keys,
    number=_numbers,
    chunks=st.lists(st.builds(messages.FileChunk, size=_numbers, data=st.binary(max_size=20)), max_size=3),
    code=_texts,
    text=_texts,
    after_ms=_numbers,
)
_digests = st.binary(min_size=32, max_size=32)
_names = st.text(min_size=1, max_size=20)
_counts = st.integers(min_value=0, max_value=1 << 62)
_actions = st.one_of(
    st.builds(messages.BeginArtifact, name=_names, is_replacing=st.booleans(), files=_counts, size=_counts),
    st.builds(
        messages.FindBlocks,
        blocks=st.lists(_digests, max_size=3),
        sizes=st.lists(st.integers(1, messages.ARTIFACT_BLOCK_BYTES_MAX), max_size=3),
        is_for_cache=st.booleans(),
    ),
    st.builds(messages.StoreBlock, block=_digests, data=st.binary(min_size=1, max_size=20)),
    st.builds(
        messages.CommitArtifact,
        name=_names,
        is_replacing=st.booleans(),
        files=_counts,
        size=_counts,
        table=st.lists(_digests, max_size=3),
        listing=st.lists(_digests, max_size=3),
        retention_days=st.integers(min_value=0, max_value=36_500),
    ),
    st.builds(messages.ListArtifacts, name=st.text(max_size=20)),
    st.builds(
        messages.ReadBlock,
        name=_names,
        digest=_digests,
        part=st.sampled_from(messages.ArtifactPart),
        index=_counts,
        addresses=st.integers(0, messages.ARTIFACT_ADDRESSES_MAX),
    ),
    st.builds(messages.BeginCache, key=_names, version=_digests, files=_counts, size=_counts),
    st.builds(
        messages.CommitCache,
        key=_names,
        version=_digests,
        files=_counts,
        size=_counts,
        table=st.lists(_digests, max_size=3),
        listing=st.lists(_digests, max_size=3),
    ),
    st.builds(messages.FindCache, keys=st.lists(_names, min_size=1, max_size=10), version=_digests),
    st.builds(
        messages.ReadCacheBlock,
        key=_names,
        version=_digests,
        digest=_digests,
        part=st.sampled_from(messages.ArtifactPart),
        index=_counts,
    ),
    st.builds(messages.FindCacheOrigin),
)
_artifact_requests = st.builds(messages.ArtifactRequest, key=_keys, number=_numbers, action=_actions)
_rows = st.builds(
    messages.ArtifactRow,
    name=_texts,
    digest=_digests,
    files=_numbers,
    size=_numbers,
    table=st.lists(_digests, max_size=3),
    listing=st.lists(_digests, max_size=3),
)
_cache_rows = st.builds(
    messages.CacheRow,
    key=_texts,
    digest=_digests,
    files=_numbers,
    size=_numbers,
    table=st.lists(_digests, max_size=3),
    listing=st.lists(_digests, max_size=3),
)
_addresses = st.lists(
    st.builds(messages.BlockAddress, url=_texts, headers=st.dictionaries(_texts, _texts, max_size=2)), max_size=2
)
_results = st.one_of(
    st.none(),
    st.builds(messages.ArtifactAccepted),
    st.builds(messages.MissingBlocks, positions=st.lists(_numbers, max_size=3), addresses=_addresses),
    st.builds(messages.BlockAddresses, blocks=_addresses),
    st.builds(messages.ArtifactsListed, artifacts=st.lists(_rows, max_size=2)),
    st.builds(messages.BlockRead, data=st.binary(max_size=20)),
    st.builds(messages.CacheAccepted, is_new=st.booleans()),
    st.builds(messages.CacheFound, entry=st.none() | _cache_rows),
    st.builds(messages.CacheOrigin, scope=_texts, refs=st.lists(_texts, max_size=2).map(tuple)),
)
_artifact_responses = st.builds(
    messages.ArtifactResponse,
    key=_keys,
    number=_numbers,
    result=_results,
    code=_texts,
    text=_texts,
    after_ms=_numbers,
)

_SIDES = {
    codec.Side.AGENT: (_started | _finished, _outputs | _wanted | _artifact_requests),
    codec.Side.DAEMON: (_offers | _cancels | _releases, _output_acks | _contents | _artifact_responses),
}


@st.composite
def frames(draw: st.DrawFn) -> tuple[codec.Side, list[Any], list[Any], bytes]:
    side = draw(st.sampled_from(codec.Side))
    numbered_of, loose_of = _SIDES[side]
    numbered = draw(st.lists(numbered_of, max_size=4))
    loose = draw(st.lists(loose_of, max_size=4))
    encoded = codec.encode_frame(
        draw(_texts),
        draw(_numbers),
        draw(_numbers),
        [*map(codec.encode_message, numbered)],
        [*map(codec.encode_message, loose)],
    )
    return side, numbered, loose, encoded


@given(frames())
def test_every_frame_is_decoded_unchanged(made: tuple[codec.Side, list[object], list[object], bytes]) -> None:
    """Encoding and decoding returns the same messages in the same order."""
    side, numbered, loose, encoded = made

    frame = codec.decode_frame(encoded, side)

    assert frame.numbered == numbered
    assert frame.loose == loose


def _decode_or_refuse(content: bytes) -> None:
    """Only a `RemoteProtocolError` may be raised; anything else fails the test."""
    for side in codec.Side:
        with contextlib.suppress(RemoteProtocolError):
            codec.decode_frame(content, side)
    for decode in (codec.decode_enroll_request, codec.decode_enroll_answer):
        with contextlib.suppress(RemoteProtocolError):
            decode(content)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_frame_or_one_error(content: bytes) -> None:
    """The codec raises no other exception, whatever the bytes."""
    _decode_or_refuse(content)


@given(st.recursive(_json | st.binary(max_size=5), lambda inner: st.lists(inner, max_size=6), max_leaves=30))
def test_any_msgpack_is_a_frame_or_one_error(value: object) -> None:
    """Well-formed msgpack of any shape is a frame or refused."""
    _decode_or_refuse(msgspec.msgpack.encode(value))


@given(frames(), st.data())
def test_a_damaged_frame_is_a_frame_or_one_error(
    made: tuple[object, object, object, bytes], data: st.DataObject
) -> None:
    """A frame with bytes flipped, cut or inserted never raises anything else."""
    content = bytearray(made[3])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip" if at < len(content):
                content[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[at:]
            case _:
                content[at:at] = data.draw(st.binary(min_size=1, max_size=6))
    _decode_or_refuse(bytes(content))
