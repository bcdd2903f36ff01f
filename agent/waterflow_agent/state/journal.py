"""The agent's journal: the ledger's records on disk, so that a restarted agent knows its attempts and undelivered results.

Format: a directory of segments `journal.1`, `journal.2`, ... A segment is a sequence of records, appended and never changed:

    length (4 bytes, little endian) · CRC-32 of the payload (4) · payload (msgpack, `ledger.records`)

Each segment starts with a `SnapshotRecord` that replaces everything before it. A new segment begins at every start of the
agent, and when a segment has become too large. Older segments are deleted once the new one is flushed. So a torn tail needs no
repair: reading stops there, and nothing is ever written after it.

Rules of this file:

- A record is written (one `write` for all records of a turn) before it is acted on or acknowledged. Written records survive the
  end of this process, however it ends. They are flushed to disk lazily: after a power cut the boot id is different, which makes
  open attempts `lost` whatever the journal says. So no step waits for a disk.
- A full disk raises `Retryable` WF302 and leaves the journal unchanged. Any other failure raises `Stalled` WF303: the state on
  disk is unknown, so the agent must stop and start again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from waterflow_agent.errors import Retryable, Stalled
from waterflow_agent.state.ledger import records

#: A segment is rewritten when it is larger than this and most of its records are obsolete.
SEGMENT_BYTES = 8 << 20
#: Of a single record: many times a result with 1 MiB of outputs and its output.
RECORD_BYTES_MAX = 64 << 20
_HEADER_BYTES = 8
#: The disk or the user's quota is full.
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)

#: `waterflow-agent status` holds the lock for a moment (`is_locked`), and must not keep an agent from starting.
_LOCK_ATTEMPTS, _LOCK_RETRY_S = 5, 0.02

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(records.Record)


def is_locked(directory: Path) -> bool:
    """Whether an agent uses this journal."""
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _take_lock(descriptor: int) -> bool:
    for _ in range(_LOCK_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_LOCK_RETRY_S)
        else:
            return True
    return False


class Journal:
    """The journal of one directory. Call `append` from the loop's thread, and `flush` from one thread at a time."""

    def __init__(self, directory: Path) -> None:
        """Locks the directory. Raises `Stalled` WF310 when another agent has locked it. Call `begin` next."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not _take_lock(self._lock):
            os.close(self._lock)
            raise Stalled("WF310", f"another agent uses {directory.parent}; each agent needs its own data directory")
        self._fd = -1
        self._number = 0
        self._size = 0
        self._snapshot_size = 0
        self._retired: list[tuple[int, Path]] = []

    @property
    def is_large(self) -> bool:
        """Whether it is time to `begin` a new segment."""
        return self._size > max(SEGMENT_BYTES, 2 * self._snapshot_size)

    def read(self) -> tuple[str, list[records.LedgerRecord | records.ReleasedRecord]]:
        """Returns the boot id that the records belong to ("" for a new journal), and the records in order.

        Raises `Stalled` WF304 for a journal that a newer version wrote.
        """
        boot_id = ""
        found: list[records.LedgerRecord | records.ReleasedRecord] = []
        for number in self._segments():
            for record in _read_segment(self._path(number)):
                if not isinstance(record, records.SnapshotRecord):
                    found.append(record)
                    continue
                if record.version > records.VERSION:
                    raise Stalled(
                        "WF304", f"{self._directory} was written by a newer version of the agent; install that version"
                    )
                boot_id, found = record.boot_id, list(record.records)
        return boot_id, found

    def begin(self, boot_id: str, snapshot: list[records.LedgerRecord]) -> None:
        """Begins a segment with a snapshot. Earlier segments are deleted at the next flush."""
        older = self._segments()
        number = (older[-1] if older else 0) + 1
        frame = _frame(records.SnapshotRecord(records.VERSION, boot_id, snapshot))
        path = self._path(number)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _as_agent_error(error, path) from error
        try:
            _write_all(fd, frame, 0)
        except OSError as error:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise _as_agent_error(error, path) from error
        retired = [(-1, self._path(old)) for old in older if old != self._number]
        if self._fd >= 0:
            retired.append((self._fd, self._path(self._number)))
        self._fd, self._number, self._size, self._snapshot_size = fd, number, len(frame), len(frame)
        # Assigned after the new descriptor: a flush takes `_retired` first, so it flushes the new segment before it deletes
        # these.
        self._retired += retired

    def append(self, appended: Sequence[records.LedgerRecord | records.ReleasedRecord]) -> None:
        """Writes all of the records or none."""
        if not appended:
            return
        frames = b"".join(map(_frame, appended))
        try:
            _write_all(self._fd, frames, self._size)
        except OSError as error:
            raise _as_agent_error(error, self._path(self._number)) from error
        self._size += len(frames)

    def flush(self) -> None:
        """Flushes everything appended so far to disk and deletes obsolete segments."""
        retired, self._retired = self._retired, []
        try:
            os.fdatasync(self._fd)
            if retired:
                # The new segment's directory entry must be on disk before the old segment is deleted.
                os.fsync(self._lock)
            for fd, path in retired:
                path.unlink(missing_ok=True)
                if fd >= 0:
                    os.close(fd)
        except OSError as error:
            raise _as_agent_error(error, self._directory) from error

    def close(self) -> None:
        """Flushes, and unlocks the directory."""
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
    """Returns the records of one segment up to its end or the first torn one."""
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
            # The checksum is correct, so a newer version has written this.
            raise Stalled(
                "WF304", f"{path} contains a record that this version cannot read; install the newer version: {error}"
            ) from error
        position += _HEADER_BYTES + length
    return found


def _write_all(fd: int, content: bytes, size: int) -> None:
    """Appends `content` to a file of `size` bytes. On failure truncates the file to `size` and raises `OSError`."""
    written = 0
    try:
        while written < len(content):
            written += os.write(fd, content[written:] if written else content)
    except OSError:
        if written:
            os.ftruncate(fd, size)
        raise


def _as_agent_error(error: OSError, path: Path) -> Retryable | Stalled:
    if error.errno in DISK_FULL_ERRORS:
        return Retryable("WF302", f"no space left for {path}", after_s=10)
    return Stalled("WF303", f"cannot write {path}: {error.strerror}")
