"""Finds the processes of a step in `/proc`: by session, process group, control group, or the mark in their environment.

Theory. The main process of a step leads its own session and process group, so `killpg` reaches nearly everything at once.
Processes that called `setsid` are found by their control group where there is one, else by the mark, an environment variable
that every descendant inherits. Processes are signalled through a pidfd and checked again after it was opened, so a reused
number is never hit. The runner is the reaper of its descendants (`PR_SET_CHILD_SUBREAPER`): orphans of a step become its
children, not init's, and it reaps them.

A scan of `/proc` costs milliseconds, so it is only used for cancel, timeout, and leftovers.
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
#: More generations than any program has; also bounds a walk through processes that end meanwhile.
_ANCESTORS_MAX = 10_000
#: Bounds the memory and time that one process with a huge environment costs.
_ENVIRONMENT_BYTES_MAX = 2 * 1024 * 1024
#: The start time of a process that cannot be examined.
_UNKNOWN = -1


class Process:
    """A process in `/proc`, identified by (`pid`, `start_time`) within one boot."""

    __slots__ = ("group", "name", "parent", "pid", "session", "start_time", "state")

    def __init__(self, pid: int, fields: list[bytes], name: bytes = b"?") -> None:
        self.pid = pid
        #: The kernel's short name of the program, which a process can change.
        self.name = name.decode("utf-8", "replace")
        self.state = fields[0]
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.start_time = int(fields[19])

    @classmethod
    def hidden(cls, pid: int) -> Process:
        """Return a process that exists but cannot be examined, such as one that is not dumpable."""
        return cls(pid, [b"?", *[b"0"] * 18, b"%d" % _UNKNOWN])

    def was_born_between(self, earliest_ms: int, latest_ms: int) -> bool:
        """Whether it started between these times of the boot clock, within the precision of the kernel's ticks."""
        tick_ms = 1_000 // os.sysconf("SC_CLK_TCK")
        born_ms = self.start_time * tick_ms
        return earliest_ms - tick_ms <= born_ms <= latest_ms + tick_ms

    def age_ms(self, now: int) -> int:
        """How long it has been running at `now` (boot clock); 0 when that is not known."""
        return max(0, now - self.start_time * 1_000 // os.sysconf("SC_CLK_TCK")) if self.start_time >= 0 else 0

    @property
    def is_dead(self) -> bool:
        """Whether it has ended and waits to be reaped."""
        return self.state in (b"Z", b"X")


def boot_id() -> str:
    """Return the kernel's random id of this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def read_process(pid: int) -> Process | None:
    """Return the process with this number, or None."""
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
    # The name in parentheses may itself contain spaces and parentheses.
    end = line.rindex(b")")
    return Process(pid, line[end + 2 :].split(), line[line.index(b"(") + 1 : end])


def all_processes() -> Iterator[Process]:
    """Yield every living process except this one."""
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != own:
            process = read_process(int(entry))
            if process is not None and not process.is_dead:
                yield process


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether the process is below `ancestor` or cannot be examined. The orphans of a reaper are its children."""
    for _ in range(_ANCESTORS_MAX):
        process = read_process(pid)
        if process is None or pid == ancestor:
            return True
        if process.parent <= 1:
            return False
        pid = process.parent
    return True


def mark_of(pid: int) -> str | None:
    """Return the mark in the process's environment, or None when it has none or is not readable."""
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


def members(leader: int, mark: str, contained: Collection[int], reaper: int | None = None) -> list[Process]:
    """Return the living processes of the step led by `leader`: of its session, its group, in `contained`, or with its mark.

    With `reaper`, the step has ended some time ago, so the kernel may have given the leader's number to another process: then a
    member of the session must be a descendant of the reaper, and not have the mark of another step.
    """
    found = [
        process
        for process in all_processes()
        if process.pid in contained
        or (leader in (process.session, process.group) and _is_left_by(process, mark, reaper))
        or mark_of(process.pid) == mark
    ]
    seen = {process.pid for process in found}
    return found + [Process.hidden(pid) for pid in contained if pid not in seen and _exists(pid)]


def _is_left_by(process: Process, mark: str, reaper: int | None) -> bool:
    return reaper is None or (mark_of(process.pid) in (None, mark) and is_descendant(process.pid, reaper))


def _exists(pid: int) -> bool:
    """Whether a process with this number exists, even if `/proc` hides it."""
    process = read_process(pid)
    if process is not None:
        return not process.is_dead
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def children() -> list[int]:
    """Return the numbers of this process's children, including adopted and exited ones."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        # A kernel without this file; then only visible processes are found.
        return [process.pid for process in all_processes() if process.parent == own]


def send_signal(process: Process, number: int) -> int:
    """Signal exactly this process. Returns a pidfd for it, which the caller closes, or -1 when it has ended."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            # Out of descriptors: the signal must be sent anyway, at the risk that the number was reused.
            _send_by_number(process, number)
        return -1
    if process.start_time != _UNKNOWN:
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
        # It changed its user, and this runner is not root: it can only be waited for.
        return fd
    return fd


def _send_by_number(process: Process, number: int) -> None:
    try:
        os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def signal_group(leader: int, number: int) -> None:
    """Signal the whole group of a main process that is not reaped yet, so that its number cannot be reused."""
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
    """Make orphaned descendants children of this process. Returns False without ctypes or if the kernel refuses."""
    try:
        import ctypes
    except ImportError:
        return False
    result: int = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return result == 0
