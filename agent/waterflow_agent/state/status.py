"""The status file in the data directory, which the running agent keeps up to date for `waterflow-agent status`."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from waterflow_agent.errors import Retryable
from waterflow_agent.state.journal import DISK_FULL_ERRORS
from waterflow_agent.wire.messages import DockerEngine, OwnNode

_FILE_NAME = "status.json"
#: The file is padded to a multiple of this: a block of every file system.
_BLOCK_BYTES = 4096
#: At least as much padding is added, which a longer text can use when the disk is full.
_RESERVE_BYTES = 1024


class AttemptStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that the agent holds."""

    run: str
    job: str
    step: str
    step_name: str
    attempt: int
    state: str
    started_at: int | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The agent at the time `at` (ms)."""

    pid: int
    #: When the process started, in ticks since boot: distinguishes it from a later process with the same number.
    process_started: int
    at: int
    name: str
    fingerprint: str
    server: str
    #: `enrolling`, or a `LinkState`.
    state: str
    is_connected: bool
    link: str
    groups: list[str]
    slots: int
    attempts: list[AttemptStatus]
    #: The user of steps unless a job chooses another one, and the enforced limits of a step, for people.
    step_user: str = ""
    limits: list[str] = []
    #: Processes that steps left behind and that were ended, since the start of the step runner.
    leftovers: int = 0
    #: A sentence for each kind of isolation that this server does not enforce.
    warnings: list[str] = []
    #: The nodes of this server that are not built in.
    nodes: list[OwnNode] = []
    #: None before the enrollment.
    docker: DockerEngine | None = None
    #: Of the server's key that this agent uses.
    server_fingerprint: str = ""
    #: Nothing new is started until the agent is restarted, and the daemon knows it.
    is_draining: bool = False


def write(data_dir: Path, status: Status) -> None:
    """Replaces the file, or on a full disk overwrites it in place, for which it has a reserve. Raises `OSError`."""
    path = data_dir / _FILE_NAME
    temporary = path.with_suffix(".new")
    text = msgspec.json.encode(status)
    try:
        blocks = -(-(len(text) + _RESERVE_BYTES) // _BLOCK_BYTES)
        _write(temporary, text.ljust(blocks * _BLOCK_BYTES), os.O_CREAT | os.O_TRUNC)
        os.rename(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in DISK_FULL_ERRORS:
            raise
        size = path.stat().st_size
        if len(text) > size:
            raise
        # A reader that comes in between finds a damaged file and says so; the next second it is complete.
        _write(path, text.ljust(size), 0)


def _write(path: Path, content: bytes, flags: int) -> None:
    """Writes all of the content. A write that only has space for a part of it succeeds, and the next one fails."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        written = 0
        while written < len(content):
            written += os.write(fd, content[written:])
    finally:
        os.close(fd)


def read(data_dir: Path) -> Status | None:
    """Returns the status of the agent that is running with this directory, or None. Raises `Retryable` WF344 if unreadable."""
    status = read_last(data_dir)
    return status if status is not None and process_started(status.pid) == status.process_started else None


def read_last(data_dir: Path) -> Status | None:
    """Returns the status of the newest agent with this directory, which may have ended. Raises `Retryable` WF344."""
    path = data_dir / _FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise Retryable("WF344", f"cannot read {path}: {error}") from error


def process_started(pid: int) -> int:
    """Returns when the process started, in ticks since boot, or -1 when it does not exist."""
    try:
        # Field 22. Counted from the end of the name, which may contain anything.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return -1
