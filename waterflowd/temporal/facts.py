"""Facts of streams as bytes: an event with its time, and the schema that it was written with.

Rules of this file: the events are those of the log engine, under the same kinds, so the same upcasters read old ones. A time is
part of the fact, because Temporal's own times are those of its tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from waterflowd.model.codec import UnreadableError, ValueCodec


class Fact(NamedTuple):
    """One event, and when it was decided (ms)."""

    at: int
    event: Any


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    schema: int
    at: int
    body: msgspec.Raw


#: Made on import, on one thread: see `workflow.messages.PREPARED`.
_decode_packed = msgspec.msgpack.Decoder(_Packed).decode


class FactCodec:
    """Encodes the facts of streams of one kind: `run`, `repo`, `fleet`, `audit`."""

    def __init__(self, kind: str, union: Any) -> None:
        self._events = ValueCodec(kind, union)

    def pack(self, at: int, event: Any) -> bytes:
        """An event as a fact."""
        return msgspec.msgpack.encode(_Packed(self._events.schema, at, msgspec.Raw(self._events.encode(event))))

    def unpack(self, stream: str, fact: bytes) -> Fact:
        """A fact of a stream. Raises `Stalled` WF401 for one that this release does not understand."""
        try:
            found = _decode_packed(fact)
            return Fact(found.at, self._events.decode(found.schema, bytes(found.body)))
        except msgspec.DecodeError as error:
            raise UnreadableError(f"it cannot be decoded ({error})").stalled(f"a fact of {stream}") from error
        except UnreadableError as error:
            raise error.stalled(f"a fact of {stream}") from error


#: Of a stream without facts.
NO_FACTS = b""


def chain(before: bytes, facts: Iterable[bytes]) -> bytes:
    """Names a sequence of facts: the hash of all of them, from the hash of those before."""
    for fact in facts:
        before = hashlib.blake2b(before + fact, digest_size=16).digest()
    return before


# Snapshots of shared streams ------------------------------------------------------------------------------------------


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    position: int
    count: int


_decode_header = msgspec.msgpack.Decoder(_Header).decode


#: A header is an array of two elements, a fact one of three.
_HEADER_BYTE = b"\x92"


class Parts(NamedTuple):
    """The facts of a shared stream: those of its newest snapshot, and later ones, which begin after the position `base`."""

    base: int
    snapshot: Sequence[bytes]
    later: Sequence[bytes]


def snapshot_header(position: int, count: int) -> bytes:
    """Stands before the `count` facts that replace all facts up to `position`."""
    return msgspec.msgpack.encode(_Header(position, count))


def parts(stored: Sequence[bytes]) -> Parts:
    """The parts of everything that a shared stream has stored."""
    if not stored or not stored[0].startswith(_HEADER_BYTE):
        return Parts(0, (), stored)
    header = _decode_header(stored[0])
    return Parts(header.position, stored[1 : 1 + header.count], stored[1 + header.count :])
