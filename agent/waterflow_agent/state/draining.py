"""Draining a running agent from another process on its server: `waterflow-agent drain`.

The agent gets a signal, tells the daemon that it has no slots, and confirms that in its status file. The state ends with its
process, so that nobody has to undo it: an upgrade drains the agent, replaces its files, and restarts it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from waterflow_agent.errors import Retryable
from waterflow_agent.state import status as status_file
from waterflow_agent.state.status import Status

SIGNAL = signal.SIGUSR1
#: The daemon answers within milliseconds, and the status file follows within a second.
CONFIRM_S_MAX = 20.0
_POLL_S = 0.1


def drain(data_dir: Path, *, is_awaited: bool = False, confirm_s_max: float = CONFIRM_S_MAX) -> Status:
    """Drains the agent and returns its status once the daemon knows, with `is_awaited` once it holds no attempts.

    Raises `Retryable` WF345 if no agent is running, or it cannot be signalled or does not confirm.
    """
    _signal(_running(data_dir), data_dir)
    until_s = time.monotonic() + confirm_s_max
    while True:
        status = _running(data_dir)
        # One that waits for its approval starts nothing, and is connected to nothing.
        if (status.is_draining or status.state == "enrolling") and not (is_awaited and status.attempts):
            return status
        if not status.is_draining and time.monotonic() > until_s:
            text = (
                f"the agent in {data_dir} did not confirm within {confirm_s_max:.0f} s that it is draining; see its log"
            )
            raise Retryable("WF345", text)
        time.sleep(_POLL_S)


def _running(data_dir: Path) -> Status:
    status = status_file.read(data_dir)
    if status is None:
        raise Retryable("WF345", f"no agent is running in {data_dir}")
    return status


def _signal(status: Status, data_dir: Path) -> None:
    try:
        os.kill(status.pid, SIGNAL)
    except ProcessLookupError as error:
        raise Retryable("WF345", f"no agent is running in {data_dir}") from error
    except PermissionError as error:
        text = f"may not signal the agent (process {status.pid}); run this as root or as the agent's user"
        raise Retryable("WF345", text) from error
