"""The ledger with inputs in any order and restarts in between."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from waterflow_agent.attempts import Outcome
from waterflow_agent.state.ledger import (
    Ledger,
    ReleaseAttempt,
    ReportResult,
    RunnerView,
    StartAttempt,
    StopAttempt,
    records,
)
from waterflow_agent.testing import task_id
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId

KEYS = st.builds(
    task_id,
    st.just("run"),
    st.just("job"),
    st.sampled_from(["a", "b", "c"]),
    st.integers(1, 3),
    st.integers(1, 2),
)
SLOTS = 2


class Agents(RuleBasedStateMachine):
    """A sequence of agents with one journal, a runner that never forgets, and a daemon that sends anything."""

    def __init__(self) -> None:
        super().__init__()
        self.journal: list[records.LedgerRecord | records.ReleasedRecord] = []
        self.instance = 0
        self.ledger = self.new_ledger()
        #: How often the runner was asked to start each attempt, and which ones have ended.
        self.starts: Counter[TaskId] = Counter()
        self.running: set[TaskId] = set()
        self.ended: set[TaskId] = set()
        #: The first result that was written for each attempt.
        self.results: dict[TaskId, messages.Finished] = {}

    def new_ledger(self) -> Ledger:
        return Ledger(boot_id="boot", instance=str(self.instance), slots=SLOTS)

    def carry_out(self, move: object) -> None:
        if isinstance(move, StartAttempt):
            key = move.task.key
            self.journal.append(records.AcceptedRecord(key, "shell", "", 0))
            self.ledger.hand_over(key)
            self.starts[key] += 1
            self.running.add(key)
        elif isinstance(move, ReportResult):
            self.journal.append(move.record)
            result = move.record.result
            # A daemon that offers an attempt again after dropping it may be told that it was lost.
            first = self.results.setdefault(result.key, result)
            assert result == first or result.outcome is Outcome.LOST, "a result is final"
            if result.outcome is Outcome.REFUSED:
                assert self.starts[result.key] == 0, "refused says that nothing of it ran"
        elif isinstance(move, ReleaseAttempt):
            self.journal.append(records.ReleasedRecord(move.key))
        elif isinstance(move, StopAttempt):
            assert move.key in self.running | self.ended

    @rule(key=KEYS, instance=st.integers(0, 3))
    def offer(self, key: TaskId, instance: int) -> None:
        task = messages.Task(key, "shell", {}, {}, "", None, 1, "TERM", 1, 1, "boot", str(instance))
        self.carry_out(self.ledger.offer(task, 0))

    @rule(key=KEYS, force=st.booleans())
    def cancel(self, key: TaskId, force: bool) -> None:
        self.carry_out(self.ledger.cancel(messages.Cancel(key, force, ""), 0))

    @rule(keys=st.lists(KEYS, max_size=2))
    def forget(self, keys: list[TaskId]) -> None:
        for move in self.ledger.forget(keys):
            self.carry_out(move)

    @rule(key=KEYS)
    def process_is_heard_of(self, key: TaskId) -> None:
        if key in self.running and self.ledger.started(key, 1):
            self.journal.append(records.StartedRecord(key, 1))

    @rule(key=KEYS, size=st.integers(0, 1))
    def process_ends(self, key: TaskId, size: int) -> None:
        if key in self.running:
            self.running.discard(key)
            self.ended.add(key)
            self.carry_out(self.ledger.finish(_success(key, size)))

    @rule(key=KEYS)
    def result_is_taken(self, key: TaskId) -> None:
        self.carry_out(self.ledger.result_acknowledged(key))

    @rule(key=KEYS)
    def output_is_taken(self, key: TaskId) -> None:
        self.carry_out(self.ledger.output_acknowledged(key))

    @rule(is_lost=st.booleans())
    def agent_is_restarted(self, is_lost: bool) -> None:
        """Kills the agent and starts from the journal; the runner may have been killed too."""
        self.instance += 1
        self.ledger = self.new_ledger()
        for record in self.journal:
            self.ledger.replay(record)
        views = dict.fromkeys(self.running, RunnerView.ENDED if is_lost else RunnerView.RUNNING)
        for move in self.ledger.settle(views, 0):
            self.carry_out(move)
        if is_lost:
            for key in self.running:
                self.carry_out(self.ledger.finish(msgspec.structs.replace(_success(key, 0), outcome=Outcome.LOST)))
            self.running.clear()

    @invariant()
    def every_attempt_starts_at_most_once(self) -> None:
        assert all(count == 1 for count in self.starts.values())

    @invariant()
    def one_attempt_of_a_step_lives(self) -> None:
        live = [entry.key.attempt for entry in self.ledger if entry.is_live]
        steps = {(attempt.run, attempt.job, attempt.step) for attempt in live}
        assert len(steps) == len(live) <= SLOTS

    @invariant()
    def what_never_ran_is_no_success(self) -> None:
        for key, result in self.results.items():
            if result.outcome is Outcome.SUCCESS:
                assert key in self.ended
            if result.outcome is Outcome.REFUSED:
                assert self.starts[key] == 0

    @invariant()
    def the_journal_says_the_same(self) -> None:
        again = Ledger(boot_id="boot", instance="", slots=SLOTS)
        for record in self.journal:
            again.replay(record)
        assert {entry.key for entry in again} == {entry.key for entry in self.ledger}
        assert {entry.key: entry.result for entry in again} == {entry.key: entry.result for entry in self.ledger}


def _success(key: TaskId, size: int) -> messages.Finished:
    return messages.Finished(key, Outcome.SUCCESS, 0, "", "", {}, {}, 0, 0, size, 0)


Agents.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgents = Agents.TestCase


def test_records_survive_their_encoding() -> None:
    """Each kind of record survives encoding and decoding."""
    key = task_id("run", "job", "step", 1, 1)
    finished = records.FinishedRecord(_success(key, 3), [messages.OutputChunk(1, 2, b"\xff\x00x")], True)
    facts: list[records.LedgerRecord] = [
        records.AcceptedRecord(key, "shell", "name", 1),
        records.StartedRecord(key, 2),
        finished,
    ]
    for record in (*facts, records.ReleasedRecord(key), records.SnapshotRecord(1, "boot", facts)):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=records.Record) == record
