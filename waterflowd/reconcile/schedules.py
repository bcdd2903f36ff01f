"""What becomes of the instants of schedules: armed and dropped, started, queued, skipped, missed.

Rules of this file:

- Level-triggered: the log holds up to which instant a schedule is decided. Whatever lies between that and the wall clock is
  decided now, however long nobody looked; a lost wake-up costs time only.
- A decision and the run that it starts are one transaction, and the run's trigger key holds schedule and instant. So an
  instant starts one run at most, whatever the wall clock does.
- A schedule is the same one as long as its file and the times that it names are, so a change of anything else in the file
  neither loses nor repeats an instant. It belongs to the default ref, at its applied commit.
- A new schedule counts from the moment it was seen: nothing before that is caught up.
- Instants are the wall clock's, since people mean that; all else here is told the time. A clock that was set back a little
  is waited for. One that was set back by more than an hour stood wrong before, and the schedule counts anew.
- Everything is bounded: what is caught up, what waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from waterflowd.dsl import cron
from waterflowd.model.plan import CatchUp, Overlap, ScheduleTrigger
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.reconcile import events, ref_updates
from waterflowd.reconcile.events import ScheduleDecided, ScheduleOutcome
from waterflowd.reconcile.state import FileState, RefState, ScheduleName, ScheduleState

#: An instant that is found up to a minute late is on time: cron itself knows nothing finer, and a daemon restarts in less.
LATE_MS = 60_000
#: Runs that `catch-up: all` starts for one absence, the newest instants; a week of hours is 168, and nobody wants more.
CATCH_UP_MAX = 100
#: Instants that wait for an open run.
QUEUE_MAX = 100
#: A clock that goes back further than this was wrong before; corrections of a running clock are seconds.
CLOCK_BACK_MAX_MS = 3_600_000
#: The index of the log holds keys of 511 bytes.
_KEY_BYTES_MAX = 400

#: What the codes of decisions and drops mean, for people.
CODES: dict[str, str] = {
    "on-time": "started on time",
    "caught-up": "started late: it came while nothing could be started",
    "waited": "started after the run before it",
    "overlap": "the run before it is still open",
    "queue-full": f"{QUEUE_MAX} instants wait already",
    "replaced": "a newer instant took its place",
    "refused": "the run could not be started",
    "catch-up-none": "it came while nothing could be started, and `catch-up` is `none`",
    "catch-up-last": "a newer instant is started in its place, since `catch-up` is `last`",
    "too-many": f"only the newest {CATCH_UP_MAX} instants are caught up",
    "file-removed": "the file is gone",
    "file-broken": "the file has errors",
    "entry-removed": "the file does not name these times any more",
}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded about one schedule, what starts with it, and whether the open run must go."""

    facts: tuple[events.Fact, ...] = ()
    #: The instant of the run that starts; one at most, because it is open for those that follow.
    start: int | None = None
    is_cancelling: bool = False


def name_of(path: str, trigger: ScheduleTrigger) -> ScheduleName:
    """The identity of a file's schedule."""
    return ScheduleName(path=path, cron=trigger.cron, timezone=trigger.timezone)


def of_file(file: FileState) -> tuple[ScheduleTrigger, ...]:
    """The schedules of a file's newest version; none for a broken one."""
    newest = file.newest
    return newest.triggers.schedules if newest.plan_hash is not None and newest.triggers is not None else ()


def changes(
    held: Mapping[ScheduleName, ScheduleState],
    ref: RefState | None,
    may_start: Callable[[FileState], bool],
    at: int,
    wall_at: int,
) -> list[events.Fact]:
    """The facts that make the held schedules those of the default ref; None when there is no such ref."""
    files = ref.files if ref is not None else {}
    wanted = {
        name_of(path, trigger) for path, file in sorted(files.items()) if may_start(file) for trigger in of_file(file)
    }
    found: list[events.Fact] = []
    for name in sorted(held.keys() - wanted):
        file = files.get(name.path)
        code = "file-removed" if file is None else "entry-removed" if may_start(file) else "file-broken"
        found.append(events.ScheduleDropped(at=at, **_about(name), code=code))
    for name in sorted(wanted):
        before = held.get(name)
        if ref is not None and (before is None or before.ref != ref.ref):
            from_at = before.handled_at if before is not None else wall_at
            found.append(events.ScheduleArmed(at=at, **_about(name), ref=ref.ref, from_at=from_at))
    return found


def is_due(held: ScheduleState, next_at: int | None, wall_at: int) -> bool:
    """Whether something may have to be decided: an instant has come, something waits, or the clock went back."""
    has_come = next_at is not None and next_at <= wall_at
    return has_come or bool(held.queued) or went_back(held, wall_at)


def went_back(held: ScheduleState, wall_at: int) -> bool:
    """Whether the clock stood wrong when the schedule was decided last, so that it counts anew."""
    return held.handled_at - wall_at > CLOCK_BACK_MAX_MS


def decide(held: ScheduleState, trigger: ScheduleTrigger, wall_at: int, at: int, *, is_open: bool) -> Decision:
    """What becomes of everything that waits or has come; `is_open` says whether the newest run is still open."""
    about = _about(held.name)
    if went_back(held, wall_at):
        return Decision(facts=(events.ScheduleArmed(at=at, **about, ref=held.ref, from_at=wall_at),))
    decider = _Decider(about, at, list(held.queued), trigger.overlap, is_open)
    decider.take_waiting()
    limit = CATCH_UP_MAX + 1
    instants, has_more = cron.newest_instants(trigger.cron, trigger.timezone, held.handled_at, wall_at, limit)
    missed, taken, code = _caught_up(instants, trigger.catch_up, wall_at - LATE_MS)
    if missed:
        decider.record(missed[-1], ScheduleOutcome.MISSED, code, count=len(missed), has_more=has_more)
    for instant in taken:
        decider.take(instant, "on-time" if instant >= wall_at - LATE_MS else "caught-up")
    is_cancelling = trigger.overlap is Overlap.CANCEL and decider.is_busy and bool(decider.queue)
    return Decision(facts=tuple(decider.facts), start=decider.start, is_cancelling=is_cancelling)


def refused(held: ScheduleState, decision: Decision) -> tuple[events.Fact, ...]:
    """The facts of a decision whose run cannot be started."""
    return tuple(
        msgspec.structs.replace(fact, outcome=ScheduleOutcome.SKIPPED, code="refused")
        if isinstance(fact, ScheduleDecided) and fact.outcome is ScheduleOutcome.STARTED
        else fact
        for fact in decision.facts
    )


def trigger_key(repository: str, name: ScheduleName, instant: int) -> str:
    """The text under which an instant of a schedule starts its run once; long ones end in a hash."""
    head = f"schedule:{repository}:"
    tail = f"{name.timezone}:{name.cron}:{name.path}"
    if len((head + tail).encode()) > _KEY_BYTES_MAX:
        tail = f"sha256-{hashlib.sha256(tail.encode()).hexdigest()}"
    return f"{head}{instant}:{tail}"


def start_request(
    plan: bytes, repository: str, ref: RefState, name: ScheduleName, trigger: ScheduleTrigger, instant: int
) -> StartRequest:
    """The request that starts the run of an instant, at the applied commit."""
    payload: dict[str, Any] = {
        "name": "schedule",
        "schedule": name.cron,
        "timezone": name.timezone,
        "instant": instant_text(instant),
    }
    return StartRequest(
        plan=plan,
        repository=repository,
        revision=ref.commit,
        trigger=Trigger(
            kind=TriggerKind.SCHEDULE,
            by="schedule",
            key=trigger_key(repository, name, instant),
            ref=ref.ref,
            git=ref_updates.git_context(repository, ref.ref, ref.commit, ref.author, ref.message),
            payload=payload,
        ),
        vars=trigger.vars,
    )


def instant_text(instant: int) -> str:
    """An instant in UTC, as RFC 3339."""
    return (datetime(1970, 1, 1) + timedelta(milliseconds=instant)).isoformat(timespec="seconds") + "Z"


def text_of(decided: ScheduleDecided) -> str:
    """A decision as one sentence, for people."""
    counted = f"{'at least ' if decided.has_more else ''}{decided.count} instants" if decided.count > 1 else ""
    why = CODES.get(decided.code, decided.code)
    return f"{decided.outcome.value}{' ' if counted else ''}{counted}: {why}"


class _Decider:
    """Takes the instants of one schedule one after the other."""

    def __init__(self, about: dict[str, str], at: int, queue: list[int], overlap: Overlap, is_busy: bool) -> None:
        self._about = about
        self._at = at
        self._overlap = overlap
        self.queue = queue
        self.is_busy = is_busy
        self.facts: list[events.Fact] = []
        self.start: int | None = None

    def record(
        self, instant: int, outcome: ScheduleOutcome, code: str, *, count: int = 1, has_more: bool = False
    ) -> None:
        self.facts.append(
            ScheduleDecided(
                at=self._at,
                **self._about,
                due_at=instant,
                outcome=outcome,
                code=code,
                count=count,
                has_more=has_more,
            )
        )

    def take_waiting(self) -> None:
        if self.queue and not self.is_busy:
            self._begin(self.queue.pop(0), "waited")

    def take(self, instant: int, code: str) -> None:
        if not self.is_busy and not self.queue:
            self._begin(instant, code)
        elif self._overlap is Overlap.SKIP:
            self.record(instant, ScheduleOutcome.SKIPPED, "overlap")
        elif self._overlap is Overlap.QUEUE and len(self.queue) >= QUEUE_MAX:
            self.record(instant, ScheduleOutcome.SKIPPED, "queue-full")
        else:
            if self._overlap is Overlap.CANCEL:
                for waiting in self.queue:
                    self.record(waiting, ScheduleOutcome.SKIPPED, "replaced")
                self.queue.clear()
            self.queue.append(instant)
            self.record(instant, ScheduleOutcome.QUEUED, "overlap")

    def _begin(self, instant: int, code: str) -> None:
        self.record(instant, ScheduleOutcome.STARTED, code)
        self.start = instant
        self.is_busy = True


def _caught_up(instants: list[int], catch_up: CatchUp, late_at: int) -> tuple[list[int], list[int], str]:
    """Instants that are given up, those that are taken, and the code for the former."""
    match catch_up:
        case CatchUp.NONE:
            missed = [instant for instant in instants if instant < late_at]
            return missed, instants[len(missed) :], "catch-up-none"
        case CatchUp.LAST:
            return instants[:-1], instants[-1:], "catch-up-last"
        case CatchUp.ALL:
            return instants[:-CATCH_UP_MAX], instants[-CATCH_UP_MAX:], "too-many"


def _about(name: ScheduleName) -> dict[str, str]:
    return {"path": name.path, "cron": name.cron, "timezone": name.timezone}
