"""The processes of the demo: daemons and agents in one temporary directory.

Rules of this file: each process gets its own session, so that only the demo receives Ctrl-C; it then stops the agents,
their step runners, the daemons and the server that these use, in this order. A process belongs to the demo if the demo started
it, or if it is a Waterflow process in the demo's directory (step runners, or a daemon that the user restarted).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from waterflowd.ctl.failures import RUN_FAILED, Failure

#: The names of the daemons; the second one exists only on Temporal.
DAEMONS = ("waterflowd", "waterflowd-2")
TEMPORAL = "temporal"
#: The processes that end last, in this order; all others are agents.
SERVERS = (*DAEMONS, TEMPORAL)
#: How long to wait after SIGTERM and after SIGKILL; nothing may write to the directory afterwards.
_END_S = 8.0
_KILLED_S = 60.0
_POLL_S = 0.05
_MODULES = (b"waterflow_agent", b"waterflowd")


def free_port(preferred: int = 0) -> int:
    """Return a free port of the loopback interface: `preferred` if possible. It is free at all of its addresses."""
    for port, host in ((preferred, "127.0.0.1"), (0, "0.0.0.0")):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                found: int = probe.getsockname()[1]
                return found
    raise Failure(RUN_FAILED, "no free port on 127.0.0.1", "ip addr show lo")


class Processes:
    """The processes that the demo started in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, module: str, configuration: str) -> subprocess.Popen[bytes]:
        """Start `python -m module run` with the configuration, which is written to the folder."""
        path = self._folder / f"{name}.toml"
        path.write_text(configuration, "utf-8")
        return self.start_command(name, self.command(name, module))

    def start_command(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Start another program."""
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(),
            )
        self._started.append((name, process))
        return process

    def pid(self, name: str) -> int:
        """Return the process id of the newest process of that name."""
        return next(process.pid for known, process in reversed(self._started) if known == name)

    def command(self, name: str, module: str) -> list[str]:
        """Return the command that starts the process of that name."""
        return [sys.executable, "-P", "-m", module, "run", "--config", str(self._folder / f"{name}.toml")]

    def command_text(self, name: str, module: str) -> str:
        """Return the command as text to type."""
        return shlex.join(self.command(name, module))

    def wait_until(self, is_true: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for a condition; raises `Failure` with the end of a log if a process ends or the time runs out."""
        end = time.monotonic() + seconds
        while not is_true():
            for name, process in self._started:
                if process.poll() is not None:
                    raise self._failure(f"{name} exited with code {process.returncode}", name)
            if time.monotonic() > end:
                raise self._failure(f"{what} took more than {seconds:.0f} s", self._started[-1][0])
            time.sleep(_POLL_S)

    def has_logged(self, name: str, *texts: str) -> bool:
        """Return whether the log of the process of that name contains one of the texts."""
        log = (self._folder / f"{name}.log").read_text("utf-8", "replace")
        return any(text in log for text in texts)

    def kill(self, name: str) -> None:
        """Kill a process, and forget it."""
        for known, process in self._started:
            if known == name:
                process.kill()
                process.wait()
        self.forget(name)

    def forget(self, name: str) -> None:
        """Forget a process that ended, and its log, so that another can be started under its name."""
        self._started = [(known, process) for known, process in self._started if known != name]
        (self._folder / f"{name}.log").unlink()

    def _failure(self, text: str, name: str) -> Failure:
        log = (self._folder / f"{name}.log").read_text("utf-8", "replace").splitlines()[-15:]
        return Failure(
            RUN_FAILED,
            "\n  ".join([text, *log]).replace("\n", " | "),
            "waterflowctl demo --keep, then read the *.log files",
        )

    def end(self) -> None:
        """Stop everything: first the agents, then the step runners, then the daemons and what they use."""
        last = [process for name, process in self._started if name in SERVERS]
        for name, process in reversed(self._started):
            if name not in SERVERS:
                _end([process.pid], process)
        self._end_others(last)
        # A daemon may have been started again after the agents, but it always ends before the server that it uses.
        for name in SERVERS:
            for known, process in self._started:
                if known == name:
                    _end([process.pid], process)
        self._end_others([])

    def _end_others(self, besides: list[subprocess.Popen[bytes]]) -> None:
        kept = {process.pid for process in besides if process.poll() is None}
        others = [pid for pid in _waterflow_processes_in(self._folder) if pid not in kept]
        if others:
            _end(others, None)


def _environment() -> dict[str, str]:
    """Return the environment without the variables that configure a daemon or agent."""
    prefixes = ("WATERFLOWD_", "WATERFLOW_", "SERVER_GROUP")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _end(pids: list[int], process: subprocess.Popen[bytes] | None) -> None:
    """Send SIGTERM, and SIGKILL to what is still alive after a while."""
    for number, seconds in ((signal.SIGTERM, _END_S), (signal.SIGKILL, _KILLED_S)):
        for pid in pids:
            if _is_alive(pid, process):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        end = time.monotonic() + seconds
        while any(_is_alive(pid, process) for pid in pids):
            if time.monotonic() > end:
                break
            time.sleep(_POLL_S)


def _is_alive(pid: int, process: subprocess.Popen[bytes] | None) -> bool:
    if process is not None:
        return process.poll() is None
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def _waterflow_processes_in(folder: Path) -> list[int]:
    """Return the processes that run one of our modules with an argument below `folder`."""
    prefix = os.fsencode(folder) + b"/"
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = Path(entry.path, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        is_ours = any(word.startswith(_MODULES) for word in arguments)
        if is_ours and any(word.startswith(prefix) for word in arguments):
            found.append(int(entry.name))
    return found
