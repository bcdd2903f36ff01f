"""Notifications to the service manager (sd_notify): ready, alive, stopping."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import PATIENCE_S


def _received(manager: socket.socket, expected: str, count: int = 1) -> None:
    """Waits for `count` messages with the line; the timeout of the socket fails the test."""
    while count:
        if expected in manager.recv(4096).decode().splitlines():
            count -= 1


def test_the_daemon_notifies_ready_watchdog_and_stopping(empty_cluster: Cluster) -> None:
    """READY=1 when its listeners are open, WATCHDOG=1 while the driver makes progress, STOPPING=1 at SIGTERM."""
    path = empty_cluster.folder / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE_S)
        daemon = subprocess.Popen(
            [sys.executable, "-m", "waterflowd", "run", "--config", str(empty_cluster.config)],
            env=empty_cluster.environment() | {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"},
            stderr=subprocess.DEVNULL,
        )
        try:
            _received(manager, "READY=1")
            assert empty_cluster.api("GET", "/ready").status_code == 200
            _received(manager, "WATCHDOG=1", count=3)
            daemon.terminate()
            _received(manager, "STOPPING=1")
            assert daemon.wait(PATIENCE_S) == 0
        finally:
            daemon.kill()
            daemon.wait()


@pytest.mark.parametrize(
    ("line", "exit_code", "message"), [("colour = 1", 2, "WF620"), ('data-dir = "FILE/x"', 1, "WF317")]
)
def test_a_failed_start_is_reported_as_status(empty_cluster: Cluster, line: str, exit_code: int, message: str) -> None:
    """The status is one line, for users who may read `systemctl status` but not the journal."""
    path, config, file = (empty_cluster.folder / name for name in ("notify.sock", "wrong.toml", "file"))
    file.touch()
    config.write_text(line.replace("FILE", str(file)) + "\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        ended = subprocess.run(
            [sys.executable, "-m", "waterflowd", "run", "--config", str(config)],
            env=empty_cluster.environment() | {"NOTIFY_SOCKET": str(path)},
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        manager.settimeout(0)
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages += manager.recv(4096).decode().splitlines()
    assert ended.returncode == exit_code, ended.stderr
    assert ended.stderr.startswith("waterflowd: ")
    assert message in ended.stderr
    assert f"STATUS={ended.stderr.strip().removeprefix('waterflowd: ')}" in messages
