"""A daemon that ends says why, whatever happens next."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.ports import Ports

#: The daemon, with a function that misbehaves.
BROKEN = """\
import os
from waterflowd.app import audit_export, cli, daemon
async def broken(*_):
    {body}
{name} = broken
cli.main()
"""


def _run(folder: Path, name: str, body: str, api: int, work: int, enroll: int) -> subprocess.CompletedProcess[str]:
    """Runs a daemon in which the function `name` is broken, until it ends."""
    config = folder / "waterflowd.toml"
    config.write_text(
        f'data-dir = "{folder / "data"}"\n[api]\nlisten = "127.0.0.1:{api}"\nsocket = ""\n[agents]\n'
        f'listen = "tcp://127.0.0.1:{work}"\nenroll-listen = "tcp://127.0.0.1:{enroll}"\n'
    )
    return subprocess.run(
        [sys.executable, "-c", BROKEN.format(name=name, body=body), "run", "--config", str(config)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_daemon_that_crashes_while_it_stops_has_said_why_it_stops(tmp_path: Path) -> None:
    """The reason comes before anything is stopped, and the crash in native code leaves a traceback."""
    with Ports(3) as ports, socket.create_server(("127.0.0.1", ports.numbers[0])):
        ended = _run(tmp_path, "daemon._stop", "os.abort()", *ports.numbers)

    assert ended.returncode == -signal.SIGABRT, ended.stderr
    assert "stopping: cannot listen on api.listen" in ended.stderr
    assert "Fatal Python error: Aborted" in ended.stderr
    assert "in broken" in ended.stderr


def test_the_error_of_a_background_task_is_in_the_log(tmp_path: Path) -> None:
    """With its traceback, because the daemon's own sentence only names the task."""
    with Ports(3) as ports:
        ended = _run(tmp_path, "audit_export.AuditExport.run", "raise ValueError('a fault')", *ports.numbers)

    assert ended.returncode == 1, ended.stderr
    assert "stopping: background task 'audit export' ended unexpectedly" in ended.stderr
    assert "ValueError: a fault" in ended.stderr


@pytest.mark.parametrize(("argument", "code"), [("--version", 0), ("--nosuch", 2)])
def test_a_command_that_used_temporal_ends_before_its_threads_can_abort_it(argument: str, code: int) -> None:
    """Without the interpreter's last phase, in which such a thread aborts the process; what was printed is not lost."""
    program = f"""
import atexit, sys, types
class Late:
    def __del__(self):
        print("the interpreter is taken down")
late = Late()
atexit.register(print, "exit handler")
sys.modules["temporalio"] = types.ModuleType("temporalio")
sys.argv = ["waterflowd", "{argument}"]
from waterflowd.__main__ import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert ended.returncode == code, ended.stderr
    assert ended.stdout.splitlines()[-1] == "exit handler"
    assert ("waterflowd" in ended.stdout) == (code == 0)
    assert ("No such option" in ended.stderr) == (code == 2)
