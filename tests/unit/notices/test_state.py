"""What is pending, and which problems are open, by the recorded facts."""

from __future__ import annotations

from waterflowd.notices import events, state
from waterflowd.notices.events import Notice


def notice(number: int, key: str = "run/ops/a.yml/main", *, is_resolved: bool = False) -> Notice:
    return Notice(id=number, kind="failure", key=key, at=number, title=f"t{number}", text="", is_resolved=is_resolved)


def queued(number: int, *channels: str, key: str = "p", is_resolved: bool = False) -> events.NoticeQueued:
    return events.NoticeQueued(
        at=number, notice=notice(number, key, is_resolved=is_resolved), channels=channels or ("ops",)
    )


def ended(number: int, outcome: str, *ids: int, is_uncertain: bool = False) -> events.DeliveryEnded:
    return events.DeliveryEnded(
        at=number,
        channel="ops",
        notices=ids,
        outcome=outcome,
        text="" if outcome == "sent" else "why",
        is_uncertain=is_uncertain,
    )


def begun(*ids: int) -> events.DeliveryBegun:
    return events.DeliveryBegun(at=5, channel="ops", notices=ids)


def test_a_delivery_that_was_interrupted_may_have_been_made() -> None:
    """After a crash it is sent again, and says so; what was queued meanwhile is new."""
    found = state.fold([queued(1), begun(1), queued(2)])
    assert found.channels["ops"].notices == {1: True, 2: False}
    again = state.fold([queued(1), begun(1), ended(6, "sent", 1), queued(2)])
    assert again.channels["ops"].notices == {2: False}
    assert set(again.notices) == {2}


def test_a_failed_delivery_is_pending_and_uncertain_only_if_the_answer_was_lost() -> None:
    """A refused connection has certainly delivered nothing."""
    found = state.fold([queued(1), begun(1), ended(6, "failed", 1)])
    assert (found.channels["ops"].notices, found.channels["ops"].failures) == ({1: False}, 1)
    assert found.channels["ops"].problem == "why"
    lost = state.fold([queued(1), begun(1), ended(6, "failed", 1, is_uncertain=True), begun(1), ended(7, "failed", 1)])
    assert lost.channels["ops"].notices == {1: True}
    given_up = state.fold([queued(1), begun(1), ended(6, "given-up", 1)])
    assert (given_up.channels["ops"].notices, given_up.notices, given_up.channels["ops"].problem) == ({}, {}, "why")


def test_a_channel_keeps_failing_after_three_tries_or_a_message_that_was_given_up() -> None:
    """Until a message or a test was sent."""
    facts: list[events.Fact] = [queued(1), begun(1), ended(6, "failed", 1), ended(7, "failed", 1)]
    assert not state.fold(facts).channels["ops"].keeps_failing
    facts.append(ended(8, "failed", 1))
    assert state.fold(facts).channels["ops"].keeps_failing
    assert not state.fold([*facts, ended(9, "sent", 1)]).channels["ops"].keeps_failing
    facts.append(ended(9, "given-up", 1))
    assert state.fold(facts).channels["ops"].keeps_failing
    tested = events.TestSent(at=10, channel="ops")
    assert not state.fold([*facts, tested]).channels["ops"].keeps_failing
    assert not state.fold([tested]).channels


def test_a_notice_stays_until_every_channel_has_it() -> None:
    """One channel that fails does not keep the other's."""
    found = state.fold([queued(1, "ops", "mail"), begun(1), ended(6, "sent", 1)])
    assert set(found.notices) == {1}
    assert found.channels["mail"].notices == {1: False}


def test_problems_are_open_until_they_are_resolved() -> None:
    """A reminder moves the time at which it was last told."""
    found = state.fold(
        [queued(1, key="a"), queued(2, key="b"), queued(3, key="a"), queued(4, key="b", is_resolved=True)]
    )
    assert found.problems == {"a": 3}
    state.evolve(found, events.ProblemEnded(at=5, key="a"))
    assert found.problems == {}


def test_a_channel_that_takes_nothing_loses_its_oldest_notices() -> None:
    """Memory and log stay bounded, and the next message says how many are missing."""
    found = state.fold([queued(number) for number in range(1, state.PENDING_MAX + 4)])
    pending = found.channels["ops"]
    assert (len(pending.notices), pending.dropped, len(found.notices)) == (state.PENDING_MAX, 3, state.PENDING_MAX)
    assert next(iter(pending.notices)) == 4


def test_a_recorded_state_stands_for_everything_before_it() -> None:
    """A start reads little; what was being sent is uncertain."""
    facts: list[events.Fact] = [events.EventsRead(at=1, seq=7), queued(1), begun(1), queued(2, key="q")]
    whole = state.NoticeState()
    for fact in facts:
        state.evolve(whole, fact)
    assert state.fold([state.recorded(whole, 9)]) == state.fold(facts)
    assert state.fold([queued(8), state.recorded(whole, 9), events.ProblemEnded(at=9, key="q")]).problems == {"p": 1}
