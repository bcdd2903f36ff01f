"""Faults at a chosen system call: strace kills a process there, or makes the call fail.

A fault is `(system call, count)`: it strikes when a thread of the process makes this call for the count-th time. A kill
strikes on entry to the call, so the kill at call N is the kill right after call N-1. All N together are all the points
at which the death of the process can be told apart from outside.

Where strace or the permission to trace is missing, `requires_strace` skips the test with the reason.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.patience import PATIENCE_S, wait_until

#: How long strace may take to detach; it detaches soon, unless it has lost track of a process that was killed.
_LET_GO_S = 2.0


class Fault(NamedTuple):
    """A fault and when it strikes."""

    call: str
    number: int
    #: The tampering in strace's syntax: `signal=SIGKILL`, `error=EIO`.
    effect: str = "signal=SIGKILL"
    #: Whether the fault also strikes every further call.
    lasts: bool = False

    def __str__(self) -> str:
        return f"{self.effect} at {self.call} number {self.number}{' and later' if self.lasts else ''}"

    def options(self) -> list[str]:
        """Returns the options of strace."""
        when = f"{self.number}{'+' if self.lasts else ''}"
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:{self.effect}:when={when}"]


@functools.cache
def _obstacle() -> str | None:
    if sys.platform != "linux" or shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-o", os.devnull, "-e", "inject=getppid:error=EIO:when=1", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if tried.returncode == 0 else f"strace cannot inject faults here: {tried.stderr.strip()[-200:]}"


def requires_strace() -> None:
    """Skips the test on a machine without a working strace."""
    reason = _obstacle()
    if reason is not None:
        pytest.skip(reason)


def started_with(fault: Fault) -> list[str]:
    """Returns what to put in front of a command so that the fault strikes it; the command keeps its process id."""
    return ["strace", "-D", "-f", "-qq", "-o", os.devnull, *fault.options()]


class Attached:
    """strace attached to a running process and its threads; a context manager that detaches at the end."""

    def __init__(self, pid: int, fault: Fault, *, threads: bool = True) -> None:
        self.fault = fault
        self._pid = pid
        follow = ["-f"] if threads else []
        self._strace = subprocess.Popen(
            ["strace", *follow, "-qq", "-o", os.devnull, *fault.options(), "-p", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        wait_until(lambda: self._is_attached(pid), f"strace to attach to {pid}", PATIENCE_S)

    def _is_attached(self, pid: int) -> bool:
        if not is_alive(pid):
            # The fault struck its first call before strace was seen to be attached.
            return True
        if self._strace.poll() is not None:
            assert self._strace.stderr is not None
            raise AssertionError(f"strace ended: {self._strace.stderr.read().decode()[-500:]}")
        try:
            return all(_tracer(task) == self._strace.pid for task in Path(f"/proc/{pid}/task").iterdir())
        except OSError:
            # A thread, or the process, has just ended.
            return False

    def close(self) -> None:
        """Lets the process continue without faults, if it still exists."""
        if self._strace.poll() is None:
            self._strace.terminate()
        try:
            # An injected fault that is in progress must complete: only the requested signal may end strace.
            self._strace.wait(10 * _LET_GO_S if is_alive(self._pid) else _LET_GO_S)
        except subprocess.TimeoutExpired:
            # strace waits for threads that the kill took away. When it has exited, the kernel releases what is left.
            self._strace.kill()
            self._strace.wait(PATIENCE_S)
        assert self._strace.stderr is not None
        self._strace.stderr.close()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tracer(task: Path) -> int:
    for line in (task / "status").read_text().splitlines():
        if line.startswith("TracerPid:"):
            return int(line.split()[1])
    return 0


def is_alive(pid: int) -> bool:
    """Returns whether the process runs; a zombie does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def wait_for_end(pid: int, patience_s: float) -> bool:
    """Returns whether the process ended within the time."""
    deadline = time.monotonic() + patience_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
