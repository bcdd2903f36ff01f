"""What is promised about schedules (G6), compared with the log: each instant is decided once, correctly, and starts at
most one run.

Rules of this file: what should happen at an instant is derived from the truth alone: the calendar, the files of the
applied commit, what the wall clock showed when it was decided, and whether the previous run had completed. Where two
things happened in the same millisecond, their order is unknown and both answers are right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TypeVar

from tests.simulator import calendar
from tests.simulator.calendar import BEGAN_AT, BOUNDS
from tests.simulator.environment import Environment
from tests.simulator.outside.repository import MAIN
from tests.simulator.triggered import Triggered
from waterflowd.engine import events as run_events
from waterflowd.model.ids import RunId, repository_stream, run_stream
from waterflowd.model.plan import CatchUp, Overlap, ScheduleTrigger
from waterflowd.model.records import Batch
from waterflowd.reconcile import events
from waterflowd.reconcile.events import ScheduleOutcome

#: A file and one of its cron expressions.
Name = tuple[str, str]
#: An instant, its outcome and the reason; for missed ones also how many, and whether there were more.
Row = tuple[int, ScheduleOutcome, str, int, bool]
#: A simulation waits for another instant that comes within this time.
SOON_MS = 10_000
#: A run that a newer instant replaces must be cancelled within this time.
CANCEL_MS = 4_000
_Item = TypeVar("_Item")


class _Held:
    """A schedule as the log knows it."""

    def __init__(self, handled_at: int) -> None:
        self.handled_at = handled_at
        self.queue: list[int] = []
        self.run: RunId | None = None


class ScheduleChecker:
    """The checker of schedules."""

    def __init__(self, environment: Environment, repository: Triggered) -> None:
        self._environment = environment
        self._repository = repository
        self._stream = repository_stream(repository.settings.name)
        self.forget()

    def forget(self) -> None:
        """Starts afresh, because the log is empty."""
        self._held: dict[Name, _Held] = {}
        self._started: dict[tuple[Name, int], RunId] = {}
        #: When each commit was applied, and when a run's completion became durable; in ms of the simulation.
        self._commits: list[tuple[int, str]] = []
        self._ended: dict[RunId, int] = {}
        #: Runs that a newer instant replaces, and since when; only from times without faults and changes of files.
        self._cancelled: dict[RunId, int] = {}
        #: When the repository was suspended, so that nothing may be decided; in ms of the simulation.
        self._suspended_at: int | None = None

    # The log ----------------------------------------------------------------------------------------------------------

    def committed(self, batch: Batch, *, is_news: bool = True) -> None:
        """Checks a batch that is durable and applied to the shadow runs."""
        created: dict[tuple[Name, int], RunId] = {}
        decided: dict[Name, list[events.ScheduleDecided]] = defaultdict(list)
        for append in batch.appends:
            for event in append.events:
                if append.stream != self._stream:
                    self._run_event(append.stream, event, created)
                elif isinstance(event, events.ScheduleDecided):
                    decided[event.path, event.cron].append(event)
                else:
                    self._fact(event, is_news=is_news)
        for name, facts in decided.items():
            self._decided(name, facts, created, is_news=is_news)
        for (name, instant), run in created.items():
            is_said = any(fact.due_at == instant and _is_start(fact) for fact in decided.get(name, ()))
            self._expect(
                is_said, f"{run} is started for {_shown(name, instant)}, and no fact of its transaction says so"
            )

    def _run_event(self, stream: str, event: object, created: dict[tuple[Name, int], RunId]) -> None:
        run = RunId(stream.removeprefix(run_stream(RunId(""))))
        if isinstance(event, run_events.RunCompleted):
            self._ended[run] = now = self._environment.now_ms
            late_ms = now - self._cancelled.pop(run, now) - CANCEL_MS
            is_cancelled = self._environment.shadows[run].is_cancelled
            self._expect(
                late_ms <= 0 or is_cancelled, f"{run} continues although a newer due time of its schedule waits"
            )
        elif isinstance(event, run_events.RunCreated) and event.trigger.kind == "schedule":
            payload, path = event.trigger.payload, self._environment.shadows[run].plan.path
            key = (path, payload["schedule"]), calendar.read(payload["instant"])
            known = self._started.setdefault(key, run)
            self._expect(known == run, f"{_shown(*key)} has started {known} and {run}")
            self._expect(key not in created, f"one transaction starts {_shown(*key)} twice")
            created[key] = run

    def _fact(self, fact: events.Fact, *, is_news: bool) -> None:
        self._cancelled.clear()
        if isinstance(fact, events.RevisionApplied):
            self._commits.append((self._environment.now_ms, fact.commit))
        elif isinstance(fact, events.RepositorySuspended):
            self._suspended_at = self._environment.now_ms
        elif isinstance(fact, events.RepositoryResumed):
            self._suspended_at = None
        elif isinstance(fact, events.ScheduleArmed):
            self._armed((fact.path, fact.cron), fact, is_news=is_news)
        elif isinstance(fact, events.ScheduleDropped):
            name = (fact.path, fact.cron)
            is_named = all(name in expected for expected in self._wanted(fact.at))
            self._expect(not is_news or not is_named, f"{name} is dropped, and its file names it")
            self._expect(self._held.pop(name, None) is not None, f"{name} is dropped and was never armed")

    def _armed(self, name: Name, fact: events.ScheduleArmed, *, is_news: bool) -> None:
        held = self._held.get(name)
        if is_news:
            is_named = any(name in expected for expected in self._wanted(fact.at))
            self._expect(is_named, f"{name} is armed, and no file names it")
            walls = self._walls(fact.at)
            self._expect(fact.from_at in walls, f"{name} counts from {fact.from_at - BEGAN_AT} at {_since(walls)}")
            back_ms = held.handled_at - min(walls) if held is not None else BOUNDS["CLOCK_BACK_MAX_MS"] + 1
            self._expect(back_ms > BOUNDS["CLOCK_BACK_MAX_MS"], f"{name} is armed again, for a clock {back_ms} ms back")
        if held is None:
            self._held[name] = _Held(fact.from_at)
        else:
            held.handled_at = fact.from_at

    def _decided(
        self,
        name: Name,
        facts: Sequence[events.ScheduleDecided],
        created: dict[tuple[Name, int], RunId],
        *,
        is_news: bool,
    ) -> None:
        held = self._held.get(name)
        if held is None:
            self._expect(False, f"{name} is decided and was never armed")
            return
        rows = [(fact.due_at, fact.outcome, fact.code, fact.count, fact.has_more) for fact in facts]
        if is_news:
            # A decision that was already in progress when the repository was suspended appears in the log after the
            # suspension.
            is_held = self._suspended_at is not None and self._suspended_at < facts[0].at - BEGAN_AT
            self._expect(not is_held, f"{name} is decided while its repository is suspended")
            self._check_decision(name, held, facts[0].at, rows)
        for instant, outcome, *_ in rows:
            held.handled_at = max(held.handled_at, instant)
            held.queue = [waiting for waiting in held.queue if waiting != instant]
            if outcome is ScheduleOutcome.QUEUED:
                held.queue.append(instant)
                self._must_go(name, held)
            elif outcome is ScheduleOutcome.STARTED:
                run = self._started.get((name, instant))
                self._expect(run is not None, f"{_shown(name, instant)} is recorded as started, but has no run")
                is_open = held.run is not None and held.run not in self._ended and (name, instant) in created
                self._expect(not is_open, f"{_shown(name, instant)} is started while {held.run} is open")
                held.run = run
                if (name, instant) in created and is_news and run is not None:
                    commits = _in_force(self._commits, facts[0].at - BEGAN_AT)
                    revision = self._environment.shadows[run].revision
                    self._expect(revision in commits, f"{run} is of {revision}, and applied are {commits}")

    def _check_decision(self, name: Name, held: _Held, at: int, rows: list[Row]) -> None:
        walls, busy = self._walls(at), self._busy(held, at)
        named = [expected[name] for expected in self._wanted(at) if name in expected]
        right: list[list[Row]] = []
        for schedule, wall, is_busy in product(named, walls, busy):
            right.append(list(meant(schedule, held.handled_at, held.queue, wall, is_busy=is_busy)))
        if rows not in right:
            text = f"handled {held.handled_at - BEGAN_AT}, waiting {len(held.queue)}, wall {_since(walls)}, open {busy}"
            self._expect(False, f"{name} is decided {_texts(rows)}, not {list(map(_texts, right))} ({text}, {named})")

    def _must_go(self, name: Name, held: _Held) -> None:
        """An instant waits: with `overlap: cancel` the run before it must be cancelled soon."""
        schedule = self._repository.schedules(self._commits[-1][1]).get(name)
        is_cancelling = schedule is not None and schedule.overlap is Overlap.CANCEL
        if is_cancelling and held.run is not None and self._environment.healed_at is not None:
            self._cancelled.setdefault(held.run, self._environment.now_ms)

    # Past states, by the log's clock ----------------------------------------------------------------------------------

    def _walls(self, at: int) -> list[int]:
        """Returns what the wall clock may have shown."""
        return [at + offset for offset in _in_force(self._environment.wall_offsets, at - BEGAN_AT)]

    def _wanted(self, at: int) -> list[dict[Name, ScheduleTrigger]]:
        """Returns the schedules of the files that may have been applied."""
        return [self._repository.schedules(commit) for commit in _in_force(self._commits, at - BEGAN_AT)]

    def _busy(self, held: _Held, at: int) -> list[bool]:
        """Returns whether the newest run may have been open."""
        if held.run is None:
            return [False]
        ended = self._ended.get(held.run)
        if ended is None:
            return [True]
        now = at - BEGAN_AT
        return [True, False] if ended == now else [ended > now]

    # End of a simulation ---------------------------------------------------------------------------------------------------

    def what_is_open(self) -> str:
        """Describes what is due and not decided, or due soon; empty if there is nothing."""
        commit = self._repository.tip(MAIN)
        expected = self._repository.schedules(commit) if commit is not None else {}
        if self._held.keys() != expected.keys():
            return f"G6: schedules are {sorted(self._held)}, the files name {sorted(expected)}"
        wall = self._environment.wall_ms()
        for name, held in self._held.items():
            if held.handled_at - wall > BOUNDS["CLOCK_BACK_MAX_MS"]:
                return f"G6: {name} waits for a clock that is {held.handled_at - wall} ms behind"
            if held.queue:
                return f"G6: {len(held.queue)} instants of {name} wait"
            due = calendar.between(name[1], held.handled_at, wall + SOON_MS)
            if due:
                return f"G6: {_shown(name, due[0])} is not decided at {wall - BEGAN_AT}"
        return ""

    def _expect(self, is_kept: object, text: str) -> None:
        self._environment.expect(is_kept, f"G6: {text}")


def meant(
    schedule: ScheduleTrigger, handled_at: int, queue: Sequence[int], wall: int, *, is_busy: bool
) -> Iterator[Row]:
    """Yields what docs/schedules.md decides about every instant that waits or is due."""
    waiting = list(queue)
    if waiting and not is_busy:
        yield waiting.pop(0), ScheduleOutcome.STARTED, "waited", 1, False
        is_busy = True
    come = calendar.between(schedule.cron, handled_at, wall)
    newest, has_more = come[-BOUNDS["CATCH_UP_MAX"] - 1 :], len(come) > BOUNDS["CATCH_UP_MAX"] + 1
    late = {instant for instant in newest if wall - instant > BOUNDS["LATE_MS"]}
    if schedule.catch_up is CatchUp.NONE:
        given_up, code = [instant for instant in newest if instant in late], "catch-up-none"
    elif schedule.catch_up is CatchUp.LAST:
        given_up, code = newest[:-1], "catch-up-last"
    else:
        given_up, code = newest[: max(0, len(newest) - BOUNDS["CATCH_UP_MAX"])], "too-many"
    if given_up:
        yield given_up[-1], ScheduleOutcome.MISSED, code, len(given_up), has_more
    for instant in newest[len(given_up) :]:
        if not is_busy and not waiting:
            yield instant, ScheduleOutcome.STARTED, "caught-up" if instant in late else "on-time", 1, False
            is_busy = True
        elif schedule.overlap is Overlap.SKIP:
            yield instant, ScheduleOutcome.SKIPPED, "overlap", 1, False
        elif schedule.overlap is Overlap.QUEUE and len(waiting) == BOUNDS["QUEUE_MAX"]:
            yield instant, ScheduleOutcome.SKIPPED, "queue-full", 1, False
        else:
            if schedule.overlap is Overlap.CANCEL:
                yield from ((one, ScheduleOutcome.SKIPPED, "replaced", 1, False) for one in waiting)
                waiting.clear()
            waiting.append(instant)
            yield instant, ScheduleOutcome.QUEUED, "overlap", 1, False


def _in_force(history: Sequence[tuple[int, _Item]], now: int) -> list[_Item]:
    """Returns the values that held at a time of the simulation: one, or all of that millisecond."""
    found: list[_Item] = []
    for since, item in reversed(history):
        if since <= now:
            found.append(item)
        if since < now:
            break
    return found


def _is_start(fact: events.ScheduleDecided) -> bool:
    return fact.outcome is ScheduleOutcome.STARTED


def _since(walls: Sequence[int]) -> list[int]:
    return [wall - BEGAN_AT for wall in walls]


def _shown(name: Name, instant: int) -> str:
    return f"{name[0]} `{name[1]}` at {instant - BEGAN_AT}"


def _texts(rows: Sequence[Row]) -> list[str]:
    return [f"{instant - BEGAN_AT} {outcome.value} {code} {count}" for instant, outcome, code, count, _ in rows]
