"""The attempts of one agent, and what each input means for them.

    offer ──▶ ACCEPTED ──▶ STARTED ──▶ FINISHED ──result and output acknowledged──▶ removed
                  └─────────────────────▲

Rules of this file:

- Methods change the ledger and return an action, or None when there is nothing to do (a duplicate, an outdated message).
- The executor writes the record of an action to the journal before it carries the action out.
- `_newest` remembers the newest attempt of each step, even after it was removed. It need not survive a restart, because offers
  are bound to one start of the agent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum

import msgspec

from waterflow_agent.attempts import Outcome
from waterflow_agent.state.ledger import records
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, TaskId

#: Attempts held at most; beyond this offers are refused. A daemon that acknowledges no results is not working anyway.
HELD_MAX = 10_000
#: Steps whose newest attempt is remembered after it was removed: 4 MB. Ten times the slots that an agent can have, so a
#: repeated offer always finds its own.
REMEMBERED_MAX = 10_000

#: Permitted transitions. An attempt that ends before its start was reported goes straight to FINISHED.
TRANSITIONS: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.ACCEPTED: frozenset({AttemptState.STARTED, AttemptState.FINISHED}),
    AttemptState.STARTED: frozenset({AttemptState.FINISHED}),
    AttemptState.FINISHED: frozenset(),
}

_StepKey = tuple[str, str, str]


class StartAttempt(msgspec.Struct, frozen=True):
    """Write an `AcceptedRecord`, then start the task."""

    task: messages.Task


class StopAttempt(msgspec.Struct, frozen=True):
    """Stop the process of this attempt; its exit is reported as usual."""

    key: TaskId
    is_forced: bool
    reason: str


class ReportResult(msgspec.Struct, frozen=True):
    """Write the record, then send its result."""

    record: records.FinishedRecord


class ReleaseAttempt(msgspec.Struct, frozen=True):
    """Write a `ReleasedRecord`, then delete the attempt's files."""

    key: TaskId


LedgerAction = StartAttempt | StopAttempt | ReportResult | ReleaseAttempt


class RunnerView(Enum):
    """What the runner reports about an attempt after the agent has connected to it."""

    UNKNOWN = "unknown"
    #: This process has requested its start, or is about to; the runner has not answered yet.
    PENDING = "pending"
    RUNNING = "running"
    #: It has exited; the exit is handled as if it had just happened.
    ENDED = "ended"


class LedgerEntry:
    """One attempt that the agent holds. Only the ledger writes it."""

    __slots__ = (
        "cancel",
        "directory",
        "has_secrets",
        "has_spool",
        "is_abandoned",
        "is_handed_over",
        "is_output_acknowledged",
        "is_result_acknowledged",
        "key",
        "node",
        "printed",
        "result",
        "started_at",
        "state",
        "step_name",
    )

    def __init__(self, key: TaskId, node: str, step_name: str) -> None:
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
        self.directory = 0
        #: The task was handed to the runner.
        self.is_handed_over = False
        self.is_result_acknowledged = False
        self.is_output_acknowledged = False
        #: The daemon does not want its result.
        self.is_abandoned = False
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
        self._entries: dict[TaskId, LedgerEntry] = {}
        self._live: dict[_StepKey, TaskId] = {}
        self._newest: OrderedDict[_StepKey, tuple[int, int]] = OrderedDict()
        #: False between `restore` from a journal of an earlier boot and the first `settle`.
        self._is_same_boot = True

    # Attempts that are held.

    def __contains__(self, key: TaskId) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: TaskId) -> LedgerEntry | None:
        """Returns the entry of an attempt, or None when it is not held."""
        return self._entries.get(key)

    def held(self) -> list[messages.HeldAttempt]:
        """Returns every attempt whose result the daemon does not have yet, for `Hello`."""
        return [
            messages.HeldAttempt(entry.key, entry.state)
            for entry in self._entries.values()
            if not entry.is_result_acknowledged and not entry.is_abandoned
        ]

    def undelivered(self) -> list[messages.Started | messages.Finished]:
        """Returns the messages to send again in a new session, oldest first."""
        undelivered: list[messages.Started | messages.Finished] = []
        for entry in self._entries.values():
            if entry.is_abandoned or entry.is_result_acknowledged:
                continue
            if entry.result is not None:
                undelivered.append(entry.result)
            elif entry.state is AttemptState.STARTED and entry.started_at is not None:
                undelivered.append(messages.Started(entry.key, entry.started_at))
        return undelivered

    def snapshot(self) -> list[records.LedgerRecord]:
        """Returns the records of a journal snapshot."""
        kept: list[records.LedgerRecord] = []
        for entry in self._entries.values():
            if entry.result is not None:
                kept.append(records.FinishedRecord(entry.result, entry.printed, entry.has_spool, entry.has_secrets))
                continue
            kept.append(
                records.AcceptedRecord(entry.key, entry.node, entry.step_name, 0, entry.directory, entry.has_secrets)
            )
            if entry.started_at is not None:
                kept.append(records.StartedRecord(entry.key, entry.started_at))
        return kept

    # Messages of the daemon.

    def offer(self, task: messages.Task, now: int) -> StartAttempt | ReportResult | None:
        """Accepts or refuses an offer. Returns None for an attempt that was offered before: it is only acknowledged."""
        key = task.key
        if key in self._entries:
            return None
        step = (key.attempt.run, key.attempt.job, key.attempt.step)
        newest = self._newest.get(step)
        if newest == (key.epoch, key.attempt.number):
            return None
        if newest is not None and (key.epoch, key.attempt.number) < newest:
            return self._stale(task, newest, now)
        refusal = self._refusal(task, step)
        entry = self._entries[key] = LedgerEntry(key, task.node, task.step_name)
        entry.has_secrets = bool(task.secrets)
        # Refused attempts too: their result is final, so a second offer of the same attempt must not start it.
        self._remember(step, (key.epoch, key.attempt.number))
        if refusal is not None:
            return self._report(entry, ended(key, Outcome.REFUSED, now, reason_code="refused", reason_text=refusal))
        self._live[step] = key
        return StartAttempt(task)

    def cancel(self, cancel: messages.Cancel, now: int) -> StopAttempt | ReportResult | None:
        """Cancels an attempt. Returns None when it is unknown or has ended: the daemon learns that from the result."""
        entry = self._entries.get(cancel.key)
        if entry is None or not entry.is_live:
            return None
        stop = StopAttempt(cancel.key, cancel.force, cancel.reason)
        if not entry.is_handed_over:
            result = ended(
                cancel.key,
                Outcome.CANCELLED,
                now,
                reason_code="cancel-requested",
                reason_text="cancelled before it started",
            )
            return self._report(entry, result)
        if entry.cancel is not None and (entry.cancel.is_forced or not cancel.force):
            return None
        entry.cancel = stop
        return stop

    def forget(self, keys: Iterable[TaskId]) -> list[StopAttempt | ReleaseAttempt]:
        """Removes attempts that the daemon no longer wants. Those that still run are killed, and removed when they exit."""
        actions: list[StopAttempt | ReleaseAttempt] = []
        for key in keys:
            entry = self._entries.get(key)
            if entry is None:
                continue
            entry.is_abandoned = True
            if not entry.is_live or not entry.is_handed_over:
                actions.append(self._drop(entry))
            elif entry.cancel is None or not entry.cancel.is_forced:
                entry.cancel = StopAttempt(key, True, "the daemon no longer wants this attempt")
                actions.append(entry.cancel)
        return actions

    def result_acknowledged(self, key: TaskId) -> ReleaseAttempt | None:
        """Notes that the daemon has the result."""
        entry = self._entries.get(key)
        if entry is None or entry.result is None:
            return None
        entry.is_result_acknowledged = True
        return self._drop(entry) if entry.is_output_acknowledged else None

    def output_acknowledged(self, key: TaskId) -> ReleaseAttempt | None:
        """Notes that the daemon has all of the output."""
        entry = self._entries.get(key)
        if entry is None or entry.result is None:
            return None
        entry.is_output_acknowledged = True
        return self._drop(entry) if entry.is_result_acknowledged else None

    # Events on this server.

    def prepare(self, key: TaskId, directory: int, now: int) -> records.AcceptedRecord:
        """Notes the directory of an attempt that will be a process. Returns the record to write before its start."""
        entry = self._entries[key]
        entry.directory = directory
        return records.AcceptedRecord(key, entry.node, entry.step_name, now, directory, entry.has_secrets)

    def hand_over(self, key: TaskId) -> None:
        """Notes that the task was handed to the runner: from now on only the runner knows whether it started."""
        self._entries[key].is_handed_over = True

    def started(self, key: TaskId, at: int) -> bool:
        """Notes that the process has been running since `at`. Returns False when that was known or is outdated."""
        entry = self._entries.get(key)
        if entry is None or entry.state is not AttemptState.ACCEPTED:
            return False
        self._move(entry, AttemptState.STARTED)
        entry.started_at = at
        entry.is_handed_over = True
        return True

    def finish(
        self, result: messages.Finished, printed: Sequence[messages.OutputChunk] = (), *, has_spool: bool = False
    ) -> ReportResult | ReleaseAttempt | None:
        """Notes that the attempt has ended. Returns None when it had ended before: a result is final."""
        entry = self._entries.get(result.key)
        if entry is None or not entry.is_live:
            return None
        entry.printed = list(printed)
        entry.has_spool = has_spool
        if entry.is_abandoned:
            return self._drop(entry)
        return self._report(entry, result)

    # After a restart.

    def restore(self, boot_id: str, journal: Iterable[records.LedgerRecord | records.ReleasedRecord]) -> None:
        """Replays the journal of an earlier start of the agent; `boot_id` is the boot that it was written in."""
        self._is_same_boot = boot_id == self.boot_id
        for record in journal:
            self.replay(record)

    def replay(self, record: records.LedgerRecord | records.ReleasedRecord) -> None:
        """Replays one record of the journal, in order."""
        if isinstance(record, records.AcceptedRecord):
            entry = LedgerEntry(record.key, record.node, record.step_name)
            entry.directory = record.directory
            entry.has_secrets = record.has_secrets
            self._entries[record.key] = entry
            step = (record.key.attempt.run, record.key.attempt.job, record.key.attempt.step)
            self._live[step] = record.key
            self._remember(step, (record.key.epoch, record.key.attempt.number))
        elif isinstance(record, records.StartedRecord):
            self.started(record.key, record.at)
        elif isinstance(record, records.FinishedRecord):
            key = record.result.key
            if key not in self._entries:
                self._entries[key] = LedgerEntry(key, "", "")
                self._remember((key.attempt.run, key.attempt.job, key.attempt.step), (key.epoch, key.attempt.number))
            self._entries[key].has_secrets = record.has_secrets
            self.finish(record.result, record.printed, has_spool=record.has_spool)
        else:
            entry_or_none = self._entries.get(record.key)
            if entry_or_none is not None:
                self._drop(entry_or_none)

    def settle(self, views: Mapping[TaskId, RunnerView], now: int) -> list[ReportResult | ReleaseAttempt]:
        """Compares the live attempts with what the runner reports, after each connect to it.

        The outcome of an attempt that the runner does not know is unknown, and so is that of every attempt of an earlier boot.
        """
        is_same_boot, self._is_same_boot = self._is_same_boot, True
        actions: list[ReportResult | ReleaseAttempt] = []
        for key in list(self._live.values()):
            entry = self._entries[key]
            view = views.get(key, RunnerView.UNKNOWN) if is_same_boot else RunnerView.UNKNOWN
            if view is not RunnerView.UNKNOWN:
                entry.is_handed_over = entry.is_handed_over or view is not RunnerView.PENDING
                continue
            action = self.finish(_without_runner(entry, now, is_same_boot=is_same_boot))
            if action is not None:
                actions.append(action)
        return actions

    def _stale(self, task: messages.Task, newest: tuple[int, int], now: int) -> ReportResult:
        """Reports an attempt as lost that is older than the newest known one: it may have run, so it is not started."""
        entry = self._entries[task.key] = LedgerEntry(task.key, task.node, task.step_name)
        text = f"this server has already had a newer attempt of the step (attempt {newest[1]}, epoch {newest[0]})"
        return self._report(entry, ended(task.key, Outcome.LOST, now, reason_code="outcome-unknown", reason_text=text))

    def _refusal(self, task: messages.Task, step: _StepKey) -> str | None:
        if task.boot_id != self.boot_id:
            return "the offer was meant for an earlier boot of this server"
        if task.instance != self.instance:
            return "the offer was meant for an earlier start of this agent"
        live = self._live.get(step)
        if live is not None:
            return f"attempt {live.attempt} of the step (epoch {live.epoch}) is still running here"
        if len(self._live) >= self.slots:
            return f"all {self.slots} slots of this server are in use"
        if len(self._entries) >= HELD_MAX:
            return f"{HELD_MAX} results on this server are waiting for the daemon"
        return None

    def _report(self, entry: LedgerEntry, result: messages.Finished) -> ReportResult:
        self._move(entry, AttemptState.FINISHED)
        entry.result = result
        entry.is_output_acknowledged = result.output_bytes == 0
        self._free(entry.key)
        return ReportResult(records.FinishedRecord(result, entry.printed, entry.has_spool, entry.has_secrets))

    def _drop(self, entry: LedgerEntry) -> ReleaseAttempt:
        del self._entries[entry.key]
        self._free(entry.key)
        return ReleaseAttempt(entry.key)

    def _free(self, key: TaskId) -> None:
        step = (key.attempt.run, key.attempt.job, key.attempt.step)
        if self._live.get(step) == key:
            del self._live[step]

    def _remember(self, step: _StepKey, newest: tuple[int, int]) -> None:
        self._newest[step] = max(newest, self._newest.get(step, newest))
        self._newest.move_to_end(step)
        if len(self._newest) > REMEMBERED_MAX:
            self._newest.popitem(last=False)

    def _move(self, entry: LedgerEntry, state: AttemptState) -> None:
        assert state in TRANSITIONS[entry.state], f"{entry.key}: {entry.state} cannot become {state}"
        entry.state = state


def _without_runner(entry: LedgerEntry, now: int, *, is_same_boot: bool) -> messages.Finished:
    """Returns the result of a live attempt that the runner does not know."""
    if not is_same_boot:
        text = "the server was rebooted while the attempt was open"
    elif entry.state is AttemptState.ACCEPTED and not entry.is_handed_over:
        text = "the agent restarted before it started the attempt; nothing ran"
        return ended(entry.key, Outcome.REFUSED, now, reason_code="refused", reason_text=text)
    else:
        text = "the step runner no longer knows the attempt"
    return ended(
        entry.key,
        Outcome.LOST,
        now,
        started_at=entry.started_at,
        reason_code="outcome-unknown",
        reason_text=text,
    )


def ended(
    key: TaskId,
    outcome: Outcome,
    now: int,
    *,
    reason_code: str,
    reason_text: str,
    started_at: int | None = None,
) -> messages.Finished:
    """Returns a result without outputs and exit code."""
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
