"""Decides about schedules: which are armed or dropped, and which due times are started, queued, skipped or missed.

Rules of this file:

- Level-triggered: the log holds the due time up to which a schedule is decided. Everything between that and the wall clock is
  decided now, however long ago the last decision was; a lost wake-up only costs time.
- A decision and the run that it starts are one transaction, and the run's trigger key contains the schedule and the due time.
  So a due time starts at most one run, whatever the wall clock does.
- A schedule is identified by its file, cron expression and time zone, so that other changes of the file neither lose nor repeat
  a run. It belongs to the default ref, at its applied commit.
- A new schedule starts when it is first seen: nothing before that is caught up.
- Due times are wall-clock times; the current time is an argument. If the clock was set back a little, the schedule waits until
  it has caught up. If it was set back by more than an hour, it was wrong before, and the schedule starts over.
- Everything is bounded: what is caught up, and what is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from waterflowd.dsl import cron
from waterflowd.model import ids
from waterflowd.model.plan import CatchUp, Overlap, ScheduleTrigger
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.reconcile import events, ref_updates
from waterflowd.reconcile.events import ScheduleDecided, ScheduleOutcome
from waterflowd.reconcile.state import FileState, RefState, ScheduleName, ScheduleState

#: Up to a minute late counts as on time: cron has no finer resolution, and a daemon restarts in less.
LATE_MS = 60_000
#: Runs that `catch-up: all` starts after one outage, for the newest due times.
CATCH_UP_MAX = 100
#: Queued due times of one schedule.
QUEUE_MAX = 100
#: A clock that is set back further than this was wrong before; corrections of a running clock are seconds.
CLOCK_BACK_MAX_MS = 3_600_000

#: The meaning of the codes of decisions and drops, for messages.
CODES: dict[str, str] = {
    "on-time": "started on time",
    "caught-up": "started late because no run could be started when it was due",
    "waited": "started after the previous run",
    "overlap": "the previous run is still open",
    "queue-full": f"{QUEUE_MAX} runs are queued already",
    "replaced": "replaced by a newer one",
    "refused": "the run could not be started",
    "catch-up-none": "no run could be started when it was due, and `catch-up` is `none`",
    "catch-up-last": "only the newest one is started, because `catch-up` is `last`",
    "too-many": f"only the newest {CATCH_UP_MAX} are caught up",
    "file-removed": "the file was removed",
    "file-broken": "the file has errors",
    "entry-removed": "the file no longer contains this schedule",
}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The facts to record about one schedule, the run to start, and whether to cancel the open run."""

    facts: tuple[events.Fact, ...] = ()
    #: The due time of the run to start; at most one, because it is then the open run for later due times.
    start: int | None = None
    is_cancelling: bool = False


def name_of(path: str, trigger: ScheduleTrigger) -> ScheduleName:
    """The identity of a file's schedule."""
    return ScheduleName(path=path, cron=trigger.cron, timezone=trigger.timezone)


def of_file(file: FileState) -> tuple[ScheduleTrigger, ...]:
    """The schedules of a file's newest version; none if it has errors."""
    newest = file.newest
    return newest.triggers.schedules if newest.plan_hash is not None and newest.triggers is not None else ()


def changes(
    armed: Mapping[ScheduleName, ScheduleState],
    ref: RefState | None,
    may_start: Callable[[FileState], bool],
    at: int,
    wall_at: int,
) -> list[events.Fact]:
    """The facts that make the armed schedules equal to those of the default ref (None if there is none)."""
    files = ref.files if ref is not None else {}
    current = {
        name_of(path, trigger) for path, file in sorted(files.items()) if may_start(file) for trigger in of_file(file)
    }
    found: list[events.Fact] = []
    for name in sorted(armed.keys() - current):
        file = files.get(name.path)
        code = "file-removed" if file is None else "entry-removed" if may_start(file) else "file-broken"
        found.append(events.ScheduleDropped(at=at, **_about(name), code=code))
    for name in sorted(current):
        before = armed.get(name)
        if ref is not None and (before is None or before.ref != ref.ref):
            from_at = before.handled_at if before is not None else wall_at
            found.append(events.ScheduleArmed(at=at, **_about(name), ref=ref.ref, from_at=from_at))
    return found


def is_due(schedule: ScheduleState, next_at: int | None, wall_at: int) -> bool:
    """Whether there may be something to decide: a run is due or queued, or the clock was set back."""
    is_due_now = next_at is not None and next_at <= wall_at
    return is_due_now or bool(schedule.queued) or went_back(schedule, wall_at)


def went_back(schedule: ScheduleState, wall_at: int) -> bool:
    """Whether the clock was wrong at the last decision, so that the schedule starts over."""
    return schedule.handled_at - wall_at > CLOCK_BACK_MAX_MS


def decide(schedule: ScheduleState, trigger: ScheduleTrigger, wall_at: int, at: int, *, is_open: bool) -> Decision:
    """Decides about everything that is queued or due; `is_open` tells whether the newest run is still open."""
    about = _about(schedule.name)
    if went_back(schedule, wall_at):
        return Decision(facts=(events.ScheduleArmed(at=at, **about, ref=schedule.ref, from_at=wall_at),))
    decider = _Decider(about, at, list(schedule.queued), trigger.overlap, is_open)
    decider.take_queued()
    limit = CATCH_UP_MAX + 1
    due, has_more = cron.newest_instants(trigger.cron, trigger.timezone, schedule.handled_at, wall_at, limit)
    missed, to_start, code = _split(due, trigger.catch_up, wall_at - LATE_MS)
    if missed:
        decider.record(missed[-1], ScheduleOutcome.MISSED, code, count=len(missed), has_more=has_more)
    for due_at in to_start:
        decider.take(due_at, "on-time" if due_at >= wall_at - LATE_MS else "caught-up")
    is_cancelling = trigger.overlap is Overlap.CANCEL and decider.is_busy and bool(decider.queue)
    return Decision(facts=tuple(decider.facts), start=decider.start, is_cancelling=is_cancelling)


def refused(schedule: ScheduleState, decision: Decision) -> tuple[events.Fact, ...]:
    """The facts of a decision if its run cannot be started."""
    return tuple(
        msgspec.structs.replace(fact, outcome=ScheduleOutcome.SKIPPED, code="refused")
        if isinstance(fact, ScheduleDecided) and fact.outcome is ScheduleOutcome.STARTED
        else fact
        for fact in decision.facts
    )


def trigger_key(repository: str, name: ScheduleName, due_at: int) -> str:
    """The key under which a due time of a schedule starts its run once; a long one contains a hash."""
    return ids.trigger_key(f"schedule:{repository}:{due_at}", f"{name.timezone}:{name.cron}:{name.path}")


def start_request(
    plan: bytes, repository: str, ref: RefState, name: ScheduleName, trigger: ScheduleTrigger, due_at: int
) -> StartRequest:
    """The request that starts the run of a due time, at the applied commit."""
    payload: dict[str, Any] = {
        "name": "schedule",
        "schedule": name.cron,
        "timezone": name.timezone,
        "instant": time_text(due_at),
    }
    return StartRequest(
        plan=plan,
        repository=repository,
        revision=ref.commit,
        trigger=Trigger(
            kind=TriggerKind.SCHEDULE,
            by="schedule",
            key=trigger_key(repository, name, due_at),
            ref=ref.ref,
            git=ref_updates.git_context(repository, ref.ref, ref.commit, ref.author, ref.message),
            payload=payload,
        ),
        vars=trigger.vars,
    )


def time_text(at: int) -> str:
    """A time in UTC, as RFC 3339."""
    return (datetime(1970, 1, 1) + timedelta(milliseconds=at)).isoformat(timespec="seconds") + "Z"


def text_of(decided: ScheduleDecided) -> str:
    """A decision as one sentence, for messages."""
    counted = f"{'at least ' if decided.has_more else ''}{decided.count} times" if decided.count > 1 else ""
    reason = CODES.get(decided.code, decided.code)
    return f"{decided.outcome.value}{' ' if counted else ''}{counted}: {reason}"


class _Decider:
    """Decides about the due times of one schedule, one after the other."""

    def __init__(self, about: dict[str, str], at: int, queue: list[int], overlap: Overlap, is_busy: bool) -> None:
        self._about = about
        self._at = at
        self._overlap = overlap
        self.queue = queue
        self.is_busy = is_busy
        self.facts: list[events.Fact] = []
        self.start: int | None = None

    def record(
        self, due_at: int, outcome: ScheduleOutcome, code: str, *, count: int = 1, has_more: bool = False
    ) -> None:
        self.facts.append(
            ScheduleDecided(
                at=self._at,
                **self._about,
                due_at=due_at,
                outcome=outcome,
                code=code,
                count=count,
                has_more=has_more,
            )
        )

    def take_queued(self) -> None:
        if self.queue and not self.is_busy:
            self._start(self.queue.pop(0), "waited")

    def take(self, due_at: int, code: str) -> None:
        if not self.is_busy and not self.queue:
            self._start(due_at, code)
        elif self._overlap is Overlap.SKIP:
            self.record(due_at, ScheduleOutcome.SKIPPED, "overlap")
        elif self._overlap is Overlap.QUEUE and len(self.queue) >= QUEUE_MAX:
            self.record(due_at, ScheduleOutcome.SKIPPED, "queue-full")
        else:
            if self._overlap is Overlap.CANCEL:
                for queued_at in self.queue:
                    self.record(queued_at, ScheduleOutcome.SKIPPED, "replaced")
                self.queue.clear()
            self.queue.append(due_at)
            self.record(due_at, ScheduleOutcome.QUEUED, "overlap")

    def _start(self, due_at: int, code: str) -> None:
        self.record(due_at, ScheduleOutcome.STARTED, code)
        self.start = due_at
        self.is_busy = True


def _split(due: list[int], catch_up: CatchUp, late_at: int) -> tuple[list[int], list[int], str]:
    """The due times that are missed, those to start, and the code for the former."""
    match catch_up:
        case CatchUp.NONE:
            missed = [due_at for due_at in due if due_at < late_at]
            return missed, due[len(missed) :], "catch-up-none"
        case CatchUp.LAST:
            return due[:-1], due[-1:], "catch-up-last"
        case CatchUp.ALL:
            return due[:-CATCH_UP_MAX], due[-CATCH_UP_MAX:], "too-many"


def _about(name: ScheduleName) -> dict[str, str]:
    return {"path": name.path, "cron": name.cron, "timezone": name.timezone}
