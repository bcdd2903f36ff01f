"""Who may connect to a port, and the records of its process. Pure."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import RemoteProtocolError
from waterflowd.dispatch.port import records
from waterflowd.dispatch.port.limits import Census, PortLimits, network_of
from waterflowd.dispatch.port.records import Kind, RecordReader

LIMITS = PortLimits(
    waiting_max=6,
    waiting_per_address_max=4,
    active_max=3,
    active_per_address_max=2,
    per_key_max=2,
    arrivals_burst=100,
    arrivals_per_s=1.0,
)


def test_silent_connections_of_an_address_displace_each_other_only() -> None:
    """The oldest one goes; the connection of another address stays."""
    census = Census(LIMITS)
    census.arrive(0, "10.0.0.9", 0)
    victims = [census.arrive(number, "10.0.0.1", 0)[1] for number in range(1, 6)]

    assert victims == [None, None, None, None, 1]


def test_at_the_limit_in_total_the_address_with_the_most_loses_one() -> None:
    """A newcomer of an address with few connections always gets in."""
    census = Census(LIMITS)
    for number in range(4):
        census.arrive(number, "10.0.0.1", 0)
    census.arrive(4, "10.0.0.2", 0)
    census.arrive(5, "10.0.0.3", 0)

    assert census.arrive(6, "10.0.0.4", 0) == (True, 0)


def test_an_active_connection_is_not_displaced() -> None:
    """It has said what it wants."""
    census = Census(LIMITS)
    census.arrive(0, "10.0.0.1", 0)
    assert census.activate(0) == ""
    victims = []
    for number in range(1, 8):
        _, victim = census.arrive(number, "10.0.0.1", 0)
        if victim is not None:
            victims.append(victim)
            census.leave(victim)

    assert victims == [1, 2, 3]


def test_new_connections_of_an_address_have_a_rate() -> None:
    """A burst, then one a second; another address is not affected."""
    census = Census(LIMITS)
    admitted = 0
    for number in range(200):
        may_stay, victim = census.arrive(number, "10.0.0.1", 0)
        admitted += may_stay
        if victim is not None:
            census.leave(victim)

    assert admitted == LIMITS.arrivals_burst
    assert census.arrive(1_000, "10.0.0.2", 0)[0]
    assert census.arrive(1_001, "10.0.0.1", 1_000)[0]


def test_connections_of_a_key_are_limited_and_the_newcomer_is_refused() -> None:
    """A copied key cannot displace the agent that uses it."""
    census = Census(LIMITS)
    for number in range(3):
        census.arrive(number, f"10.0.0.{number}", 0)
    assert [census.prove(number, b"key") for number in range(2)] == ["", ""]
    assert census.prove(2, b"key") == "more than 2 connections with one key"
    census.leave(0)

    assert census.prove(2, b"key") == ""


def test_active_connections_are_limited_by_address_and_in_total() -> None:
    """The reason names the limit."""
    census = Census(LIMITS)
    for number, address in enumerate(["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]):
        census.arrive(number, address, 0)

    assert [census.activate(number) for number in range(5)] == [
        "",
        "",
        "more than 2 active connections of one address",
        "",
        "more than 3 active connections",
    ]


def test_nothing_is_left_of_connections_that_are_gone() -> None:
    """Whatever state they were in."""
    census = Census(LIMITS)
    for number in range(3):
        census.arrive(number, f"10.0.0.{number}", 0)
        census.prove(number, b"key") if number < 2 else None
    census.activate(0)
    for number in range(3):
        census.leave(number)

    assert len(census) == 0
    for number in range(3, 9):
        assert census.arrive(number, f"10.0.0.{number}", 0) == (True, None)


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    """A host there has 2^64 addresses."""
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1:2:3") != network_of("2001:db8:0:1::1")
    assert network_of("fe80::1%eth0") == "fe80::"
    assert network_of("10.0.0.1") == "10.0.0.1"


def test_limits_fit_the_descriptors_of_the_process() -> None:
    """With few descriptors the port takes fewer connections instead of failing to accept."""
    assert LIMITS.within(1_000) == LIMITS
    assert LIMITS.within(8).total == 8


@pytest.mark.parametrize("size", [1, 2, 5, 13, 14, 1_000])
def test_records_may_be_cut_anywhere(size: int) -> None:
    """Every cut gives the same records."""
    content = b"".join(
        [
            records.record(Kind.MESSAGE, 7, b"x" * 100),
            records.record(Kind.CLOSED, 1 << 45, b"why"),
            records.credit(9, 5),
            records.record(Kind.PING),
        ]
    )
    reader = RecordReader()
    found = [
        (kind, connection, bytes(payload))
        for at in range(0, len(content), size)
        for kind, connection, payload in reader.feed(content[at : at + size])
    ]

    assert [(kind, connection) for kind, connection, _ in found] == [(3, 7), (8, 1 << 45), (4, 9), (6, 0)]
    assert found[0][2] == b"x" * 100
    assert records.credit_of(found[2][2]) == 5


def test_a_record_of_an_impossible_size_is_an_error() -> None:
    """The process of a port must not make the daemon keep gigabytes."""
    with pytest.raises(RemoteProtocolError):
        RecordReader().feed(records.HEAD.pack(1 << 31, Kind.MESSAGE, 1))
