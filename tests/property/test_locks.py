"""Concurrency groups against a model: never more holders than the limit, and the first in the queue gets the next slot."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from waterflowd.fleet.locks import Holder, LockAnswer, LockRequest, Locks
from waterflowd.model.ids import JobId, RunId
from waterflowd.model.plan import Queue

LIMITS = {"one": 1, "two": 2}


class LocksMachine(RuleBasedStateMachine):
    """The model: who was granted a slot, and who waits, in the order of their requests."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = Locks()
        self.asks: dict[Holder, LockRequest] = {}
        self.holding: dict[Holder, None] = {}
        self.waiting: dict[Holder, None] = {}
        self.count = 0
        self.is_settled = True

    def received(self, answers: list[LockAnswer]) -> None:
        for answer in answers:
            holder = answer.holder
            assert holder in self.asks, "only requests are answered"
            if answer.is_granted:
                before = [one for one in self.waiting if self.asks[one].group == self.asks[holder].group]
                assert holder not in self.waiting or before[0] == holder, "the first who waits is the next"
                self.waiting.pop(holder, None)
                self.holding[holder] = None
            elif answer.is_refused:
                assert holder not in self.holding, "a granted lock is not taken away"
                self.removed(holder)
            elif holder not in self.holding:
                self.waiting.setdefault(holder)

    def removed(self, holder: Holder) -> None:
        self.asks.pop(holder, None)
        self.holding.pop(holder, None)
        self.waiting.pop(holder, None)

    @rule(
        group=st.sampled_from(sorted(LIMITS)),
        queue=st.sampled_from(list(Queue)),
        run=st.integers(0, 4),
        is_job=st.booleans(),
    )
    def ask(self, group: str, queue: Queue, run: int, is_job: bool) -> None:
        self.count += 1
        holder = Holder(RunId(f"run-{run}"), JobId(f"j{self.count}") if is_job else JobId(f"r{self.count}"))
        requested = self.asks[holder] = LockRequest(holder, group, "", LIMITS[group], queue, self.count)
        answers = self.locks.request(requested)
        self.received(answers)
        own = [answer for answer in answers if answer.holder == holder]
        assert len(own) == 1, "each request is answered once"
        assert not own[0].is_refused or queue is Queue.REJECT

    @precondition(lambda self: self.asks)
    @rule(draw=st.data())
    def ask_again(self, draw: st.DataObject) -> None:
        holder = draw.draw(st.sampled_from(sorted(self.asks)))
        self.received(self.locks.request(self.asks[holder]))

    @precondition(lambda self: self.asks)
    @rule(draw=st.data())
    def release(self, draw: st.DataObject) -> None:
        holder = draw.draw(st.sampled_from(sorted(self.asks)))
        self.locks.release(holder)
        self.removed(holder)
        self.is_settled = False

    @rule(run=st.integers(0, 4))
    def forget(self, run: int) -> None:
        name = RunId(f"run-{run}")
        self.locks.forget(name)
        for holder in [holder for holder in self.asks if holder.run == name]:
            self.removed(holder)
        self.is_settled = False

    @rule()
    def news(self) -> None:
        self.received(list(self.locks.news()))
        self.is_settled = True
        for group, limit in LIMITS.items():
            held = sum(self.asks[holder].group == group for holder in self.holding)
            waits = any(self.asks[holder].group == group for holder in self.waiting)
            assert not waits or held == limit, "no holder waits while a slot is free"
        assert not list(self.locks.news()), "each change is reported once"

    @rule(draw=st.data())
    def recover(self, draw: st.DataObject) -> None:
        """Restarts the daemon: replaying the log in any order gives the same groups."""
        again = Locks()
        for holder in draw.draw(st.permutations(sorted(self.holding))):
            again.hold(self.asks[holder])
        for holder in draw.draw(st.permutations(sorted(self.waiting))):
            again.wait(self.asks[holder])
        self.locks = again

    @invariant()
    def no_group_has_more_holders_than_places(self) -> None:
        for group, limit in LIMITS.items():
            found = self.locks.holders("", group)
            assert len(found) <= limit
            assert sorted(found) == sorted(one for one in self.holding if self.asks[one].group == group)


TestLocks = LocksMachine.TestCase
TestLocks.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
