"""Who belongs to a step: found in `/proc` by session, process group, control group or the mark in the environment.

Theory. A step's main process leads its own session and process group, so `killpg` reaches nearly everything at once.
What gets away has called `setsid`: it is found by its control group where there is one, else by the mark, a variable of
the environment that every descendant inherits. Processes are signalled through a pidfd whose process is looked at again
after the pidfd was opened, so a number that was used again is never hit. The runner makes itself the reaper of its
descendants (`PR_SET_CHILD_SUBREAPER`): what a step leaves behind becomes its child, not init's, and is reaped by it.

A full look through `/proc` costs milliseconds, so it is for the rare cases: cancel, time-out, and leftovers.
"""

from __future__ import annotations

import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

#: The variable that marks a step's processes; its value is the path of the attempt's directory.
MARK = "WATERFLOW_ATTEMPT_DIRECTORY"

_PR_SET_CHILD_SUBREAPER = 36
#: Bounds the memory and time that one process with a huge environment costs.
_ENVIRONMENT_BYTES_MAX = 2 * 1024 * 1024


class Process:
    """One line of `/proc`: identity is (`pid`, `start_time`) within one boot."""

    __slots__ = ("group", "parent", "pid", "session", "start_time", "state")

    def __init__(self, pid: int, fields: list[bytes]) -> None:
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.start_time = int(fields[19])

    def was_born_between(self, earliest_ms: int, latest_ms: int) -> bool:
        """Whether it started between these times of the boot clock, as far as the kernel's ticks tell."""
        tick_ms = 1_000 // os.sysconf("SC_CLK_TCK")
        born_ms = self.start_time * tick_ms
        return earliest_ms - tick_ms <= born_ms <= latest_ms + tick_ms

    @property
    def is_dead(self) -> bool:
        """Whether it only waits to be reaped."""
        return self.state in (b"Z", b"X")


def boot_id() -> str:
    """The kernel's random id of this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def read_process(pid: int) -> Process | None:
    """The process with this number now, or None."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        line = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    # The name in parentheses may itself hold spaces and parentheses.
    return Process(pid, line[line.rindex(b")") + 2 :].split())


def all_processes() -> Iterator[Process]:
    """Every process that is alive, but for this one."""
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != own:
            process = read_process(int(entry))
            if process is not None and not process.is_dead:
                yield process


def mark_of(pid: int) -> str | None:
    """The mark that the process was started with; None when it has none or may not be read."""
    try:
        fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        content = bytearray(b"\0")
        while len(content) < _ENVIRONMENT_BYTES_MAX:
            piece = os.read(fd, 65_536)
            if not piece:
                break
            content += piece
    except OSError:
        return None
    finally:
        os.close(fd)
    prefix = f"\0{MARK}=".encode()
    begin = content.find(prefix)
    if begin < 0:
        return None
    begin += len(prefix)
    end = content.find(b"\0", begin)
    return os.fsdecode(bytes(content[begin : end if end >= 0 else None]))


def members(leader: int, mark: str, contained: Collection[int]) -> list[Process]:
    """Living processes of the step led by `leader`: its session, its group, those `contained`, those with its mark."""
    return [
        process
        for process in all_processes()
        if leader in (process.session, process.group) or process.pid in contained or mark_of(process.pid) == mark
    ]


def send_signal(process: Process, number: int) -> int:
    """Signal exactly this process; returns a pidfd for it (the caller closes it), or -1 when it is gone."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            # Out of descriptors: the signal must go out all the same, at the risk of the number's reuse.
            _send_by_number(process, number)
        return -1
    now = read_process(process.pid)
    if now is None or now.start_time != process.start_time:
        os.close(fd)
        return -1
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        os.close(fd)
        return -1
    except PermissionError:
        # It changed its user and this runner is not root: all that can be done is to wait for its end.
        return fd
    return fd


def _send_by_number(process: Process, number: int) -> None:
    try:
        os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def signal_group(leader: int, number: int) -> None:
    """Signal the whole group of a main process that was not reaped yet, so that its number cannot be another's."""
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        return


def group_is_empty(leader: int) -> bool:
    """Whether no process, not even an unreaped one, is left in the group."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def become_reaper() -> bool:
    """Make orphaned descendants children of this process; False where Python lacks ctypes or the kernel refuses."""
    try:
        import ctypes
    except ImportError:
        return False
    result: int = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return result == 0
