"""Concurrency groups against a model: never more holders than the limit, and the first in the queue gets the next slot."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from waterflowd.fleet.lock_table import LockTable, TableFact
from waterflowd.fleet.locks import Holder, LockAnswer, LockRequest, Locks
from waterflowd.model.codec import ValueCodec
from waterflowd.model.ids import JobId, RunId
from waterflowd.model.plan import Queue

LIMITS = {"one": 1, "two": 2}


class LocksMachine(RuleBasedStateMachine):
    """The model: who was granted a slot, and who waits, in the order of their requests."""

    def __init__(self) -> None:
        super().__init__()
        self.locks: Any = self.empty()
        self.asks: dict[Holder, LockRequest] = {}
        self.holding: dict[Holder, None] = {}
        self.waiting: dict[Holder, None] = {}
        self.count = 0
        self.is_settled = True

    def empty(self) -> Any:
        """What is tested: the locks of the log engine."""
        return Locks()

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
        """Restarts the daemon: what is recorded gives the same groups."""
        self.locks = self.recovered(draw)

    def recovered(self, draw: st.DataObject) -> Any:
        """Replays the log in any order."""
        again = Locks()
        for holder in draw.draw(st.permutations(sorted(self.holding))):
            again.hold(self.asks[holder])
        for holder in draw.draw(st.permutations(sorted(self.waiting))):
            again.wait(self.asks[holder])
        return again

    @invariant()
    def no_group_has_more_holders_than_places(self) -> None:
        for group, limit in LIMITS.items():
            found = self.locks.holders("", group)
            assert len(found) <= limit
            assert sorted(found) == sorted(one for one in self.holding if self.asks[one].group == group)


CODEC = ValueCodec("lock", TableFact)


class Tables:
    """The groups of the Temporal engine: one table each, of which only the facts are kept."""

    def __init__(self) -> None:
        self.tables = {group: LockTable() for group in LIMITS}
        self.facts: dict[str, list[bytes]] = {group: [] for group in LIMITS}
        self.group_of: dict[Holder, str] = {}

    def request(self, request: LockRequest) -> list[LockAnswer]:
        self.group_of[request.holder] = request.group
        return self.tables[request.group].request(request)

    def release(self, holder: Holder) -> None:
        self.tables[self.group_of[holder]].release(holder)

    def forget(self, run: RunId) -> None:
        for table in self.tables.values():
            table.end([run])

    def news(self) -> list[LockAnswer]:
        return [answer for table in self.tables.values() for answer in table.news()]

    def holders(self, repository: str, group: str) -> list[Holder]:
        return self.tables[group].holders

    def folded(self, *, is_snapshot: bool) -> Tables:
        """What the recorded facts say, or a snapshot of them."""
        again = Tables()
        again.group_of = self.group_of
        for group, table in self.tables.items():
            new: list[TableFact] = table.new_facts
            kept = [*self.facts[group], *map(CODEC.pack, new)]
            again.facts[group] = [CODEC.pack(table.snapshot())] if is_snapshot else kept
            again.tables[group] = LockTable(map(CODEC.unpack, again.facts[group]))
        return again


class TablesMachine(LocksMachine):
    """The same contract; besides, requests and releases may be repeated."""

    def empty(self) -> Tables:
        return Tables()

    def recovered(self, draw: st.DataObject) -> Tables:
        before: Tables = self.locks
        return before.folded(is_snapshot=draw.draw(st.booleans()))

    @precondition(lambda self: self.locks.group_of)
    @rule(draw=st.data())
    def repeat(self, draw: st.DataObject) -> None:
        """A request that is delivered once more, perhaps after its release, gives nobody a slot."""
        holder = draw.draw(st.sampled_from(sorted(self.locks.group_of, key=str)))
        is_known = holder in self.asks
        group = self.locks.group_of[holder]
        request = self.asks.get(holder) or LockRequest(holder, group, "", LIMITS[group], Queue.FIFO, 0)
        answers = self.locks.request(request)
        if not is_known:
            assert all(answer.is_refused for answer in answers)
            self.locks.release(holder)
            return
        self.received(answers)


TestLocks = LocksMachine.TestCase
TestLocks.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

TestTables = TablesMachine.TestCase
TestTables.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
