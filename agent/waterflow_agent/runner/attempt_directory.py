"""The files of one attempt: `record`, `output` and `files/`.

    DIR/attempts/<name>/record   lines of JSON: what was asked for (before the process), which process it became, how
                                 it ended; a line counts when its end is there
                       /output   the spool, and its continuations `output.1`, ...
                       /files/   mode 0700, empty: where WATERFLOW_OUTPUT and its like point

The first line is written before the process starts, and only into a record that is empty: that is what makes a start
happen at most once, also when the runner was killed in between. It never holds the environment, which may carry secrets.
The last line, written in one piece, is the result; without it the outcome is not known. Nothing is flushed to the
platter: after a power cut the boot id differs and a line that is torn does not count, so the attempt is `lost`.

One file for three facts, because making a file costs more than anything else that a short step needs (30 to 250 µs on
ext4). The agent may make the directory first, with an empty record, and removes or reuses it after `forget`. "Empty" is a
line's end: cutting a file down to one byte takes a twentieth of the time that cutting it to none does.
"""

from __future__ import annotations

import errno
import json
import os

from waterflow_agent.runner import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from waterflow_agent.runner.protocol import Message, StartRequest

#: What a record holds that is nobody's.
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
        """Where the lines are."""
        return f"{self.path}/record"

    @property
    def output_path(self) -> str:
        """Where the spool begins."""
        return f"{self.path}/output"

    def claim(self, request: StartRequest, boot_id: str) -> int:
        """Take the name for ever; returns the open record. Raises `FileExistsError` when it was taken before."""
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
            # Which file this is: a copy of the directory has the same lines, and its processes are another runner's.
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
        """Add the result to the record."""
        fd = os.open(self.record_path, _FLAGS)
        try:
            _write(fd, {"result": result})
        finally:
            os.close(fd)

    def read_record(self) -> Record | None:
        """What is recorded; None when nothing ever was."""
        try:
            with open(self.record_path, "rb") as file:
                content = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Record(content) if len(content) > len(EMPTY) else None

    def is_copy(self, record: Record) -> bool:
        """Whether the record was written into another file than the one that it is read from. Raises `OSError`."""
        written = record.spec.get("inode") if record.spec is not None else None
        return written is not None and written != os.stat(self.record_path).st_ino

    def read_result(self) -> Message | None:
        """The result, or None when there is none that can be read."""
        record = self.read_record()
        return None if record is None else record.result


class Record:
    """The readable lines of a record; a torn or broken line is as good as none."""

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
    """Make an attempt's directory as far as it is not there: an empty record and `files`."""
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
    """Add which process it became: its number, and two times of the boot clock between which it was born."""
    _write(record_fd, {"pid": pid, "at": at, "born_ms": born_ms})


def _write(fd: int, entry: Message) -> None:
    """Append one line, all of it or nothing of it; raises `OSError` when the disk is full."""
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
