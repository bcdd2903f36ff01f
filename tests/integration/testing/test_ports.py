"""The ports of tests: reserved against other tests and the kernel, and released afterwards."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests import ports
from tests.ports import Ports


def test_reserved_ports_are_exclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another test nor the kernel gets a reserved port; a released port is available again."""
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with Ports(2) as held:
        numbers = held.numbers
        assert len(set(numbers)) == 2
        assert all(number < first_of_kernel for number in numbers)
        monkeypatch.setattr(ports, "_candidates", lambda: list(numbers))
        assert [ports._held(number) for number in numbers] == [None, None]
    with Ports(2) as again:
        assert set(again.numbers) == set(numbers)


def test_a_port_with_a_listener_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port with another listener is skipped, and the next one is used."""
    with Ports(2) as found:
        taken, free = found.numbers
    with socket.create_server(("127.0.0.1", taken)):
        monkeypatch.setattr(ports, "_candidates", lambda: [taken, free])
        with Ports(1) as held:
            assert held.numbers == [free]
