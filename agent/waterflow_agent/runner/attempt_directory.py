"""The files of one attempt: `record`, `output` and `files/`.

    DIR/attempts/<name>/record   lines of JSON: the request (written before the process starts), the process, the result;
                                 an incomplete line is ignored
                       /output   the spool, and its continuations `output.1`, ...
                       /files/   mode 0700, empty: for WATERFLOW_OUTPUT and the like

The first line is written before the process starts, and only into an empty record: so a step starts at most once, even if the
runner is killed in between. It never contains the environment, which may contain secrets. The last line, written in one piece,
is the result; without it the outcome is unknown. Nothing is flushed to disk: after a power cut the boot id differs and a torn
line is ignored, so the attempt is `lost`.

All of this is in one file, because creating a file costs more than anything else that a short step needs (30 to 250 µs on
ext4). The agent may create the directory first, with an empty record, and removes or reuses it after `forget`. "Empty" means a
single newline: truncating a file to one byte takes a twentieth of the time that truncating it to nothing does.
"""

from __future__ import annotations

import errno
import json
import os

from waterflow_agent.runner import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from waterflow_agent.runner.protocol import Message, StartRequest

#: The content of a record that belongs to no attempt.
EMPTY = b"\n"
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class AttemptDirectory:
    """The directory of the attempt `name` below `root` (`DIR/attempts`); methods that write may raise `OSError`."""

    __slots__ = ("name", "path")

    def __init__(self, root: str, name: str) -> None:
        self.name = name
        self.path = f"{root}/{name}"

    @property
    def record_path(self) -> str:
        """The path of the record."""
        return f"{self.path}/record"

    @property
    def output_path(self) -> str:
        """The path of the first file of the spool."""
        return f"{self.path}/output"

    def claim(self, request: StartRequest, boot_id: str) -> int:
        """Claim the name for good and return the open record. Raises `FileExistsError` when it was claimed before."""
        fd = self._open_record()
        found = os.fstat(fd)
        spec: Message = {
            "argv": request.argv,
            "cwd": request.cwd,
            "timeout_ms": request.timeout_ms,
            "stop_signal": request.stop_signal,
            "grace_ms": request.grace_ms,
            "output_bytes_max": request.output_bytes_max,
            "boot_id": boot_id,
            "user": request.user,
            # Identifies the file: a copy of the directory has the same lines, but its processes belong to another runner.
            "inode": found.st_ino,
        }
        try:
            if found.st_size > len(EMPTY):
                raise FileExistsError(f"{self.record_path} is not empty")
            _write(fd, spec)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _open_record(self) -> int:
        try:
            return os.open(self.record_path, _FLAGS)
        except FileNotFoundError:
            make(self.path)
            return os.open(self.record_path, _FLAGS)

    def write_result(self, result: Message) -> None:
        """Append the result to the record."""
        fd = os.open(self.record_path, _FLAGS)
        try:
            _write(fd, {"result": result})
        finally:
            os.close(fd)

    def read_record(self) -> Record | None:
        """Return the record, or None when it is empty or missing."""
        try:
            with open(self.record_path, "rb") as file:
                content = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Record(content) if len(content) > len(EMPTY) else None

    def is_copy(self, record: Record) -> bool:
        """Whether the record was written to another file than the one that it was read from. Raises `OSError`."""
        written = record.spec.get("inode") if record.spec is not None else None
        return written is not None and written != os.stat(self.record_path).st_ino

    def read_result(self) -> Message | None:
        """Return the result, or None if it does not exist or cannot be read."""
        record = self.read_record()
        return None if record is None else record.result


class Record:
    """The valid lines of a record; torn and invalid ones are ignored."""

    __slots__ = ("process", "result", "spec")

    def __init__(self, content: bytes) -> None:
        self.spec: Message | None = None
        self.process: Message | None = None
        self.result: Message | None = None
        for line in content.split(b"\n")[:-1]:
            entry = _parse(line)
            if entry is None:
                continue
            if "argv" in entry:
                self.spec = entry
            elif "pid" in entry:
                self.process = entry
            elif isinstance(result := entry.get("result"), dict) and self.result is None:
                self.result = result


def make(path: str) -> None:
    """Create what is missing of an attempt's directory: an empty record and `files`."""
    for directory in (path, f"{path}/files"):
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            continue
    fd = os.open(f"{path}/record", _FLAGS | os.O_CREAT, 0o600)
    try:
        if os.fstat(fd).st_size == 0:
            os.write(fd, EMPTY)
    finally:
        os.close(fd)


def record_process(record_fd: int, pid: int, at: int, born_ms: tuple[int, int]) -> None:
    """Append the process: its number, and two times of the boot clock between which it started."""
    _write(record_fd, {"pid": pid, "at": at, "born_ms": born_ms})


def _write(fd: int, entry: Message) -> None:
    """Append one line completely or not at all. Raises `OSError` when the disk is full."""
    line = protocol.to_json(entry) + b"\n"
    written = os.write(fd, line)
    if written < len(line):
        os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR) - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _parse(line: bytes) -> Message | None:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
