"""Notifies the service manager of the daemon's state (`sd_notify`); without a service manager it does nothing.

Protocol: sd_notify(3), a datagram to the socket in NOTIFY_SOCKET, whose name may be abstract (`@`).
"""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Sends state lines such as `READY=1`. Errors are ignored: the daemon works without the service manager."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return


def watchdog_interval_s() -> float | None:
    """Half of the watchdog timeout in seconds: how often to send `WATCHDOG=1`. None when the watchdog is off.

    Protocol: sd_watchdog_enabled(3), WATCHDOG_USEC and WATCHDOG_PID.
    """
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 2_000_000
