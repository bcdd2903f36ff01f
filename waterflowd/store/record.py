"""One record of the log as bytes: a header of 64 bytes, the stream's name (run streams have none), the event, perhaps a seal.

    crc u32 · layout u8 · name length u8 · schema u16 · previous u64 · run 16 bytes · chain 16 bytes · position u64 · at u64

- `crc` is a CRC-32 over the rest, seeded with the global sequence: a record found under another key is broken.
- `previous` is the global sequence of the stream's previous record; 0 for the first. Streams are read along it.
- `chain` is a BLAKE2b hash over the previous record's chain and this record's position, time, schema and event. The chain
  starts with the hash of the stream's name. It does not cover global sequences, so a stream keeps its chain when its records
  are moved. A CRC detects an accident; the chain also detects a record that was replaced or left out.
- `layout` is 2 for a record that ends with a seal (sealing.py), else 1.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import NamedTuple

from waterflow_agent.errors import Stalled
from waterflowd.model.ids import StreamName
from waterflowd.store import layout
from waterflowd.store.sealing import SEAL_BYTES

RECORD_LAYOUT, SEALED_LAYOUT = 1, 2
CHAIN_BYTES = 16

_REST = struct.Struct(">BBHQ16s16sQQ")
_CHAINED = struct.Struct(">HQQ")
_HEADER_BYTES = 4 + _REST.size
_NO_RUN = bytes(16)


class StreamRef(NamedTuple):
    """A stream as records refer to it: run streams by 16 bytes, the others by name."""

    run: bytes
    name: bytes


class StoredRecord(NamedTuple):
    """A record as it was stored; its CRC has been checked, its chain has not."""

    seq: int
    stream: StreamRef
    position: int
    at: int
    previous: int
    chain: bytes
    schema: int
    body: bytes
    #: The id of a key, and the seal that it made; empty for a record without one.
    seal: bytes = b""


def stream_ref(key: bytes) -> StreamRef:
    """How records refer to a stream, from its key in `heads`."""
    return StreamRef(key[1:], b"") if key[:1] == b"r" else StreamRef(_NO_RUN, key[1:])


def stream_name(stream: StreamRef) -> StreamName:
    """The stream's name."""
    return StreamName(stream.name.decode() if stream.name else f"run/{layout.run_of_key(stream.run)}")


def chain_start(key: bytes) -> bytes:
    """The chain before a stream's first record."""
    return hashlib.blake2b(key, digest_size=CHAIN_BYTES).digest()


def next_chain(chain: bytes, schema: int, position: int, at: int, body: bytes) -> bytes:
    """The chain after an event, from the chain before it."""
    return hashlib.blake2b(
        b"".join((chain, _CHAINED.pack(schema, position, at), body)), digest_size=CHAIN_BYTES
    ).digest()


def pack(stored: StoredRecord) -> bytes:
    """A record as bytes."""
    seq, (run, name), position, at, previous, chain, schema, body, seal = stored
    record_layout = SEALED_LAYOUT if seal else RECORD_LAYOUT
    header = _REST.pack(record_layout, len(name), schema, previous, run, chain, position, at)
    rest = b"".join((header, name, body, seal))
    return zlib.crc32(rest, seq & 0xFFFFFFFF).to_bytes(4, "big") + rest


def unpack(seq: int, value: bytes) -> StoredRecord:
    """The record in `value`. Raises `Stalled` WF304 when it is damaged, WF401 when a newer release wrote it."""
    if len(value) < _HEADER_BYTES or zlib.crc32(value[4:], seq & 0xFFFFFFFF) != int.from_bytes(value[:4], "big"):
        raise broken(seq, "its checksum does not match")
    record_layout, name_length, schema, previous, run, chain, position, at = _REST.unpack_from(value, 4)
    if record_layout not in (RECORD_LAYOUT, SEALED_LAYOUT):
        raise Stalled(
            "WF401", f"record {seq} has layout {record_layout}; this release knows {SEALED_LAYOUT}; upgrade Waterflow"
        )
    name_end = _HEADER_BYTES + name_length
    body_end = len(value) - (SEAL_BYTES if record_layout == SEALED_LAYOUT else 0)
    stream = StreamRef(run, value[_HEADER_BYTES:name_end])
    return StoredRecord(seq, stream, position, at, previous, chain, schema, value[name_end:body_end], value[body_end:])


def claimed_stream(value: bytes) -> StreamRef | None:
    """The stream that a damaged record says it belongs to, if its header is long enough; it may be wrong."""
    if len(value) < _HEADER_BYTES:
        return None
    _, name_length, _, _, run, *_ = _REST.unpack_from(value, 4)
    return StreamRef(run, value[_HEADER_BYTES : _HEADER_BYTES + name_length])


def broken(seq: int, what: str, owner: str = "") -> Stalled:
    """The error for a damaged record of `owner`, such as `run 01...`, if that is known."""
    of_owner = f" ({owner})" if owner else ""
    text = f"record {seq} of the log{of_owner} is damaged: {what}; the records before it are intact, restore a backup"
    return Stalled("WF304", text)
