"""The ports of tests: held against other tests and the kernel, and given back."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests import ports
from tests.ports import Ports


def test_ports_that_are_held_are_given_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to another test that has no other choice, nor by the kernel; closed they are free again."""
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with Ports(2) as held:
        numbers = held.numbers
        assert len(set(numbers)) == 2
        assert all(number < first_of_kernel for number in numbers)
        monkeypatch.setattr(ports, "_candidates", lambda: list(numbers))
        assert [ports._held(number) for number in numbers] == [None, None]
    with Ports(2) as again:
        assert set(again.numbers) == set(numbers)


def test_a_port_on_which_somebody_listens_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever it is: the next one is taken."""
    with Ports(2) as found:
        taken, free = found.numbers
    with socket.create_server(("127.0.0.1", taken)):
        monkeypatch.setattr(ports, "_candidates", lambda: [taken, free])
        with Ports(1) as held:
            assert held.numbers == [free]
