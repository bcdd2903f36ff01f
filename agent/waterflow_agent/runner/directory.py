"""The files of one attempt: `spec`, `output`, `exit`, and `files/` for what the step hands back.

    DIR/attempts/<name>/spec     two lines of JSON: what was asked for (before the process), which process it became
                       /output   the spool, and its continuations `output.1`, ...
                       /exit     the result, one JSON object; written under another name and renamed
                       /files/   mode 0700, empty: where WATERFLOW_OUTPUT and its like point

`spec` is created exclusively, before the process: that is what makes a start happen at most once, also when the runner
was killed in between. It never holds the environment, which may carry secrets. Nothing is flushed to the platter: after
a power cut the boot id differs and an unreadable `exit` reads as none, so the attempt is `lost`, as it must be.

The agent may create the directory first, and it removes it after `forget`.
"""

from __future__ import annotations

import json
import os

from waterflow_agent.runner import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from waterflow_agent.runner.protocol import Message, StartRequest

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class AttemptDirectory:
    """The directory of the attempt `name` below `root` (`DIR/attempts`); every method may raise `OSError`."""

    __slots__ = ("name", "path")

    def __init__(self, root: str, name: str) -> None:
        self.name = name
        self.path = f"{root}/{name}"

    @property
    def output_path(self) -> str:
        """Where the spool begins."""
        return f"{self.path}/output"

    def claim(self, request: StartRequest, boot_id: str) -> int:
        """Take the name for ever; returns the open `spec`. Raises `FileExistsError` when it was taken before."""
        for path in (self.path, f"{self.path}/files"):
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                continue
        fd = os.open(f"{self.path}/spec", _CREATE | os.O_EXCL | os.O_APPEND, 0o600)
        spec: Message = {
            "argv": request.argv,
            "cwd": request.cwd,
            "timeout_ms": request.timeout_ms,
            "stop_signal": request.stop_signal,
            "grace_ms": request.grace_ms,
            "output_bytes_max": request.output_bytes_max,
            "boot_id": boot_id,
        }
        try:
            _write(fd, protocol.to_json(spec) + b"\n")
        except OSError:
            os.close(fd)
            raise
        return fd

    def read_spec(self) -> tuple[Message | None, Message | None]:
        """The two lines of `spec`; None for one that is missing or was cut off."""
        try:
            with open(f"{self.path}/spec", "rb") as file:
                lines = file.read().split(b"\n")
        except OSError:
            return None, None
        return _parse(lines[0]), _parse(lines[1] if len(lines) > 1 else b"")

    @property
    def is_claimed(self) -> bool:
        """Whether a start was ever begun under this name."""
        return os.path.lexists(f"{self.path}/spec")

    def write_exit(self, result: Message) -> None:
        """Put the result on disk, all of it or nothing."""
        temporary = f"{self.path}/exit.new"
        fd = os.open(temporary, _CREATE | os.O_TRUNC, 0o600)
        try:
            _write(fd, protocol.to_json(result))
        finally:
            os.close(fd)
        os.rename(temporary, f"{self.path}/exit")

    def read_exit(self) -> Message | None:
        """The result, or None when there is none that can be read."""
        try:
            with open(f"{self.path}/exit", "rb") as file:
                return _parse(file.read())
        except OSError:
            return None


def record_process(spec_fd: int, pid: int, start_time: int, at: int) -> None:
    """Add to an open `spec` which process it became: `start_time` is field 22 of `/proc/PID/stat`."""
    _write(spec_fd, b'{"pid":%d,"start_time":%d,"at":%d}\n' % (pid, start_time, at))


def _write(fd: int, content: bytes) -> None:
    """Write all of `content`, which a full disk may stop in the middle: the second try then raises."""
    written = os.write(fd, content)
    while written < len(content):
        written += os.write(fd, content[written:])


def _parse(content: bytes) -> Message | None:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
