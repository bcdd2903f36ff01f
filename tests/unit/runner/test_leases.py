"""Leases of running steps: counted from the newest confirmation, whatever happens to the agent."""

from __future__ import annotations

from waterflow_agent.runner.leases import Leases


def leases(confirmed_at: int) -> Leases:
    held = Leases()
    held.confirm(confirmed_at, confirmed_at)
    return held


def test_a_lease_ends_after_its_length() -> None:
    """It is counted from the confirmation, and not from the start of the step."""
    held = leases(1_000)
    held.add("a", 500)

    assert held.ended(1_499) == []
    assert held.ended(1_500) == ["a"]


def test_a_confirmation_extends_every_lease() -> None:
    """The next end is that of the shortest one."""
    held = leases(1_000)
    held.add("a", 500)
    held.add("b", 300)
    assert held.next_end_at == 1_300

    held.confirm(2_000, 2_100)

    assert held.next_end_at == 2_300
    assert held.ended(2_299) == []


def test_an_earlier_confirmation_changes_nothing() -> None:
    """An agent that was restarted may repeat an old one."""
    held = leases(1_000)
    held.confirm(10, 2_000)

    assert not held.has_ended(500, 1_499)


def test_the_future_cannot_be_confirmed() -> None:
    """A wrong time extends a lease only to its length from now."""
    held = leases(1_000)
    held.confirm(10**12, 1_200)

    assert held.has_ended(500, 1_700)


def test_without_a_confirmation_nothing_may_start() -> None:
    """A runner that has never heard of a session starts no step with a lease."""
    assert Leases().has_ended(500, 10_000)


def test_a_step_that_has_ended_has_no_lease() -> None:
    """Nothing is left to watch."""
    held = leases(1_000)
    held.add("a", 500)

    held.drop("a")
    held.drop("a")

    assert held.next_end_at is None
    assert held.ended(10**9) == []
