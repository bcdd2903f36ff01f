"""Facts about the machine that the agent runs on."""

from __future__ import annotations

import os
import platform
import socket

import msgspec

#: What must remain free on a disk, in bytes, while files are kept or fetched that steps can do without.
RESERVED_BYTES = 1 << 30


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent reports about its machine."""

    machine_id: str
    hostname: str
    #: Operating system and architecture in lower case, such as `linux` and `x86_64`.
    os: str
    arch: str


def describe() -> Machine:
    """Returns the current facts: the host name may change while the agent runs."""
    return Machine(
        machine_id=_first_line("/etc/machine-id"),
        hostname=socket.gethostname(),
        os=platform.system().lower(),
        arch=platform.machine().lower(),
    )


def boot_id() -> str:
    """Returns the kernel's random id of this boot."""
    return _first_line("/proc/sys/kernel/random/boot_id")


def _first_line(path: str) -> str:
    """Returns the text of a small file, or "" when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 256).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
