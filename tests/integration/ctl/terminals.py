"""Runs commands on a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys

from tests.integration.ctl.served import Server
from tests.patience import PATIENCE_S

COLUMNS = 80


def heed_interrupts() -> None:
    """For `preexec_fn`: tests may run in the background of a shell, which lets processes ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def shown(server: Server, *arguments: str, columns: int = COLUMNS, typed: bytes = b"") -> list[str]:
    """Returns the lines that a command prints on a terminal, without colours, while somebody types."""
    return lines_of("--server", f"unix:{server.path}", *arguments, columns=columns, typed=typed)


def lines_of(*arguments: str, columns: int = COLUMNS, typed: bytes = b"") -> list[str]:
    """The same for a command that needs no daemon."""
    main, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-m", "waterflowd.ctl", *arguments]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    os.write(main, typed)
    output = b""
    try:
        while piece := os.read(main, 1 << 16):
            output += piece
    except OSError:
        # Linux reports the end of the other side as an error.
        process.wait(PATIENCE_S)
    finally:
        os.close(main)
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).replace("\r\n", "\n").splitlines()
