"""TCP ports on loopback that one test owns as long as it holds them, even while nothing listens on them.

A port that was free a moment ago may be taken by the time a daemon listens on it, and again between two starts of the daemon:
the kernel may assign it to an outgoing connection, or another test to its own daemon. These ports are therefore outside the
range from which the kernel chooses, and each is reserved by a name that only one process of the machine can have: a unix
socket in the abstract namespace, which disappears with its process.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Self

_LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Ports:
    """Reserves `count` ports; `close` returns them."""

    def __init__(self, count: int) -> None:
        self._names: dict[int, socket.socket] = {}
        candidates = _candidates()
        random.SystemRandom().shuffle(candidates)
        while len(self._names) < count:
            assert candidates, "no TCP port is free on this machine"
            port = candidates.pop()
            name = _held(port)
            if name is not None:
                self._names[port] = name

    @property
    def numbers(self) -> list[int]:
        """The reserved ports."""
        return list(self._names)

    def close(self) -> None:
        """Returns the ports; calling it again does nothing."""
        for name in self._names.values():
            name.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _candidates() -> list[int]:
    """Returns ports that the kernel never assigns itself, or all ports if that leaves too few."""
    first = int(_RANGE.read_text().split()[0])
    return list(range(_LOWEST, first if first > _LOWEST + 1_000 else 65_536))


def _held(port: int) -> socket.socket | None:
    """Returns the socket whose name reserves the port; None if another test or program has it."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0waterflow-tests-port-{port}")
        with socket.socket() as probe:
            # Like a daemon, which can also listen while old connections of an earlier process are closing.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError:
        name.close()
        return None
    return name
