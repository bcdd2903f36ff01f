"""The addresses of the server: agents spread over them, keep what works, and try each one after a failure."""

from __future__ import annotations

import random

from waterflow_agent import addresses
from waterflow_agent.addresses import Addresses

THREE = "tcp://a:1,tcp://b:1,tcp://c:1"


def test_each_agent_begins_at_a_random_address() -> None:
    """So that a thousand agents do not all connect to the first one."""
    firsts = {Addresses(THREE, random.Random(seed)).current for seed in range(50)}
    assert firsts == set(addresses.split(THREE))


def test_after_a_failure_every_address_has_its_turn() -> None:
    """In order, and again from the beginning."""
    chosen = Addresses(THREE, random.Random(1))
    turns = []
    for _ in range(6):
        turns.append(chosen.current)
        chosen.take_next()
    assert sorted(turns[:3]) == addresses.split(THREE)
    assert turns[3:] == turns[:3]


def test_the_current_address_stays_until_it_fails() -> None:
    """Looking at it changes nothing."""
    chosen = Addresses(THREE, random.Random(2))
    assert len({chosen.current for _ in range(10)}) == 1


def test_a_single_address_is_used_again_and_costs_no_randomness() -> None:
    """As before there were several."""
    dice = random.Random(3)
    before = dice.getstate()
    chosen = Addresses("tcp://a:1", dice)
    chosen.take_next()
    assert chosen.current == "tcp://a:1"
    assert dice.getstate() == before


def test_a_text_of_addresses_has_each_of_them_once() -> None:
    """Spaces and empty parts are ignored."""
    assert addresses.split(" tcp://a:1, tcp://b:1,,tcp://a:1 ") == ["tcp://a:1", "tcp://b:1"]
    assert addresses.split("") == []
    assert addresses.join(["tcp://a:1", "tcp://b:1", "tcp://a:1"]) == "tcp://a:1,tcp://b:1"
    assert addresses.host_of("tcp://[::1]:7233") == "[::1]"
