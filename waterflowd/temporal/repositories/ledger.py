"""What the stream `repo/<name>` says: the state of a repository, which daemon leads it, and the runs that were decided for it.

Rules of this file:

- Pure. Every daemon folds the same facts to the same ledger.
- Decide first, then do under a fixed name: the id, number and trigger key of a run, and the facts that it follows from, are one
  fact. Only then is the run started, by the daemon that decided it, or by the leader if that daemon has ended.
- Only the leader of the newest term applies what changes. A former leader that is still alive is refused.
- Keys of webhooks, of `workflow_run` triggers and of clients are remembered for `KEYS_MS`, the newest `KEYS_MAX` of them.
  A push needs no memory, because its facts are recorded with its runs; a schedule needs its newest run.
- The facts of a repository are numbered from 1. Their `seq` follows the time, so that it can be compared between repositories.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from waterflow_agent.errors import Retryable
from waterflowd.engine import inputs
from waterflowd.engine.events import RunCompleted
from waterflowd.model.ids import RunId, StreamName, run_stream
from waterflowd.model.reasons import Reason
from waterflowd.model.records import Record, TriggerKind
from waterflowd.model.statuses import Conclusion
from waterflowd.reconcile import codes, events, state
from waterflowd.temporal import facts

KEYS_MS = 7 * 24 * 3_600_000
KEYS_MAX = 5_000
#: Ended runs that no `workflow_run` trigger has handled yet, as while a repository is suspended. The oldest ones start nothing.
ENDED_MAX = 5_000
#: Schedules whose newest run is known; a workflow file has at most a few.
SCHEDULES_MAX = 5_000
#: Changes that are recognized when it is not known whether they were recorded.
_CHANGES_KNOWN = 256
#: Records in memory after which they are replaced by the state.
_RECORDS_MAX = 2_000
#: Room for the facts of one millisecond in a `seq`.
_SEQ_BITS = 20


class StreamFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all facts of the stream. `at` is the clock of the daemon that has recorded it, in ms."""

    at: int


class DecidedRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that is started under this id, whatever happens. Part of a fact."""

    run: RunId
    path: str
    #: The input that starts it, and its deflated plan; gone once it has certainly been started.
    start: inputs.StartRun
    plan: bytes
    #: When it was prepared, in ms.
    at: int

    @property
    def compiled(self) -> bytes:
        """Its plan."""
        return zlib.decompress(self.plan)


class Changed(StreamFact, frozen=True, kw_only=True, tag="changed"):
    """Facts of the repository, and the runs that follow from them; either may be empty."""

    #: Chosen by the daemon that records it.
    id: str
    facts: tuple[events.Fact, ...] = ()
    runs: tuple[DecidedRun, ...] = ()


class LeaderChosen(StreamFact, frozen=True, kw_only=True, tag="leader-chosen"):
    """A new term begins."""

    id: str
    daemon: str


class ReconciliationRequested(StreamFact, frozen=True, kw_only=True, tag="reconciliation-requested"):
    """Another daemon has seen changes, or somebody has asked it to look for them."""

    daemon: str


class RunsStarted(StreamFact, frozen=True, kw_only=True, tag="runs-started"):
    """These decided runs exist."""

    runs: tuple[RunId, ...]


class RunEnded(StreamFact, frozen=True, kw_only=True, tag="run-ended"):
    """A run of the repository has completed; signalled by the run itself."""

    run: RunId
    conclusion: Conclusion
    reason: Reason


class EndedRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that has ended, at its place among the facts of the repository."""

    seq: int
    fact: RunEnded


class _Key(msgspec.Struct, frozen=True, array_like=True):
    run: RunId
    at: int


class Snapshot(StreamFact, frozen=True, kw_only=True, tag="snapshot"):
    """Stands for all facts before it."""

    count: int = 0
    seq: int = 0
    #: The state of the repository.
    was_empty: bool = False
    is_suspended: bool = False
    refs: dict[str, state.RefState] = {}
    patterns: tuple[str, ...] | None = None
    schedules: tuple[state.ScheduleState, ...] = ()
    handled_runs_seq: int = 0
    #: The rest of the ledger.
    term: int = 0
    leader: str = ""
    leader_id: str = ""
    requests: int = 0
    numbers: dict[str, int] = {}
    keys: dict[str, _Key] = {}
    forgotten: int = 0
    schedule_runs: dict[str, RunId] = {}
    unstarted: tuple[DecidedRun, ...] = ()
    ended: tuple[EndedRun, ...] = ()
    changes: tuple[str, ...] = ()


AnyFact = Changed | LeaderChosen | ReconciliationRequested | RunsStarted | RunEnded | Snapshot

#: How the facts of the stream are stored.
FACTS = facts.FactCodec("repository", AnyFact)


class PreparedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A checked start whose number is not decided yet. `run` is its id, if none of its keys has started a run."""

    decided: DecidedRun
    keys: tuple[str, ...]


class RepositoryLedger:
    """The fold of the stream of one repository."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.state = state.RepositoryState(name=self.name, refs={}, schedules={})
        #: How many facts of the repository there are, and the `seq` of the newest fact of the stream.
        self.count = self.seq = 0
        #: The newest term, its leader, and the id with which it was chosen.
        self.term, self.leader, self.leader_id = 0, "", ""
        #: How often a reconciliation was requested.
        self.requests = 0
        self.numbers: dict[str, int] = {}
        #: Decided runs that are perhaps not started yet.
        self.unstarted: dict[RunId, DecidedRun] = {}
        self.ended: list[EndedRun] = []
        #: Keys that were forgotten before their time, because there were too many.
        self.forgotten = 0
        self._keys: OrderedDict[str, _Key] = OrderedDict()
        #: The newest run of each schedule by its key, and that key by schedule.
        self._schedule_runs: OrderedDict[str, RunId] = OrderedDict()
        self._schedule_keys: dict[str, str] = {}
        self._changes: OrderedDict[str, None] = OrderedDict()
        #: Records after `_base` facts, which `_base_state` stands for.
        self._records: list[Record] = []
        self._base, self._base_state = 0, b""

    # The fold -----------------------------------------------------------------------------------------------------------

    def fold(self, fact: AnyFact) -> None:
        """Applies one fact of the stream."""
        if isinstance(fact, Snapshot):
            self._restore(fact)
            return
        self.seq = max(self.seq + 1, fact.at << _SEQ_BITS)
        match fact:
            case Changed():
                self._change(fact)
            case LeaderChosen():
                self.term += 1
                self.leader, self.leader_id = fact.daemon, fact.id
            case ReconciliationRequested():
                self.requests += 1
            case RunsStarted():
                for run in fact.runs:
                    self.unstarted.pop(run, None)
            case RunEnded():
                # It exists.
                self.unstarted.pop(fact.run, None)
                if self._has_run_triggers():
                    self.ended = [*self.ended[1 - ENDED_MAX :], EndedRun(seq=self.seq, fact=fact)]

    def _change(self, fact: Changed) -> None:
        self._changes[fact.id] = None
        if len(self._changes) > _CHANGES_KNOWN:
            self._changes.popitem(last=False)
        for item in fact.facts:
            self.count += 1
            self.seq += 1
            state.evolve(self.state, item, self.seq)
            stream = StreamName(f"repo/{self.name}")
            record = Record(seq=self.seq, stream=stream, position=self.count, at=item.at, event=item)
            self._records.append(record)
        for run in fact.runs:
            self.numbers[run.path] = max(run.start.number, self.numbers.get(run.path, 0))
            self.unstarted[run.run] = run
            key, kind = run.start.trigger.key, run.start.trigger.kind
            if key is None or kind is TriggerKind.PUSH:
                continue
            if kind is TriggerKind.SCHEDULE:
                self._remember_schedule(key, run.run)
            else:
                self._remember(key, run.run, fact.at)
        self.ended = [item for item in self.ended if item.seq > self.state.handled_runs_seq]
        if not self._has_run_triggers():
            self.ended = []
        if len(self._records) > _RECORDS_MAX:
            self._rebase()

    def _rebase(self) -> None:
        self._records, self._base = [], self.count
        self._base_state = msgspec.msgpack.encode(self.state)

    def _has_run_triggers(self) -> bool:
        return any(file.workflow_run for ref in self.state.refs.values() for file in ref.files.values())

    def _remember_schedule(self, key: str, run: RunId) -> None:
        schedule = _schedule_of(key)
        self._schedule_runs.pop(self._schedule_keys.get(schedule, ""), None)
        self._schedule_keys[schedule] = key
        self._schedule_runs[key] = run
        if len(self._schedule_runs) > SCHEDULES_MAX:
            oldest, _ = self._schedule_runs.popitem(last=False)
            del self._schedule_keys[_schedule_of(oldest)]

    def _remember(self, key: str, run: RunId, at: int) -> None:
        self._keys[key] = _Key(run, at)
        while self._keys and next(iter(self._keys.values())).at < at - KEYS_MS:
            self._keys.popitem(last=False)
        if len(self._keys) > KEYS_MAX:
            self._keys.popitem(last=False)
            self.forgotten += 1

    # What it says ---------------------------------------------------------------------------------------------------------

    def read(self, first: int) -> Iterator[Record]:
        """The records of the repository's facts from this one; begins with the state if they are not in memory."""
        if first <= self._base:
            snapshot = state.StateRecorded(at=0, state=self._base_state)
            stream = StreamName(f"repo/{self.name}")
            yield Record(seq=0, stream=stream, position=self._base, at=0, event=snapshot)
        yield from islice(self._records, max(0, first - 1 - self._base), None)

    def run_for_key(self, key: str) -> RunId | None:
        """The run that a trigger key has started."""
        found = self._keys.get(key)
        return found.run if found is not None else self._schedule_runs.get(key)

    def ended_after(self, seq: int, limit: int) -> list[Record]:
        """The runs that have ended after a `seq`, as records of their last events."""
        found = (item for item in self.ended if item.seq > seq)
        return [
            Record(
                seq=item.seq,
                stream=run_stream(item.fact.run),
                position=0,
                at=item.fact.at,
                event=RunCompleted(at=item.fact.at, conclusion=item.fact.conclusion, reason=item.fact.reason),
            )
            for item in islice(found, limit)
        ]

    def known_runs(self, prepared: Sequence[PreparedRun]) -> list[RunId]:
        """The runs of these starts, once they are decided."""
        return [self._known(item) or item.decided.run for item in prepared]

    def _known(self, prepared: PreparedRun) -> RunId | None:
        return next((run for key in prepared.keys if (run := self.run_for_key(key)) is not None), None)

    # Decisions ------------------------------------------------------------------------------------------------------------

    def decide(
        self,
        identifier: str,
        at: int,
        changes: Sequence[events.Fact],
        prepared: Sequence[PreparedRun],
        term: int | None,
    ) -> list[AnyFact]:
        """What to record for these facts and starts; nothing if it is recorded already.

        `term` is that of the leader who has decided them, or None for what every daemon may record. Raises `Retryable` WF532
        for a leader whose term has ended.
        """
        if identifier in self._changes:
            return []
        if term is not None and term != self.term:
            text = f'repository "{self.name}" is now led by daemon {self.leader}; it applies the changes'
            raise Retryable(codes.NOT_APPLIED_YET, text)
        runs: list[DecidedRun] = []
        numbers: dict[str, int] = {}
        for item in prepared:
            if self._known(item) is not None or item.decided.run in self.unstarted:
                continue
            path = item.decided.path
            number = numbers[path] = numbers.get(path, self.numbers.get(path, 0)) + 1
            start = msgspec.structs.replace(item.decided.start, number=number)
            runs.append(msgspec.structs.replace(item.decided, start=start))
        if not changes and not runs:
            return []
        return [Changed(at=at, id=identifier, facts=tuple(changes), runs=tuple(runs))]

    # Snapshots --------------------------------------------------------------------------------------------------------------

    def snapshot(self, at: int) -> Snapshot:
        """One fact that stands for all of them."""
        return Snapshot(
            at=at,
            count=self.count,
            seq=self.seq,
            was_empty=self.state.was_empty,
            is_suspended=self.state.is_suspended,
            refs=self.state.refs,
            patterns=self.state.patterns,
            schedules=tuple(self.state.schedules.values()),
            handled_runs_seq=self.state.handled_runs_seq,
            term=self.term,
            leader=self.leader,
            leader_id=self.leader_id,
            requests=self.requests,
            numbers=self.numbers,
            keys=dict(self._keys),
            forgotten=self.forgotten,
            schedule_runs=dict(self._schedule_runs),
            unstarted=tuple(self.unstarted.values()),
            ended=tuple(self.ended),
            changes=tuple(self._changes),
        )

    def _restore(self, fact: Snapshot) -> None:
        self.clear()
        self.state = state.RepositoryState(
            name=self.name,
            was_empty=fact.was_empty,
            is_suspended=fact.is_suspended,
            refs=fact.refs,
            patterns=fact.patterns,
            schedules={schedule.name: schedule for schedule in fact.schedules},
            handled_runs_seq=fact.handled_runs_seq,
        )
        self.count, self.seq = fact.count, fact.seq
        self.term, self.leader, self.leader_id = fact.term, fact.leader, fact.leader_id
        self.requests = fact.requests
        self.numbers = dict(fact.numbers)
        self._keys = OrderedDict(fact.keys)
        self.forgotten = fact.forgotten
        self._schedule_runs = OrderedDict(fact.schedule_runs)
        self._schedule_keys = {_schedule_of(key): key for key in self._schedule_runs}
        self.unstarted = {run.run: run for run in fact.unstarted}
        self.ended = list(fact.ended)
        self._changes = OrderedDict.fromkeys(fact.changes)
        self._rebase()


def _schedule_of(key: str) -> str:
    """What identifies a schedule in the keys of its due times; see `schedules.trigger_key`."""
    return key.split(":", 3)[-1]


def compact(stream: str, stored: Sequence[bytes], now: int) -> list[bytes]:
    """The snapshot that replaces these facts of a stream; see `append_turns.Compact`."""
    ledger = RepositoryLedger(stream.removeprefix("repo/"))
    for fact in stored:
        ledger.fold(FACTS.unpack(stream, fact).event)
    return [FACTS.pack(now, ledger.snapshot(now))]


def seed(name: str, records: Iterable[Record], numbers: Mapping[str, int], at: int) -> list[bytes]:
    """What the stream begins with: the repository's facts in the log of the daemon's former engine."""
    ledger = RepositoryLedger(name)
    for record in records:
        state.evolve(ledger.state, record.event, record.seq)
        ledger.count += 1
    # Positions of another log: no run of this engine has ended before.
    ledger.state.handled_runs_seq = 0
    ledger.numbers = dict(numbers)
    return [FACTS.pack(at, ledger.snapshot(at))] if ledger.count or ledger.numbers else []
