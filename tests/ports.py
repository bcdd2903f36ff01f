"""TCP ports on loopback that are one test's own for as long as it holds them, also while nobody listens on them.

A port that was free a moment ago may be anybody's by the time a daemon listens there, and again between two of its lives: the
kernel gives it to the next outgoing connection, another test to its own daemon. So these lie outside of the range from which
the kernel chooses, and each is held by a name that only one process of the machine can have: a unix socket in the abstract
namespace, which is gone with its process.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Self

_LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Ports:
    """`count` ports; `close` gives them back."""

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
        """The ports."""
        return list(self._names)

    def close(self) -> None:
        """Idempotent."""
        for name in self._names.values():
            name.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _candidates() -> list[int]:
    """Ports that the kernel gives to nobody by itself, or all where it leaves too few."""
    first = int(_RANGE.read_text().split()[0])
    return list(range(_LOWEST, first if first > _LOWEST + 1_000 else 65_536))


def _held(port: int) -> socket.socket | None:
    """The name that holds the port; None when another test or somebody else has it."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0waterflow-tests-port-{port}")
        with socket.socket() as probe:
            # As a daemon does, which also listens where an earlier one has left connections that are over.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError:
        name.close()
        return None
    return name
