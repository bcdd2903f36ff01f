"""The attempts of one agent, and what each input means for them.

    offer ──▶ ACCEPTED ──▶ STARTED ──▶ FINISHED ──result and output taken──▶ gone
                  └─────────────────────▲

Rules of this file:

- Methods change the ledger and answer with a move, or None for "nothing to do" (a duplicate, a stale message).
- The shell writes the record of a move to the journal before it carries the move out.
- `_seen` remembers, for each step, the newest attempt that was ever taken, also after it is gone. Offers are bound to this
  start of the agent, so it need not outlive it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum

import msgspec

from waterflow_agent.state.ledger import records
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, Outcome, TaskKey

#: Results that wait for the daemon, beyond which no new work is taken: a daemon that takes no results offers no work either.
HELD_MAX = 10_000
#: Steps whose newest attempt is remembered after it is gone.
SEEN_MAX = 50_000

#: What may follow what; an attempt that ends before its start was heard of goes straight to FINISHED.
TRANSITIONS: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.ACCEPTED: frozenset({AttemptState.STARTED, AttemptState.FINISHED}),
    AttemptState.STARTED: frozenset({AttemptState.FINISHED}),
    AttemptState.FINISHED: frozenset(),
}

_StepKey = tuple[str, str, str]


class StartAttempt(msgspec.Struct, frozen=True):
    """Write `Accepted`, then start the task."""

    task: messages.Task


class StopAttempt(msgspec.Struct, frozen=True):
    """End the process of this attempt; its end comes back as usual."""

    key: TaskKey
    is_forced: bool
    reason: str


class ReportResult(msgspec.Struct, frozen=True):
    """Write the record, then send its result."""

    record: records.FinishedRecord


class ReleaseAttempt(msgspec.Struct, frozen=True):
    """Write `Released`; then the attempt's files may go."""

    key: TaskKey


LedgerAction = StartAttempt | StopAttempt | ReportResult | ReleaseAttempt


class RunnerView(Enum):
    """What the runner says of an attempt after the agent has come back."""

    UNKNOWN = "unknown"
    #: This process has asked for its start, or is about to; the answer is still to come.
    PENDING = "pending"
    RUNNING = "running"
    #: Its end is known: the shell reports it as if it had just happened.
    ENDED = "ended"


class LedgerEntry:
    """One attempt that the agent holds. Only the ledger writes it."""

    __slots__ = (
        "cancel",
        "has_secrets",
        "has_spool",
        "is_given",
        "is_output_taken",
        "is_result_taken",
        "is_unwanted",
        "key",
        "node",
        "place",
        "printed",
        "result",
        "started_at",
        "state",
        "step_name",
    )

    def __init__(self, key: TaskKey, node: str, step_name: str) -> None:
        self.key = key
        self.node = node
        self.step_name = step_name
        self.state = AttemptState.ACCEPTED
        self.started_at: int | None = None
        self.result: messages.Finished | None = None
        self.printed: list[messages.OutputChunk] = []
        self.has_spool = False
        self.has_secrets = False
        #: Number of the directory with its files; 0 for none.
        self.place = 0
        #: The runner may have heard of it.
        self.is_given = False
        self.is_result_taken = False
        self.is_output_taken = False
        #: The daemon is done with it: no report when it ends.
        self.is_unwanted = False
        self.cancel: StopAttempt | None = None

    @property
    def is_live(self) -> bool:
        """Whether it holds a slot."""
        return self.state is not AttemptState.FINISHED


class Ledger:
    """All attempts of one agent on one boot. `slots` bounds the live ones."""

    def __init__(self, *, boot_id: str, instance: str, slots: int) -> None:
        self.boot_id = boot_id
        self.instance = instance
        self.slots = slots
        self._entries: dict[TaskKey, LedgerEntry] = {}
        self._live: dict[_StepKey, TaskKey] = {}
        self._seen: OrderedDict[_StepKey, tuple[int, int]] = OrderedDict()

    # What is held.

    def __contains__(self, key: TaskKey) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: TaskKey) -> LedgerEntry | None:
        """The entry of an attempt that is held."""
        return self._entries.get(key)

    @property
    def live_count(self) -> int:
        """How many slots are taken."""
        return len(self._live)

    def held(self) -> list[messages.HeldAttempt]:
        """What `Hello` tells: every attempt of which the daemon does not have the result."""
        return [
            messages.HeldAttempt(entry.key, entry.state)
            for entry in self._entries.values()
            if not entry.is_result_taken and not entry.is_unwanted
        ]

    def owed(self) -> list[messages.Started | messages.Finished]:
        """What a new session has to tell again, oldest first."""
        owed: list[messages.Started | messages.Finished] = []
        for entry in self._entries.values():
            if entry.is_unwanted or entry.is_result_taken:
                continue
            if entry.result is not None:
                owed.append(entry.result)
            elif entry.state is AttemptState.STARTED and entry.started_at is not None:
                owed.append(messages.Started(entry.key, entry.started_at))
        return owed

    def facts(self) -> list[records.LedgerRecord]:
        """What a snapshot of the journal holds."""
        facts: list[records.LedgerRecord] = []
        for entry in self._entries.values():
            if entry.result is not None:
                facts.append(records.FinishedRecord(entry.result, entry.printed, entry.has_spool, entry.has_secrets))
                continue
            facts.append(
                records.AcceptedRecord(entry.key, entry.node, entry.step_name, 0, entry.place, entry.has_secrets)
            )
            if entry.started_at is not None:
                facts.append(records.StartedRecord(entry.key, entry.started_at))
        return facts

    # What the daemon says.

    def offer(self, task: messages.Task, now: int) -> StartAttempt | ReportResult | None:
        """Takes or refuses an offer; None for a key that was seen before, which is acknowledged and nothing else."""
        key = task.key
        if key in self._entries:
            return None
        step = (key.run, key.job, key.step)
        newest = self._seen.get(step)
        if newest == (key.epoch, key.attempt):
            return None
        if newest is not None and (key.epoch, key.attempt) < newest:
            return self._stale(task, newest, now)
        refusal = self._refusal(task, step)
        entry = self._entries[key] = LedgerEntry(key, task.node, task.step_name)
        entry.has_secrets = bool(task.secrets)
        # A refused one as well: its result is final, so it is not started by a better offer either.
        self._remember(step, (key.epoch, key.attempt))
        if refusal is not None:
            return self._report(entry, ended(key, Outcome.REFUSED, now, reason_code="refused", reason_text=refusal))
        self._live[step] = key
        return StartAttempt(task)

    def cancel(self, cancel: messages.Cancel, now: int) -> StopAttempt | ReportResult | None:
        """Ends an attempt. None when it is unknown or over: the daemon learns that from the settlement or the result."""
        entry = self._entries.get(cancel.key)
        if entry is None or not entry.is_live:
            return None
        stop = StopAttempt(cancel.key, cancel.force, cancel.reason)
        if not entry.is_given:
            result = ended(
                cancel.key,
                Outcome.CANCELLED,
                now,
                reason_code="cancel-requested",
                reason_text="cancelled before it began",
            )
            return self._report(entry, result)
        if entry.cancel is not None and (entry.cancel.is_forced or not cancel.force):
            return None
        entry.cancel = stop
        return stop

    def forget(self, keys: Iterable[TaskKey]) -> list[StopAttempt | ReleaseAttempt]:
        """Drops what is over for the daemon. What still runs is killed, and goes when it has ended."""
        moves: list[StopAttempt | ReleaseAttempt] = []
        for key in keys:
            entry = self._entries.get(key)
            if entry is None:
                continue
            entry.is_unwanted = True
            if not entry.is_live or not entry.is_given:
                moves.append(self._drop(entry))
            elif entry.cancel is None or not entry.cancel.is_forced:
                entry.cancel = StopAttempt(key, True, "the daemon is done with this attempt")
                moves.append(entry.cancel)
        return moves

    def result_taken(self, key: TaskKey) -> ReleaseAttempt | None:
        """The daemon has the result."""
        entry = self._entries.get(key)
        if entry is None or entry.result is None:
            return None
        entry.is_result_taken = True
        return self._drop(entry) if entry.is_output_taken else None

    def output_taken(self, key: TaskKey) -> ReleaseAttempt | None:
        """The daemon has all of the output."""
        entry = self._entries.get(key)
        if entry is None or entry.result is None:
            return None
        entry.is_output_taken = True
        return self._drop(entry) if entry.is_result_taken else None

    # What happens here.

    def placed(self, key: TaskKey, place: int, now: int) -> records.AcceptedRecord:
        """The attempt will be a process, whose files are in this directory; gives the record to write before its start."""
        entry = self._entries[key]
        entry.place = place
        return records.AcceptedRecord(key, entry.node, entry.step_name, now, place, entry.has_secrets)

    def given(self, key: TaskKey) -> None:
        """The task is about to be handed to the runner: from here on only the runner knows whether it began."""
        self._entries[key].is_given = True

    def started(self, key: TaskKey, at: int) -> bool:
        """The process runs since `at`; False when that is old news."""
        entry = self._entries.get(key)
        if entry is None or entry.state is not AttemptState.ACCEPTED:
            return False
        self._move(entry, AttemptState.STARTED)
        entry.started_at = at
        entry.is_given = True
        return True

    def finish(
        self, result: messages.Finished, printed: Sequence[messages.OutputChunk] = (), *, has_spool: bool = False
    ) -> ReportResult | ReleaseAttempt | None:
        """The attempt is over; None when it was before: a result is final."""
        entry = self._entries.get(result.key)
        if entry is None or not entry.is_live:
            return None
        entry.printed = list(printed)
        entry.has_spool = has_spool
        if entry.is_unwanted:
            return self._drop(entry)
        return self._report(entry, result)

    # After a restart.

    def replay(self, record: records.LedgerRecord | records.ReleasedRecord) -> None:
        """Takes over one record of the journal, in order."""
        if isinstance(record, records.AcceptedRecord):
            entry = LedgerEntry(record.key, record.node, record.step_name)
            entry.place = record.place
            entry.has_secrets = record.has_secrets
            self._entries[record.key] = entry
            step = (record.key.run, record.key.job, record.key.step)
            self._live[step] = record.key
            self._remember(step, (record.key.epoch, record.key.attempt))
        elif isinstance(record, records.StartedRecord):
            self.started(record.key, record.at)
        elif isinstance(record, records.FinishedRecord):
            key = record.result.key
            if key not in self._entries:
                self._entries[key] = LedgerEntry(key, "", "")
                self._remember((key.run, key.job, key.step), (key.epoch, key.attempt))
            self._entries[key].has_secrets = record.has_secrets
            self.finish(record.result, record.printed, has_spool=record.has_spool)
        else:
            entry_or_none = self._entries.get(record.key)
            if entry_or_none is not None:
                self._drop(entry_or_none)

    def settle(
        self, views: Mapping[TaskKey, RunnerView], now: int, *, is_same_boot: bool = True
    ) -> list[ReportResult | ReleaseAttempt]:
        """Compares what is live with what the runner says: what it does not know has no outcome that anyone can know.

        Called when the agent starts and each time the runner has come back.
        """
        moves: list[ReportResult | ReleaseAttempt] = []
        for key in list(self._live.values()):
            entry = self._entries[key]
            view = views.get(key, RunnerView.UNKNOWN) if is_same_boot else RunnerView.UNKNOWN
            if view is not RunnerView.UNKNOWN:
                entry.is_given = entry.is_given or view is not RunnerView.PENDING
                continue
            move = self.finish(_without_runner(entry, now, is_same_boot=is_same_boot))
            if move is not None:
                moves.append(move)
        return moves

    def _stale(self, task: messages.Task, newest: tuple[int, int], now: int) -> ReportResult:
        """An attempt older than one that was here is never started; whether it ran before is not known any more."""
        entry = self._entries[task.key] = LedgerEntry(task.key, task.node, task.step_name)
        text = f"a newer attempt of this step was here before (attempt {newest[1]}, epoch {newest[0]})"
        return self._report(entry, ended(task.key, Outcome.LOST, now, reason_code="outcome-unknown", reason_text=text))

    def _refusal(self, task: messages.Task, step: _StepKey) -> str | None:
        if task.boot_id != self.boot_id:
            return "the offer was made for an earlier boot of this server"
        if task.instance != self.instance:
            return "the offer was made for an earlier start of this agent"
        live = self._live.get(step)
        if live is not None:
            return f"attempt {live.attempt} of this step (epoch {live.epoch}) still runs here"
        if len(self._live) >= self.slots:
            return f"all {self.slots} slots of this server are taken"
        if len(self._entries) >= HELD_MAX:
            return f"{HELD_MAX} results on this server wait for the daemon"
        return None

    def _report(self, entry: LedgerEntry, result: messages.Finished) -> ReportResult:
        self._move(entry, AttemptState.FINISHED)
        entry.result = result
        entry.is_output_taken = result.output_bytes == 0
        self._free(entry.key)
        return ReportResult(records.FinishedRecord(result, entry.printed, entry.has_spool, entry.has_secrets))

    def _drop(self, entry: LedgerEntry) -> ReleaseAttempt:
        del self._entries[entry.key]
        self._free(entry.key)
        return ReleaseAttempt(entry.key)

    def _free(self, key: TaskKey) -> None:
        step = (key.run, key.job, key.step)
        if self._live.get(step) == key:
            del self._live[step]

    def _remember(self, step: _StepKey, newest: tuple[int, int]) -> None:
        self._seen[step] = max(newest, self._seen.get(step, newest))
        self._seen.move_to_end(step)
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)

    def _move(self, entry: LedgerEntry, state: AttemptState) -> None:
        assert state in TRANSITIONS[entry.state], f"{entry.key}: {entry.state} cannot become {state}"
        entry.state = state


def _without_runner(entry: LedgerEntry, now: int, *, is_same_boot: bool) -> messages.Finished:
    """The result of a live attempt that the runner does not know."""
    if not is_same_boot:
        text = "the server was restarted while the attempt was open"
    elif entry.state is AttemptState.ACCEPTED and not entry.is_given:
        text = "the agent was restarted before it had started the attempt; nothing of it ran"
        return ended(entry.key, Outcome.REFUSED, now, reason_code="refused", reason_text=text)
    else:
        text = "the step runner knows nothing of the attempt any more"
    return ended(
        entry.key,
        Outcome.LOST,
        now,
        started_at=entry.started_at,
        reason_code="outcome-unknown",
        reason_text=text,
    )


def ended(
    key: TaskKey,
    outcome: Outcome,
    now: int,
    *,
    reason_code: str,
    reason_text: str,
    started_at: int | None = None,
) -> messages.Finished:
    """A result without outputs and without a process's exit."""
    return messages.Finished(
        key=key,
        outcome=outcome,
        exit_code=None,
        reason_code=reason_code,
        reason_text=reason_text,
        outputs={},
        env={},
        started_at=now if started_at is None else started_at,
        finished_at=now,
        output_bytes=0,
        output_dropped=0,
    )
