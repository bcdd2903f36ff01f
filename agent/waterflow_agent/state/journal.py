"""The agent's journal: the ledger's facts on disk, so that a killed agent comes back knowing what it holds and owes.

Format. A directory of segments `journal.1`, `journal.2`, ...; a segment is a row of records, appended, never changed:

    length (4 bytes, little endian) · CRC-32 of the payload (4) · payload (msgpack, `ledger.records`)

Each segment opens with a `Snapshot` that takes the place of everything before it. Every start of the agent begins a new
segment, and so does a segment that has grown too large; the older ones go once the new one is flushed. So a torn tail
needs no repair: reading stops there, and nobody ever writes behind it.

Rules of this file:

- A record is written (one `write` for all of a turn) before what it says is acted on or acknowledged. That survives the end
  of this process in any way. It is flushed to the platter lazily, because a power cut changes the boot id, which makes open
  attempts `lost` whatever the journal says; no step waits for a disk.
- A full disk raises `Retryable` WF302 and leaves the journal as it was. Any other failure raises `Stalled` WF303: what is on
  disk is not known any more, so the agent must stop and come back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from waterflow_agent.errors import Retryable, Stalled
from waterflow_agent.state.ledger import records

#: A segment is rewritten when it is larger than this and holds mostly what is over.
SEGMENT_BYTES = 8 << 20
#: What a single record may have: a result with 1 MiB of outputs and its output, many times over.
RECORD_BYTES_MAX = 64 << 20
_HEADER_BYTES = 8
#: The disk or the user's quota is full.
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(records.Record)


class Journal:
    """The open journal of one directory. `append` is for the loop's thread; `flush` for any one thread at a time."""

    def __init__(self, directory: Path) -> None:
        """Takes the directory for this process; raises `Stalled` WF310 when another agent has it. Call `begin` next."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise Stalled(
                "WF310", f"another agent uses {directory.parent}; each needs a data directory of its own"
            ) from error
        self._fd = -1
        self._number = 0
        self._size = 0
        self._snapshot_size = 0
        self._retired: list[tuple[int, Path]] = []

    @property
    def is_large(self) -> bool:
        """Whether a new segment is due: `begin` one."""
        return self._size > max(SEGMENT_BYTES, 2 * self._snapshot_size)

    def read(self) -> tuple[str, list[records.LedgerRecord | records.ReleasedRecord]]:
        """The boot id that the facts belong to ("" for a new journal) and the facts, in order.

        Raises `Stalled` WF304 for a journal of a newer version.
        """
        boot_id = ""
        facts: list[records.LedgerRecord | records.ReleasedRecord] = []
        for number in self._segments():
            for record in _read_segment(self._path(number)):
                if not isinstance(record, records.SnapshotRecord):
                    facts.append(record)
                    continue
                if record.version > records.VERSION:
                    raise Stalled(
                        "WF304", f"{self._directory} was written by a newer agent; install that version again"
                    )
                boot_id, facts = record.boot_id, list(record.records)
        return boot_id, facts

    def begin(self, boot_id: str, facts: list[records.LedgerRecord]) -> None:
        """Begins a segment that holds `facts`; the segments before it go at the next flush."""
        older = self._segments()
        number = (older[-1] if older else 0) + 1
        frame = _frame(records.SnapshotRecord(records.VERSION, boot_id, facts))
        path = self._path(number)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _explained(error, path) from error
        try:
            _write_all(fd, frame, 0)
        except OSError as error:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise _explained(error, path) from error
        retired = [(-1, self._path(old)) for old in older if old != self._number]
        if self._fd >= 0:
            retired.append((self._fd, self._path(self._number)))
        self._fd, self._number, self._size, self._snapshot_size = fd, number, len(frame), len(frame)
        # After the new descriptor: a flush takes these first, so what takes their place is flushed before they go.
        self._retired += retired

    def append(self, facts: Sequence[records.LedgerRecord | records.ReleasedRecord]) -> None:
        """Writes the records, all of them or none."""
        if not facts:
            return
        frames = b"".join(map(_frame, facts))
        try:
            _write_all(self._fd, frames, self._size)
        except OSError as error:
            raise _explained(error, self._path(self._number)) from error
        self._size += len(frames)

    def flush(self) -> None:
        """Brings everything appended so far to the platter and removes segments that are not needed any more."""
        retired, self._retired = self._retired, []
        try:
            os.fdatasync(self._fd)
            if retired:
                # The new segment's name must be there before the old one's goes.
                os.fsync(self._lock)
            for fd, path in retired:
                path.unlink(missing_ok=True)
                if fd >= 0:
                    os.close(fd)
        except OSError as error:
            raise _explained(error, self._directory) from error

    def close(self) -> None:
        """Flushes and lets go of the directory."""
        try:
            if self._fd >= 0:
                self.flush()
        finally:
            for fd in (self._fd, self._lock, *(retired for retired, _ in self._retired)):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._lock = -1
            self._retired = []

    def _path(self, number: int) -> Path:
        return self._directory / f"journal.{number}"

    def _segments(self) -> list[int]:
        numbers = (name.removeprefix("journal.") for name in os.listdir(self._directory) if name.startswith("journal."))
        return sorted(int(number) for number in numbers if number.isdigit())


def _frame(record: records.Record) -> bytes:
    payload = _encoder.encode(record)
    return len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little") + payload


def _read_segment(path: Path) -> list[records.Record]:
    """The records of one segment up to its end or the first that is torn."""
    content = path.read_bytes()
    found: list[records.Record] = []
    position = 0
    while position + _HEADER_BYTES <= len(content):
        length = int.from_bytes(content[position : position + 4], "little")
        checksum = int.from_bytes(content[position + 4 : position + 8], "little")
        payload = content[position + _HEADER_BYTES : position + _HEADER_BYTES + length]
        if length > RECORD_BYTES_MAX or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        try:
            found.append(_decoder.decode(payload))
        except msgspec.MsgspecError as error:
            # The checksum holds, so this was written so: by a version that knows more.
            raise Stalled("WF304", f"{path} holds a record that this version does not understand: {error}") from error
        position += _HEADER_BYTES + length
    return found


def _write_all(fd: int, content: bytes, size: int) -> None:
    """Appends `content` to a file of `size` bytes, or cuts the file back to it and raises `OSError`."""
    written = 0
    try:
        while written < len(content):
            written += os.write(fd, content[written:] if written else content)
    except OSError:
        if written:
            os.ftruncate(fd, size)
        raise


def _explained(error: OSError, path: Path) -> Retryable | Stalled:
    if error.errno in DISK_FULL_ERRORS:
        return Retryable("WF302", f"no space left for {path}", after_s=10)
    return Stalled("WF303", f"cannot write {path}: {error.strerror}")
