"""Large output logs: one append-only file per attempt, `output/<run>/<job>.<step>.<attempt>`.

A file is a header (magic, the offset at which it continues the rows in LMDB, CRC) and frames::

    offset u64 · at u64 · stream u8 · length u32 · CRC of the bytes u32 · CRC of this header u32 · the bytes

Rules of this file:

- The end is the flushed size. A new write starts there and overwrites what a failed one left, so no partial frame ever
  remains in the middle. A new file's name is flushed too.
- After a crash the tail may be torn or empty: whole frames are kept, the rest is truncated. None of it was acknowledged.
- Beside each file, `.index` has an entry every 256 KiB, so that neither recovery nor a read in the middle scans the whole file:
  the position of a frame, and how many newline bytes are before it. A frame that says how much output was left out has an
  entry, too. It is a hint and never flushed: an entry counts only if it is whole and points to a frame of that offset.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from waterflow_agent.errors import Stalled
from waterflowd.durability import sync_directory
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId, is_run_id
from waterflowd.model.output_pieces import LineMark, left_out_bytes
from waterflowd.model.records import OutputPiece
from waterflowd.store import directory

#: Distance of index entries: a reader skips at most this much, and 1 GiB of output has 4,096 entries.
INDEX_EVERY_BYTES = 256 << 10
#: File systems limit names to 255 bytes; longer ones are replaced by their hash.
FILE_NAME_BYTES_MAX = 200
#: A longer frame is invalid: pieces arrive in messages of 1 MiB at most.
FRAME_BYTES_MAX = 64 << 20

_MAGIC = b"WFOUTPUT"
_HEADER = struct.Struct(">8sQI")
_FRAME = struct.Struct(">QQBII")
_CRC = struct.Struct(">I")
_FRAME_BYTES = _FRAME.size + _CRC.size
_ENTRY = struct.Struct(">QQQQ")
_ENTRY_BYTES = _ENTRY.size + _CRC.size
_BLOCK_BYTES = 1 << 20
#: Entries about output that was left out; an agent leaves out one part of a log, or one for each time its disk is full.
LEFT_OUT_MAX = 100


class _Frame(NamedTuple):
    """A frame's header, and its position in the file."""

    file_position: int
    offset: int
    at: int
    stream: int
    length: int
    crc: int

    @property
    def next_position(self) -> int:
        return self.file_position + _FRAME_BYTES + self.length


class _Entry(NamedTuple):
    """A frame in the index: its offset and position, and the newline bytes between the begin of the file and it."""

    offset: int
    file_position: int
    lines: int
    #: How much output was left out here, as the frame itself says, in bytes.
    left_out_bytes: int = 0

    def pack(self) -> bytes:
        packed = _ENTRY.pack(*self)
        return packed + _CRC.pack(zlib.crc32(packed))


class _Index:
    """The index of a file, which grows with the frames that are added at its end."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        #: Newline bytes in all frames.
        self.lines = 0
        self._left_out = 0

    def add(self, offset: int, position: int, stream: int, printed: bytes) -> None:
        """The next frame."""
        left_out = left_out_bytes(stream, printed) if self._left_out < LEFT_OUT_MAX else 0
        if left_out or not self.entries or position - self.entries[-1].file_position >= INDEX_EVERY_BYTES:
            self.load(_Entry(offset, position, self.lines, left_out))
        self.lines += printed.count(b"\n")

    def load(self, entry: _Entry) -> None:
        """The next entry."""
        self.entries.append(entry)
        self.lines = entry.lines
        self._left_out += entry.left_out_bytes > 0

    def drop_from(self, position: int, lines: int) -> None:
        """Forgets the frames from a position on, before which there are so many newline bytes."""
        while self.entries and self.entries[-1].file_position >= position:
            self._left_out -= self.entries.pop().left_out_bytes > 0
        self.lines = lines


class OutputFile:
    """One file. Only the output thread writes it; any thread may read it."""

    def __init__(self, path: Path, *, base: int, end: int, index: _Index, size_bytes: int) -> None:
        self.path = path
        #: Offset of the log at which the file begins.
        self.base = base
        #: Durable end of the log, with the newline bytes of the file; one object, because other threads read it.
        self._durable = LineMark(end, index.lines)
        self._index = index
        #: Durable size of the file, and the number of entries in the index file.
        self._size_bytes = size_bytes
        self._indexed = len(index.entries)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._pending_end = end

    @property
    def end(self) -> int:
        """Durable end of the log, as an offset."""
        return self._durable.offset

    def add(self, pieces: Sequence[OutputPiece]) -> None:
        """Buffers pieces that continue the log; `write` and `sync` make them durable."""
        for piece in pieces:
            position = self._size_bytes + self._pending_bytes
            self._index.add(piece.offset, position, piece.stream, piece.data)
            header = _FRAME.pack(piece.offset, piece.at, piece.stream, len(piece.data), zlib.crc32(piece.data))
            self._pending += (header, _CRC.pack(zlib.crc32(header)), piece.data)
            self._pending_bytes += _FRAME_BYTES + len(piece.data)
            self._pending_end = piece.offset + len(piece.data)

    def write(self) -> None:
        """Writes what was added, after the durable end."""
        with _opened(self.path, os.O_WRONLY) as file:
            view = memoryview(b"".join(self._pending))
            position = self._size_bytes
            while view:
                written = os.pwrite(file, view, position)
                view = view[written:]
                position += written

    def sync(self) -> None:
        """Flushes: what was added is durable now."""
        with _opened(self.path, os.O_WRONLY) as file:
            os.fdatasync(file)
        self._size_bytes += self._pending_bytes
        self._durable = LineMark(self._pending_end, self._index.lines)
        self._forget_pending()
        entries = self._index.entries
        if len(entries) > self._indexed:
            with (
                contextlib.suppress(OSError),
                _opened(_index_path(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file,
            ):
                os.write(file, b"".join(entry.pack() for entry in entries[self._indexed :]))
            self._indexed = len(entries)

    def drop(self) -> None:
        """Discards what was added since the last `sync` and frees its space."""
        self._index.drop_from(self._size_bytes, self._durable.lines)
        self._forget_pending()
        with contextlib.suppress(OSError):
            os.truncate(self.path, self._size_bytes)

    def read(self, offset: int, bytes_max: int, *, end: int) -> list[OutputPiece]:
        """Pieces from the one that contains `offset` up to the offset `end`. Raises `Stalled` WF304 for a damaged one."""
        entries = self._index.entries
        known = bisect.bisect_right(entries, offset, key=_offset_of) - 1
        position = entries[max(known, 0)].file_position if entries else self._size_bytes
        pieces: list[OutputPiece] = []
        with _opened(self.path, os.O_RDONLY) as file:
            for frame, printed in _contents(file, position, self._size_bytes, offset, bytes_max):
                if frame.offset >= end or (bytes_max <= 0 and pieces):
                    break
                if zlib.crc32(printed) != frame.crc:
                    raise self._damaged(frame.offset)
                pieces.append(OutputPiece(offset=frame.offset, at=frame.at, stream=frame.stream, data=printed))
                bytes_max -= frame.length
        if not pieces and offset < end:
            raise self._damaged(offset)
        return pieces

    def line_marks(self) -> list[LineMark]:
        """Durable offsets, with the newline bytes of the file before each. Any thread may call it."""
        end = self._durable
        entries = list(self._index.entries)
        known = bisect.bisect_left(entries, end.offset, key=_offset_of)
        return [*(LineMark(found.offset, found.lines, found.left_out_bytes) for found in entries[:known]), end]

    def _damaged(self, offset: int) -> Stalled:
        return Stalled("WF304", f"the output log {self.path} is damaged at offset {offset}; the rest cannot be shown")

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
        #: Runs that have files, so that small logs cost no file system call.
        self._runs = {entry.name for entry in os.scandir(path) if entry.is_dir()}

    def create(self, name: AttemptId, *, base: int) -> OutputFile:
        """Creates the file that continues a log from offset `base`; replaces one that a failed append left."""
        path = self._path(name)
        directory.make_directory(path.parent)
        self._runs.add(path.parent.name)
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            os.pwrite(file, _pack_header(base), 0)
        _index_path(path).unlink(missing_ok=True)
        self._unsynced_names.add(path)
        return OutputFile(path, base=base, end=base, index=_Index(), size_bytes=_HEADER.size)

    def sync(self, file: OutputFile) -> None:
        """Makes what was written to the file durable, and its name if it is new."""
        file.sync()
        if file.path in self._unsynced_names:
            sync_directory(file.path.parent)
            self._unsynced_names.discard(file.path)

    def recover(self, name: AttemptId) -> OutputFile | None:
        """The file of a log as it is on disk, with the torn tail truncated; None if the log has no file."""
        if _quoted(name.run) not in self._runs:
            return None
        path = self._path(name)
        if not path.exists():
            return None
        with _opened(path, os.O_RDWR) as file:
            base = _unpack_header(os.pread(file, _HEADER.size, 0))
            if base is None:
                # Torn before its first flush, so nothing in it was acknowledged; kept for inspection.
                path.rename(path.with_name(path.name + ".damaged"))
                return None
            index = _read_index(path, file)
            end, position = _find_end(file, base, index)
            if os.fstat(file).st_size > position:
                os.ftruncate(file, position)
            os.fsync(file)
        _write_index(path, index)
        return OutputFile(path, base=base, end=end, index=index, size_bytes=position)

    def remove(self, file: OutputFile) -> None:
        """Removes a file with no acknowledged bytes."""
        _index_path(file.path).unlink(missing_ok=True)
        file.path.unlink(missing_ok=True)

    def runs(self) -> list[RunId]:
        """Runs that have files."""
        return [RunId(run) for run in sorted(self._runs) if is_run_id(RunId(run))]

    def has(self, run: RunId) -> bool:
        """Whether a run has files."""
        return run in self._runs

    def size_of(self, run: RunId) -> int:
        """Size of the files of a run, in bytes."""
        if run not in self._runs:
            return 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path / run) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        return 0

    def remove_run(self, run: RunId) -> bool:
        """Removes all files of a run, which nobody writes any longer; False while a backup is reading files."""
        with _opened(self.path, os.O_RDONLY | os.O_DIRECTORY) as folder:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.path / run)
        self._runs.discard(run)
        return True

    def _path(self, name: AttemptId) -> Path:
        text = ".".join((_quoted(name.job), _quoted(name.step), str(name.number)))
        if len(text) > FILE_NAME_BYTES_MAX:
            text = hashlib.blake2b(text.encode(), digest_size=24).hexdigest()
        return self.path / _quoted(name.run) / text


@contextlib.contextmanager
def all_kept(path: Path) -> Iterator[None]:
    """Inside the block no file below the output directory `path` is removed, whichever process does it."""
    if not path.is_dir():
        yield
        return
    with _opened(path, os.O_RDONLY | os.O_DIRECTORY) as folder:
        fcntl.flock(folder, fcntl.LOCK_SH)
        yield


class Measured(NamedTuple):
    """The verified part of a file: the offsets of its start and end, and the size of its whole frames in bytes."""

    base: int
    end: int
    size_bytes: int


def base_of(path: Path) -> int | None:
    """The offset at which a file continues the rows in LMDB; None for a file without a valid header."""
    with _opened(path, os.O_RDONLY) as file:
        return _unpack_header(os.pread(file, _HEADER.size, 0))


def measure(path: Path) -> Measured | None:
    """Reads a whole file and checks every frame up to the first damaged one; None for a file without a valid header."""
    with _opened(path, os.O_RDONLY) as file:
        base = _unpack_header(os.pread(file, _HEADER.size, 0))
        return None if base is None else Measured(base, *_find_end(file, base, _Index()))


def files_in(path: Path) -> Iterator[Path]:
    """All output logs below the output directory `path`, without indexes and damaged files that were set aside."""
    if not path.is_dir():
        return
    for run in sorted(path.iterdir()):
        if run.is_dir():
            yield from sorted(
                file for file in run.iterdir() if file.suffix not in (".index", ".damaged") and file.is_file()
            )


def name_of(path: Path) -> AttemptId | None:
    """The attempt whose output a file holds; None when its name is only a hash."""
    parts = [unquote(part) for part in path.name.split(".")]
    run = RunId(unquote(path.parent.name))
    if len(parts) != 3 or not parts[2].isdecimal() or not is_run_id(run):
        return None
    return AttemptId(run, JobId(parts[0]), StepId(parts[1]), AttemptNo(int(parts[2])))


def _quoted(text: str) -> str:
    """A part of a file name, without our separator and the file system's."""
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
    """The offset at which a file begins; None for a damaged header."""
    if len(packed) < _HEADER.size:
        return None
    _, base, _ = _HEADER.unpack(packed)
    return base if packed == _pack_header(base) else None


def _frame(packed: bytes, position: int) -> _Frame | None:
    """The frame whose header is `packed`; None when that is not a valid header."""
    if len(packed) < _FRAME_BYTES or zlib.crc32(packed[: _FRAME.size]) != _CRC.unpack_from(packed, _FRAME.size)[0]:
        return None
    offset, at, stream, length, crc = _FRAME.unpack_from(packed)
    return None if length > FRAME_BYTES_MAX else _Frame(position, offset, at, stream, length, crc)


def _frames(file: int, position: int, end: int) -> Iterator[_Frame]:
    """Headers of the frames from `position` that lie wholly before `end`; reads in blocks of many small frames."""
    block = b""
    block_position = position
    while position + _FRAME_BYTES <= end:
        if position + _FRAME_BYTES > block_position + len(block):
            block, block_position = os.pread(file, _BLOCK_BYTES, position), position
        at = position - block_position
        frame = _frame(block[at : at + _FRAME_BYTES], position)
        if frame is None or frame.next_position > end:
            return
        yield frame
        position = frame.next_position


def _contents(file: int, position: int, end: int, offset: int, bytes_max: int) -> Iterator[tuple[_Frame, bytes]]:
    """The frames from the one that contains `offset`, with their unchecked bytes; begins to look at a frame's position.

    Small frames are read many at a time: a call for each costs more than everything else.
    """
    block = b""
    block_position = position
    for frame in _frames(file, position, end):
        if frame.offset + frame.length <= offset:
            continue
        begin = frame.file_position + _FRAME_BYTES
        if begin < block_position or begin + frame.length > block_position + len(block):
            size = max(frame.length, min(bytes_max + bytes_max // 4 + _FRAME_BYTES, _BLOCK_BYTES))
            block, block_position = os.pread(file, size, begin), begin
        yield frame, block[begin - block_position : begin - block_position + frame.length]


def _find_end(file: int, base: int, index: _Index) -> tuple[int, int]:
    """Offset and position after the last whole frame; continues after the index, checks the bytes, completes the index."""
    offset, position = index.entries[-1][:2] if index.entries else (base, _HEADER.size)
    is_known = bool(index.entries)
    for frame, printed in _contents(file, position, os.fstat(file).st_size, 0, _BLOCK_BYTES):
        if frame.offset != offset or zlib.crc32(printed) != frame.crc:
            break
        if is_known:
            index.lines += printed.count(b"\n")
            is_known = False
        else:
            index.add(frame.offset, frame.file_position, frame.stream, printed)
        offset, position = frame.offset + frame.length, frame.next_position
    index.drop_from(position, index.lines)
    return offset, position


def _offset_of(entry: _Entry) -> int:
    return entry.offset


def _read_index(path: Path, file: int) -> _Index:
    """The entries of the index up to the first that is damaged or does not point to a frame."""
    index = _Index()
    try:
        packed = _index_path(path).read_bytes()
    except FileNotFoundError:
        return index
    size = os.fstat(file).st_size
    for begin in range(0, len(packed) // _ENTRY_BYTES * _ENTRY_BYTES, _ENTRY_BYTES):
        end = begin + _ENTRY.size
        entry = _Entry(*_ENTRY.unpack_from(packed, begin))
        if zlib.crc32(packed[begin:end]) != _CRC.unpack_from(packed, end)[0]:
            break
        if entry.file_position > size or (index.entries and entry.file_position <= index.entries[-1].file_position):
            break
        frame = _frame(os.pread(file, _FRAME_BYTES, entry.file_position), entry.file_position)
        if frame is None or frame.offset != entry.offset:
            break
        index.load(entry)
    return index


def _write_index(path: Path, index: _Index) -> None:
    """Replaces the index, if there is space for it."""
    with contextlib.suppress(OSError):
        _index_path(path).write_bytes(b"".join(entry.pack() for entry in index.entries))
