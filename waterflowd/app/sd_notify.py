"""Tells the service manager how the daemon is (`sd_notify`); without one it does nothing.

Source of the protocol: sd_notify(3). A datagram to the socket in NOTIFY_SOCKET, whose name may be abstract (`@`).
"""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Sends state lines such as `READY=1`. A service manager that does not listen is no error of ours."""
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
    """How often the service manager wants `WATCHDOG=1`: half of its time, in seconds; None when it does not ask.

    Source: sd_watchdog_enabled(3), WATCHDOG_USEC and WATCHDOG_PID.
    """
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 2_000_000
