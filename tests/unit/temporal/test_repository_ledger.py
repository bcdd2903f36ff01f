"""What the stream of a repository says: runs are decided once, one daemon leads, and snapshots stand for everything before."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
import pytest

from waterflow_agent.errors import Retryable
from waterflowd.engine import inputs
from waterflowd.engine.events import RunCompleted
from waterflowd.model.ids import RunId, run_id
from waterflowd.model.plan import Triggers, WorkflowRunTrigger
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion
from waterflowd.reconcile import events, state
from waterflowd.temporal import orders
from waterflowd.temporal.repositories import ledger
from waterflowd.temporal.repositories.ledger import FACTS, DecidedRun, PreparedRun, RepositoryLedger
from waterflowd.temporal.repositories.repository_turns import RepositoryTurns
from waterflowd.temporal.shared_streams.append_turns import REQUESTS, AppendRequest
from waterflowd.temporal.workflow import messages

NOW = 1_700_000_000_000
DAY_MS = 24 * 3_600_000


def prepared(
    number: int, key: str | None = None, kind: TriggerKind = TriggerKind.WEBHOOK, path: str = "deploy.yml"
) -> PreparedRun:
    """A start whose id ends in `number`."""
    start = inputs.StartRun(
        plan_hash="hash",
        number=0,
        trigger=Trigger(kind=kind, by="ada", key=key),
        repository="ops",
        revision="c" * 40,
        inputs={},
        vars={},
    )
    run = DecidedRun(run=run_id(NOW, number), path=path, start=start, plan=zlib.compress(b"plan"), at=NOW)
    return PreparedRun(decided=run, keys=() if key is None else (key,))


def applied(version: int, *, is_triggered: bool = False) -> events.RevisionApplied:
    """An update of the default ref, to a workflow that follows others or not."""
    trigger = WorkflowRunTrigger(workflows=("build",)) if is_triggered else None
    file = events.FileApplied(
        path="deploy.yml", blob=str(version), plan_hash="hash", triggers=Triggers(workflow_run=trigger)
    )
    return events.RevisionApplied(
        at=NOW, ref="refs/heads/main", update_number=version, commit=f"{version}" * 40, tree="t", files=(file,)
    )


class Daemon:
    """A daemon that records what it decides, and folds it."""

    def __init__(self) -> None:
        self.ledger = RepositoryLedger("ops")
        self.stored: list[bytes] = []
        self.now = NOW

    def record(
        self,
        facts: Sequence[events.Fact] = (),
        starts: Sequence[PreparedRun] = (),
        *,
        term: int | None = None,
        identifier: str = "",
    ) -> list[RunId]:
        for fact in self.ledger.decide(identifier or str(len(self.stored)), self.now, facts, starts, term):
            self.fold(fact)
        return self.ledger.known_runs(starts)

    def fold(self, fact: ledger.AnyFact) -> None:
        self.stored.append(FACTS.pack(fact.at, fact))
        self.ledger.fold(FACTS.unpack("repo/ops", self.stored[-1]).event)

    def ended(self, run: RunId) -> None:
        self.fold(
            ledger.RunEnded(
                at=self.now, run=run, conclusion=Conclusion.SUCCESS, reason=reason(ReasonCode.SUCCEEDED, "")
            )
        )


def test_runs_get_numbers_by_workflow() -> None:
    """Each workflow counts by itself; runs of one change get different numbers."""
    daemon = Daemon()
    daemon.record(starts=[prepared(1), prepared(2), prepared(3, path="test.yml")])
    daemon.record(starts=[prepared(4)])
    numbers = {run.run: run.start.number for run in daemon.ledger.unstarted.values()}
    assert [numbers[run_id(NOW, number)] for number in (1, 2, 3, 4)] == [1, 2, 1, 3]
    assert daemon.ledger.unstarted[run_id(NOW, 1)].compiled == b"plan"


def test_a_key_starts_one_run() -> None:
    """A repeat gets the first run's id, also under an earlier key of the request, and takes no number."""
    daemon = Daemon()
    [first] = daemon.record(starts=[prepared(1, "hook:ops:a")])
    assert daemon.record(starts=[prepared(2, "hook:ops:a")]) == [first]
    repeated = msgspec.structs.replace(prepared(3, "hook:ops:b"), keys=("hook:ops:b", "hook:ops:a"))
    assert daemon.record(starts=[repeated]) == [first]
    assert (daemon.ledger.numbers, len(daemon.stored)) == ({"deploy.yml": 1}, 1)


def test_keys_are_remembered_for_a_week() -> None:
    """Afterwards the same key starts another run."""
    daemon = Daemon()
    [first] = daemon.record(starts=[prepared(1, "hook:ops:a")])
    daemon.now += 7 * DAY_MS
    daemon.record(starts=[prepared(2, "hook:ops:b")])
    assert daemon.ledger.run_for_key("hook:ops:a") == first
    daemon.now += 1
    daemon.record(starts=[prepared(3, "hook:ops:c")])
    assert daemon.ledger.run_for_key("hook:ops:a") is None
    assert daemon.ledger.forgotten == 0


def test_the_oldest_keys_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is known that it has happened."""
    monkeypatch.setattr(ledger, "KEYS_MAX", 2)
    daemon = Daemon()
    for number, key in enumerate("abc"):
        daemon.record(starts=[prepared(number, key)])
    assert [daemon.ledger.run_for_key(key) is not None for key in "abc"] == [False, True, True]
    assert daemon.ledger.forgotten == 1


def test_schedules_know_their_newest_run_and_pushes_need_no_memory() -> None:
    """However long it is ago, and whatever else is remembered."""
    daemon = Daemon()
    keys = [f"schedule:ops:{due}:UTC:0 0 1 * *:deploy.yml" for due in (1, 2)]
    for number, key in enumerate(keys):
        daemon.record(starts=[prepared(number, key, TriggerKind.SCHEDULE)])
    daemon.record(starts=[prepared(7, "schedule:ops:1:UTC:* * * * *:deploy.yml", TriggerKind.SCHEDULE)])
    daemon.record(starts=[prepared(8, "push:ops:main:1:deploy.yml", TriggerKind.PUSH)])
    daemon.now += 400 * DAY_MS
    daemon.record(starts=[prepared(9, "hook:ops:a")])
    assert [daemon.ledger.run_for_key(key) for key in keys] == [None, run_id(NOW, 1)]
    assert daemon.ledger.run_for_key("push:ops:main:1:deploy.yml") is None


def test_a_change_is_recorded_once() -> None:
    """Also when the daemon does not know whether it was, and decides it again."""
    daemon = Daemon()
    for _ in range(2):
        daemon.record([applied(1)], [prepared(1)], identifier="one")
    assert (daemon.ledger.count, daemon.ledger.numbers) == (1, {"deploy.yml": 1})


def test_a_former_leader_changes_nothing() -> None:
    """It has decided by a state that the new leader has changed. What every daemon may record needs no term."""
    daemon = Daemon()
    daemon.fold(ledger.LeaderChosen(at=NOW, id="x", daemon="d1"))
    daemon.record([applied(1)], [prepared(1)], term=1)
    daemon.fold(ledger.LeaderChosen(at=NOW, id="y", daemon="d2"))
    with pytest.raises(Retryable, match='repository "ops" is now led by daemon d2') as refused:
        daemon.record([applied(2)], [prepared(2)], term=1)
    assert refused.value.code == "WF532"
    daemon.record([events.RepositorySuspended(at=NOW, by="ada")])
    assert (daemon.ledger.count, daemon.ledger.state.is_suspended) == (2, True)


def test_ended_runs_are_for_workflow_run_triggers() -> None:
    """In the order of the stream, from the fact that added such a trigger, until they were handled."""
    daemon = Daemon()
    daemon.record([applied(1)])
    daemon.ended(RunId("early"))
    assert daemon.ledger.ended_after(0, 10) == []
    daemon.record([applied(2, is_triggered=True)])
    since = daemon.ledger.state.refs["refs/heads/main"].files["deploy.yml"].workflow_run_since
    daemon.ended(RunId("one"))
    daemon.ended(RunId("two"))
    records = daemon.ledger.ended_after(since, 10)
    assert [record.stream for record in records] == ["run/one", "run/two"]
    assert isinstance(records[0].event, RunCompleted)
    assert since < records[0].seq < records[1].seq
    daemon.record([events.CompletedRunsHandled(at=NOW, seq=records[0].seq)])
    assert daemon.ledger.ended_after(0, 10) == records[1:]
    daemon.record([applied(3)])
    assert daemon.ledger.ended_after(0, 10) == []


def test_a_started_run_is_no_longer_outstanding() -> None:
    """The leader says so, or the run itself by its end."""
    daemon = Daemon()
    daemon.record(starts=[prepared(number) for number in range(3)])
    daemon.fold(ledger.RunsStarted(at=NOW, runs=(run_id(NOW, 0),)))
    daemon.ended(run_id(NOW, 1))
    assert list(daemon.ledger.unstarted) == [run_id(NOW, 2)]


def test_a_snapshot_stands_for_all_facts_before() -> None:
    """A daemon that reads it knows the same, and decides the same afterwards."""
    daemon = Daemon()
    daemon.fold(ledger.LeaderChosen(at=NOW, id="x", daemon="d1"))
    daemon.record([applied(1, is_triggered=True)], [prepared(1, "hook:ops:a")], term=1)
    daemon.record(starts=[prepared(2, "schedule:ops:1:UTC:* * * * *:x", TriggerKind.SCHEDULE)])
    daemon.ended(run_id(NOW, 1))
    compacted = ledger.compact("repo/ops", daemon.stored, NOW)
    assert len(compacted) == 1
    other = RepositoryLedger("ops")
    other.fold(FACTS.unpack("repo/ops", compacted[0]).event)
    assert other.snapshot(NOW) == daemon.ledger.snapshot(NOW)
    assert other.decide("new", NOW, [applied(2)], [prepared(5, "hook:ops:a"), prepared(6)], 1) == daemon.ledger.decide(
        "new", NOW, [applied(2)], [prepared(5, "hook:ops:a"), prepared(6)], 1
    )


def test_a_reader_gets_the_state_and_what_follows() -> None:
    """Whether it begins or has missed a snapshot; a reader that has missed nothing gets the facts."""
    daemon = Daemon()
    daemon.record([applied(1)])
    daemon.record([applied(2)])
    assert [record.position for record in daemon.ledger.read(2)] == [2]
    other = RepositoryLedger("ops")
    other.fold(daemon.ledger.snapshot(NOW))
    other.fold(ledger.Changed(at=NOW, id="z", facts=(applied(3),)))
    first, second = other.read(1)
    assert isinstance(first.event, state.StateRecorded)
    assert (first.position, second.position) == (2, 3)
    assert [record.position for record in other.read(3)] == [3]
    folded = state.fold("ops", [first.event, second.event])
    assert folded.refs["refs/heads/main"].update_number == 3


def test_the_place_of_a_fact_can_be_compared_between_repositories() -> None:
    """By time: a webhook's name belongs to the file that has had it longest, in whichever repository."""
    first, second = Daemon(), Daemon()
    for _ in range(5):
        first.record([events.RepositorySuspended(at=NOW, by="ada")])
    second.now += 1
    second.record([events.RepositorySuspended(at=NOW, by="ada")])
    assert first.ledger.seq < second.ledger.seq
    second.now -= 1_000
    second.record([events.RepositorySuspended(at=NOW, by="ada")])
    assert [record.seq for record in second.ledger.read(1)] == sorted(record.seq for record in second.ledger.read(1))


async def test_the_stream_always_has_an_activity_for_its_leader() -> None:
    """In each execution, and again should it ever end; what a run signals is recorded."""
    signal = FACTS.pack(
        NOW,
        ledger.RunEnded(at=NOW, run=RunId("r"), conclusion=Conclusion.SUCCESS, reason=reason(ReasonCode.SUCCEEDED, "")),
    )
    begun = messages.TurnRequest(
        stream="repo/ops",
        seq=0,
        now=NOW,
        inputs=[messages.SignalReceived(number=1, content=signal)],
        begins=True,
        past=messages.Past(subject=b"", facts=[]),
    )
    result = await RepositoryTurns()(begun)
    assert result.facts == [signal]
    [keep] = result.commands
    assert isinstance(keep, messages.ScheduleActivity)
    assert (keep.id, keep.queue, keep.heartbeat_ms) == ("keep", "repositories", 15_000)
    append = REQUESTS.pack(AppendRequest(expected=1, facts=(signal,)))
    item = messages.UpdateReceived(number=2, id="u", content=append)
    later = msgspec.structs.replace(begun, seq=1, inputs=[item], begins=False, past=None, state=result.state)
    assert [type(command) for command in (await RepositoryTurns()(later)).commands] == [messages.AnswerUpdate]
    failed = messages.ActivityFailed(number=3, id=orders.KEEP, code="x", text="")
    ended = msgspec.structs.replace(later, inputs=[failed])
    assert [type(command) for command in (await RepositoryTurns()(ended)).commands] == [messages.ScheduleActivity]
