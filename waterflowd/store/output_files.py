"""Large output logs: one append-only file an attempt, `output/<run>/<job>.<step>.<attempt>`.

A file is a header (magic, the offset at which it takes over from LMDB, CRC) and frames::

    offset u64 · at u64 · stream u8 · length u32 · CRC of the bytes u32 · CRC of this header u32 · the bytes

Rules of this file:

- The end is what was flushed. Frames behind it are written in place of a failed try's, so no half frame is ever kept in the
  middle. Names are flushed too, when a file is made.
- After a crash the tail may be torn or empty: whole frames are kept, the rest is cut. Nothing of it was acknowledged.
- Beside each file, `.index` has the place of a frame every 256 KiB, so that neither recovery nor a reader in the middle goes
  through the whole file. It is a hint, never flushed: an entry counts only if it names a frame of that offset.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from waterflow_agent.errors import Stalled
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId, is_run_id
from waterflowd.model.records import OutputPiece
from waterflowd.store import directory

#: One place for so many bytes: a reader skips at most this much, and 1 GiB of output has 4,096 places.
INDEX_EVERY_BYTES = 256 << 10
#: A file system's limit is 255 bytes for a name; longer ones are replaced by their hash.
FILE_NAME_BYTES_MAX = 200
#: A frame that claims more is none: pieces come in messages of 1 MiB at most.
FRAME_BYTES_MAX = 64 << 20

_MAGIC = b"WFOUTPUT"
_HEADER = struct.Struct(">8sQI")
_FRAME = struct.Struct(">QQBII")
_CRC = struct.Struct(">I")
_FRAME_BYTES = _FRAME.size + _CRC.size
_ENTRY = struct.Struct(">QQ")
_BLOCK_BYTES = 1 << 20


class _Frame(NamedTuple):
    """A frame's header, and where in the file it begins."""

    place: int
    offset: int
    at: int
    stream: int
    length: int
    crc: int

    @property
    def next_place(self) -> int:
        return self.place + _FRAME_BYTES + self.length


class OutputFile:
    """One file. Written by the output thread alone; read on any thread."""

    def __init__(self, path: Path, *, base: int, end: int, places: list[tuple[int, int]], size_bytes: int) -> None:
        self.path = path
        #: Offset of the log at which the file begins.
        self.base = base
        #: Durable end of the log.
        self.end = end
        #: Offset and place of some frames, ascending.
        self._places = places
        #: Durable size of the file, and what of `_places` the index file has.
        self._size_bytes = size_bytes
        self._indexed = len(places)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._pending_end = end

    def add(self, pieces: Sequence[OutputPiece]) -> None:
        """Takes pieces that continue the log into memory; `write` and `sync` make them durable."""
        for piece in pieces:
            place = self._size_bytes + self._pending_bytes
            if not self._places or place - self._places[-1][1] >= INDEX_EVERY_BYTES:
                self._places.append((piece.offset, place))
            header = _FRAME.pack(piece.offset, piece.at, piece.stream, len(piece.data), zlib.crc32(piece.data))
            self._pending += (header, _CRC.pack(zlib.crc32(header)), piece.data)
            self._pending_bytes += _FRAME_BYTES + len(piece.data)
            self._pending_end = piece.offset + len(piece.data)

    def write(self) -> None:
        """Writes what was added behind the durable end."""
        with _opened(self.path, os.O_WRONLY) as file:
            view = memoryview(b"".join(self._pending))
            place = self._size_bytes
            while view:
                written = os.pwrite(file, view, place)
                view = view[written:]
                place += written

    def sync(self) -> None:
        """Flushes; from here on what was added is durable."""
        with _opened(self.path, os.O_WRONLY) as file:
            os.fdatasync(file)
        self._size_bytes += self._pending_bytes
        self.end = self._pending_end
        self._forget_pending()
        if len(self._places) > self._indexed:
            with (
                contextlib.suppress(OSError),
                _opened(_index_path(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file,
            ):
                os.write(file, b"".join(_ENTRY.pack(*place) for place in self._places[self._indexed :]))
            self._indexed = len(self._places)

    def drop(self) -> None:
        """Forgets what was added since the last `sync` and gives its space back."""
        while self._places and self._places[-1][1] >= self._size_bytes:
            self._places.pop()
        self._forget_pending()
        with contextlib.suppress(OSError):
            os.truncate(self.path, self._size_bytes)

    def read(self, offset: int, bytes_max: int, *, end: int) -> list[OutputPiece]:
        """Pieces from the one that holds `offset` on, up to the offset `end`. Raises `Stalled` WF304 for a damaged one."""
        known = bisect.bisect_right(self._places, (offset, 1 << 62)) - 1
        place = self._places[max(known, 0)][1] if self._places else self._size_bytes
        pieces: list[OutputPiece] = []
        with _opened(self.path, os.O_RDONLY) as file:
            for frame in _frames(file, place, self._size_bytes):
                if frame.offset >= end or (bytes_max <= 0 and pieces):
                    break
                if frame.offset + frame.length <= offset:
                    continue
                printed = os.pread(file, frame.length, frame.place + _FRAME_BYTES)
                if zlib.crc32(printed) != frame.crc:
                    raise self._damaged(frame.offset)
                pieces.append(OutputPiece(offset=frame.offset, at=frame.at, stream=frame.stream, data=printed))
                bytes_max -= frame.length
        if not pieces and offset < end:
            raise self._damaged(offset)
        return pieces

    def _damaged(self, offset: int) -> Stalled:
        return Stalled(
            "WF304", f"the output log {self.path} is damaged at offset {offset}; what follows cannot be shown"
        )

    def _forget_pending(self) -> None:
        self._pending = []
        self._pending_bytes = 0
        self._pending_end = self.end


class OutputFiles:
    """All files of a data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        directory.make_directory(path)
        self._unsynced_names: set[Path] = set()
        #: Runs that have a file, so that the many small logs ask the file system nothing.
        self._runs = {entry.name for entry in os.scandir(path) if entry.is_dir()}

    def create(self, name: AttemptId, *, base: int) -> OutputFile:
        """Makes the file of a log that goes on from offset `base`; an unacknowledged one of a failed try is replaced."""
        path = self._path(name)
        directory.make_directory(path.parent)
        self._runs.add(path.parent.name)
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            os.pwrite(file, _pack_header(base), 0)
        _index_path(path).unlink(missing_ok=True)
        self._unsynced_names.add(path)
        return OutputFile(path, base=base, end=base, places=[], size_bytes=_HEADER.size)

    def sync(self, file: OutputFile) -> None:
        """Makes what was written to the file durable, and the file's name if it is new."""
        file.sync()
        if file.path in self._unsynced_names:
            directory.sync_directory(file.path.parent)
            self._unsynced_names.discard(file.path)

    def recover(self, name: AttemptId) -> OutputFile | None:
        """The file of a log as the disk has it, without the torn tail; None when the log has none."""
        if _quoted(name.run) not in self._runs:
            return None
        path = self._path(name)
        if not path.exists():
            return None
        with _opened(path, os.O_RDWR) as file:
            base = _unpack_header(os.pread(file, _HEADER.size, 0))
            if base is None:
                # Cut off before its first flush, so nothing in it was acknowledged; kept for a person to look at.
                path.rename(path.with_name(path.name + ".damaged"))
                return None
            places = _indexed_places(path, file)
            end, place = _find_end(file, base, places)
            if os.fstat(file).st_size > place:
                os.ftruncate(file, place)
            os.fsync(file)
        _write_index(path, places)
        return OutputFile(path, base=base, end=end, places=places, size_bytes=place)

    def remove(self, file: OutputFile) -> None:
        """Removes a file that nothing was acknowledged of."""
        _index_path(file.path).unlink(missing_ok=True)
        file.path.unlink(missing_ok=True)

    def _path(self, name: AttemptId) -> Path:
        text = ".".join((_quoted(name.job), _quoted(name.step), str(name.number)))
        if len(text) > FILE_NAME_BYTES_MAX:
            text = hashlib.blake2b(text.encode(), digest_size=24).hexdigest()
        return self.path / _quoted(name.run) / text


class Measured(NamedTuple):
    """What a file holds, as far as its checksums say: the offsets of its begin and end, and its whole frames in bytes."""

    base: int
    end: int
    size_bytes: int


def base_of(path: Path) -> int | None:
    """The offset at which a file takes over from LMDB; None for a file that has no header."""
    with _opened(path, os.O_RDONLY) as file:
        return _unpack_header(os.pread(file, _HEADER.size, 0))


def measure(path: Path) -> Measured | None:
    """Reads all of a file and checks every frame up to the first that is damaged; None for a file that has no header."""
    with _opened(path, os.O_RDONLY) as file:
        base = _unpack_header(os.pread(file, _HEADER.size, 0))
        return None if base is None else Measured(base, *_find_end(file, base, []))


def files_in(path: Path) -> Iterator[Path]:
    """All output logs below the output directory `path`, without indexes and what was set aside."""
    if not path.is_dir():
        return
    for run in sorted(path.iterdir()):
        if run.is_dir():
            yield from sorted(
                file for file in run.iterdir() if file.suffix not in (".index", ".damaged") and file.is_file()
            )


def name_of(path: Path) -> AttemptId | None:
    """Whose output log a file is; None when its name is only a hash."""
    parts = [unquote(part) for part in path.name.split(".")]
    run = RunId(unquote(path.parent.name))
    if len(parts) != 3 or not parts[2].isdecimal() or not is_run_id(run):
        return None
    return AttemptId(run, JobId(parts[0]), StepId(parts[1]), AttemptNo(int(parts[2])))


def _quoted(text: str) -> str:
    """A part of a file name that holds no separator of ours or the file system's."""
    return text if text.isascii() and text.isalnum() else quote(text, safe="").replace(".", "%2E")


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + ".index")


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _pack_header(base: int) -> bytes:
    return _HEADER.pack(_MAGIC, base, zlib.crc32(_MAGIC + base.to_bytes(8, "big")))


def _unpack_header(packed: bytes) -> int | None:
    """The offset at which a file begins; None when the header is not whole."""
    if len(packed) < _HEADER.size:
        return None
    _, base, _ = _HEADER.unpack(packed)
    return base if packed == _pack_header(base) else None


def _frame(packed: bytes, place: int) -> _Frame | None:
    """The frame whose header is `packed`; None when that is no header."""
    if len(packed) < _FRAME_BYTES or zlib.crc32(packed[: _FRAME.size]) != _CRC.unpack_from(packed, _FRAME.size)[0]:
        return None
    offset, at, stream, length, crc = _FRAME.unpack_from(packed)
    return None if length > FRAME_BYTES_MAX else _Frame(place, offset, at, stream, length, crc)


def _frames(file: int, place: int, end: int) -> Iterator[_Frame]:
    """Headers of the frames from `place` on that lie wholly before `end`; reads in blocks, many small frames at once."""
    block = b""
    block_place = place
    while place + _FRAME_BYTES <= end:
        if place + _FRAME_BYTES > block_place + len(block):
            block, block_place = os.pread(file, _BLOCK_BYTES, place), place
        at = place - block_place
        frame = _frame(block[at : at + _FRAME_BYTES], place)
        if frame is None or frame.next_place > end:
            return
        yield frame
        place = frame.next_place


def _find_end(file: int, base: int, places: list[tuple[int, int]]) -> tuple[int, int]:
    """Offset and place behind the last whole frame; goes on behind the index, checks the bytes, and completes the index."""
    offset, place = places[-1] if places else (base, _HEADER.size)
    for frame in _frames(file, place, os.fstat(file).st_size):
        if frame.offset != offset or zlib.crc32(os.pread(file, frame.length, frame.place + _FRAME_BYTES)) != frame.crc:
            break
        if not places or frame.place - places[-1][1] >= INDEX_EVERY_BYTES:
            places.append((frame.offset, frame.place))
        offset, place = frame.offset + frame.length, frame.next_place
    return offset, place


def _indexed_places(path: Path, file: int) -> list[tuple[int, int]]:
    """The entries of the index up to the first that does not name a frame."""
    try:
        packed = _index_path(path).read_bytes()
    except FileNotFoundError:
        return []
    size = os.fstat(file).st_size
    places: list[tuple[int, int]] = []
    for offset, place in _ENTRY.iter_unpack(packed[: len(packed) // _ENTRY.size * _ENTRY.size]):
        if place > size or (places and place <= places[-1][1]):
            break
        frame = _frame(os.pread(file, _FRAME_BYTES, place), place)
        if frame is None or frame.offset != offset:
            break
        places.append((offset, place))
    return places


def _write_index(path: Path, places: list[tuple[int, int]]) -> None:
    """Replaces the index; a disk without space for it is no harm."""
    with contextlib.suppress(OSError):
        _index_path(path).write_bytes(b"".join(_ENTRY.pack(*place) for place in places))
