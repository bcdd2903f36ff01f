"""Faults at a chosen system call: strace kills a process there, or makes the call fail.

A fault is `(system call, count)`: it strikes when a thread of the process makes this call for the count-th time. A kill strikes
on the way into the call, so the kill at call N is the kill right behind call N-1, and all N together are all the places
where a process that is seen from outside can die.

Where strace or the right to trace is missing, `requires_strace` skips with the reason.
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

from tests.acceptance.world import wait_until
from tests.patience import PATIENCE_S

#: strace lets go soon, unless it has lost count of a process that was killed.
_LET_GO_S = 2.0


class Fault(NamedTuple):
    """What happens, and when."""

    call: str
    number: int
    #: What strace calls the tampering: `signal=SIGKILL`, `error=EIO`.
    effect: str = "signal=SIGKILL"
    #: Whether every further call is struck too.
    lasts: bool = False

    def __str__(self) -> str:
        return f"{self.effect} at {self.call} number {self.number}{' and later' if self.lasts else ''}"

    def options(self) -> list[str]:
        """Of strace."""
        when = f"{self.number}{'+' if self.lasts else ''}"
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:{self.effect}:when={when}"]


@functools.cache
def _why_not() -> str | None:
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
    """Skips the test on a machine without."""
    reason = _why_not()
    if reason is not None:
        pytest.skip(reason)


def started_with(fault: Fault) -> list[str]:
    """What to put in front of a command so that the fault strikes it; the command keeps its process id."""
    return ["strace", "-D", "-f", "-qq", "-o", os.devnull, *fault.options()]


class Attached:
    """strace on a running process and its threads; a context manager that lets go at the end."""

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
            # Struck by its first call, before this could be seen.
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
        """Lets the process go on without faults, if it is still there."""
        if self._strace.poll() is None:
            self._strace.terminate()
        try:
            # What is in the middle of an injected fault must come out of it: no signal but the asked one may end strace.
            self._strace.wait(10 * _LET_GO_S if is_alive(self._pid) else _LET_GO_S)
        except subprocess.TimeoutExpired:
            # It waits for threads that the kill took away. When it is gone the kernel lets go of what is left.
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
    """Whether the process runs: one that only waits for its parent to notice its end does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def wait_for_end(pid: int, patience_s: float) -> bool:
    """Whether the process ended within the time."""
    deadline = time.monotonic() + patience_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
