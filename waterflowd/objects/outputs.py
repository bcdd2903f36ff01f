"""Output logs as objects: each append of a log is one object,
`output/<run>/<job and step>/<attempt>/<offset>-<end>-<newline bytes>-<pieces that say what was left out>`.

Rules of this file:

- An object is never changed. When an agent changes from one daemon to another, both may store the same bytes under different
  names; a reader skips what it has read already. Both have the same byte at the same offset, so either may be read.
- Offsets decide, as in every output log: known bytes are skipped, bytes after a gap are ignored. What a daemon remembers as the
  end of a log may be too low, because another one has continued it, but never too high. So it lists the objects before it
  reports a gap, or an end without having stored anything: an agent may no longer have what lies before the true end.
- Appends of one log are stored one after the other, those of different logs at the same time.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Awaitable, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

import msgspec

from waterflow_agent.errors import Stalled
from waterflowd.model.ids import AttemptId
from waterflowd.model.output_pieces import LineMark, left_out_bytes, line_marks_of, new_pieces
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.ports import Objects

#: Ends of logs kept in memory, a few hundred bytes each.
ENDS_MAX = 4096
#: How long output is collected for one object, in s: each object is a request that is paid for, and live output may be two
#: seconds late.
COLLECT_S = 1.0
#: Objects that are stored or read at the same time; each of them is in memory.
REQUESTS_MAX = 32
#: How many lists of objects and how many loaded objects are kept for readers, which read an object in several steps. An object
#: holds what an agent sends before it waits for an acknowledgement, at most 1 MiB.
LISTS_MAX, LOADED_MAX = 256, 16

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_CRC_BYTES = 4
_NUMBER_DIGITS = 16


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """A piece in an object; its offset follows from the pieces before it."""

    at: int
    stream: int
    data: bytes


class _Part(NamedTuple):
    """An object of a log, by the offsets of its first byte and after its last one."""

    offset: int
    end: int
    #: Newline bytes, and pieces that say what was left out.
    lines: int
    left_out: int

    @property
    def name(self) -> str:
        return f"{self.offset:0{_NUMBER_DIGITS}x}-{self.end:0{_NUMBER_DIGITS}x}-{self.lines:x}-{self.left_out:x}"


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Stored]).decode


class ObjectOutputLogs:
    """Implements `ports.OutputLogs`. Belongs to one event loop."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._requests = asyncio.Semaphore(REQUESTS_MAX)
        #: What this daemon knows of the durable end of each log, the least recently used first.
        self._ends: dict[AttemptId, int] = {}
        self._locks: WeakValueDictionary[AttemptId, asyncio.Lock] = WeakValueDictionary()
        #: What readers have listed and loaded last. Neither becomes wrong, because no object ever changes.
        self._lists: dict[AttemptId, list[_Part]] = {}
        self._loaded: dict[tuple[AttemptId, _Part], list[OutputPiece]] = {}

    @property
    def collect_s(self) -> float:
        """See `ports.OutputLogs`."""
        return COLLECT_S

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """See `ports.OutputLogs`. Raises `ValueError` at once for an invalid name."""
        by_log: dict[AttemptId, list[int]] = {}
        for index, append in enumerate(pieces):
            _folder(append.attempt)
            by_log.setdefault(append.attempt, []).append(index)
        # A task begins now, in the order of the calls.
        return asyncio.ensure_future(self._append(pieces, by_log))

    async def size(self, name: AttemptId) -> int:
        """See `ports.OutputLogs`."""
        parts = await self._parts(name)
        return parts[-1].end if parts else 0

    async def read(self, name: AttemptId, offset: int, bytes_max: int) -> list[OutputPiece]:
        """See `ports.OutputLogs`."""
        parts = self._lists.get(name)
        if not parts or parts[-1].end < offset + bytes_max:
            parts = await self._parts(name)
        found: list[OutputPiece] = []
        begin = 0
        for part in parts:
            if part.end > offset:
                stored = await self._pieces(name, part)
                for piece in new_pieces(stored, begin):
                    if piece.offset + len(piece.data) > offset and (bytes_max > 0 or not found):
                        found.append(piece)
                        bytes_max -= len(piece.data)
                if bytes_max <= 0:
                    break
            begin = part.end
        return found

    async def line_marks(self, name: AttemptId) -> list[LineMark]:
        """See `ports.OutputLogs`. The names of the objects say it, except where two of them have some of the same bytes."""
        marks = [LineMark(0, 0)]
        for part in await self._parts(name):
            begin = marks.pop()
            if part.offset == begin.offset and not part.left_out:
                marks += [begin, LineMark(part.end, begin.lines + part.lines)]
                continue
            pieces = new_pieces(await self._pieces(name, part), begin.offset)
            marks += [mark._replace(lines=begin.lines + mark.lines) for mark in line_marks_of(pieces)]
        return marks

    async def _append(self, appends: Sequence[OutputAppend], by_log: dict[AttemptId, list[int]]) -> list[int]:
        sizes = [0] * len(appends)

        async def store(name: AttemptId, indexes: list[int]) -> None:
            ends = await self._append_to(name, [appends[index].pieces for index in indexes])
            for index, end in zip(indexes, ends, strict=True):
                sizes[index] = end

        stored = await asyncio.gather(*(store(*item) for item in by_log.items()), return_exceptions=True)
        for error in stored:
            if error is not None:
                raise error
        return sizes

    async def _append_to(self, name: AttemptId, appends: Sequence[Sequence[OutputPiece]]) -> list[int]:
        """Stores what continues the log, as one object; returns its size after each append."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            begin = self._ends.pop(name, None)
            if begin is None or _has_gap(appends, begin):
                begin = await self.size(name)
            fresh: list[OutputPiece] = []
            ends: list[int] = []
            end = begin
            for pieces in appends:
                found = new_pieces(pieces, end)
                fresh += found
                end = _end(found, end)
                ends.append(end)
            if fresh:
                await self._store(name, _part_of(begin, end, fresh), fresh)
            _keep(self._ends, name, end, ENDS_MAX)
            return ends

    async def _store(self, name: AttemptId, part: _Part, pieces: Sequence[OutputPiece]) -> None:
        body = _encode([_Stored(piece.at, piece.stream, piece.data) for piece in pieces])
        async with self._requests:
            await self._objects.put(f"{_folder(name)}/{part.name}", zlib.crc32(body).to_bytes(_CRC_BYTES, "big") + body)

    async def _pieces(self, name: AttemptId, part: _Part) -> list[OutputPiece]:
        """The pieces in an object."""
        pieces = self._loaded.get((name, part))
        if pieces is None:
            pieces = await self._load(name, part)
        _keep(self._loaded, (name, part), pieces, LOADED_MAX)
        return pieces

    async def _load(self, name: AttemptId, part: _Part) -> list[OutputPiece]:
        key = f"{_folder(name)}/{part.name}"
        async with self._requests:
            content = await self._objects.get(key)
        if content is None:
            raise Stalled("WF304", f"the output in {key} has been removed; the rest cannot be shown")
        body = content[_CRC_BYTES:]
        if zlib.crc32(body).to_bytes(_CRC_BYTES, "big") != content[:_CRC_BYTES]:
            raise Stalled("WF304", f"the output in {key} is damaged; the rest cannot be shown")
        pieces, offset = [], part.offset
        for stored in _decode(body):
            pieces.append(OutputPiece(offset=offset, at=stored.at, stream=stored.stream, data=stored.data))
            offset += len(stored.data)
        return pieces

    async def _parts(self, name: AttemptId) -> list[_Part]:
        """The objects that together are the log, without those that contain only bytes of others."""
        async with self._requests:
            names = await self._objects.names(_folder(name))
        parts: list[_Part] = []
        end = 0
        for part in sorted(map(_part, names), key=lambda part: (part.offset, -part.end)):
            if part.offset > end:
                # Nothing after a gap was acknowledged.
                break
            if part.end > end:
                parts.append(part)
                end = part.end
        _keep(self._lists, name, parts, LISTS_MAX)
        return parts


def _keep(kept: dict[_Key, _Value], key: _Key, value: _Value, count_max: int) -> None:
    """Adds the newest entry, and drops the oldest one when there are too many."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > count_max:
        del kept[next(iter(kept))]


def _has_gap(appends: Sequence[Sequence[OutputPiece]], end: int) -> bool:
    """Whether something in the appends does not continue a log that ends at `end`, or one of them is empty."""
    for pieces in appends:
        if not pieces or any(piece.offset > _end(pieces[:index], end) for index, piece in enumerate(pieces)):
            return True
        end = _end(pieces, end)
    return False


def _end(pieces: Sequence[OutputPiece], end: int) -> int:
    """Where a log ends that ended at `end` before these pieces."""
    return max(end, pieces[-1].offset + len(pieces[-1].data)) if pieces else end


def _part_of(begin: int, end: int, pieces: Sequence[OutputPiece]) -> _Part:
    lines = sum(piece.data.count(b"\n") for piece in pieces)
    return _Part(begin, end, lines, sum(left_out_bytes(piece.stream, piece.data) > 0 for piece in pieces))


def _part(name: str) -> _Part:
    try:
        offset, end, lines, left_out = (int(number, 16) for number in name.split("-"))
        return _Part(offset, end, lines, left_out)
    except ValueError:
        raise Stalled("WF304", f"{name!r} among the objects of an output log was not written by Waterflow") from None


def _folder(name: AttemptId) -> str:
    """The common part of the keys of a log's objects. Raises `ValueError` for an invalid name."""
    if not name.run or len(name.run) > 100 or not 0 <= name.number < 1 << 32:
        raise ValueError(f"not an attempt: {name}")
    step = hashlib.blake2b(f"{name.job}\0{name.step}".encode(), digest_size=16).hexdigest()
    return f"output/{quote(name.run, safe='').replace('.', '%2E')}/{step}/{name.number}"
