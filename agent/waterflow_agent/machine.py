"""What the agent tells of the machine that it runs on."""

from __future__ import annotations

import os
import platform
import socket


def boot_id() -> str:
    """The kernel's random id of this boot."""
    return _first_line("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """The machine's id, "" where there is none."""
    return _first_line("/etc/machine-id")


def host_name() -> str:
    """The host's name as the kernel has it."""
    return socket.gethostname()


def system() -> tuple[str, str]:
    """Operating system and architecture in small letters, as in `linux`, `x86_64`."""
    return platform.system().lower(), platform.machine().lower()


def _first_line(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 256).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
