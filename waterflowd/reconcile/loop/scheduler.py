"""Starts the scheduled runs of one repository when they are due.

Rules of this file:

- `reconcile.schedules` decides; this module has the wall clock, the log and the waiting. It is the only writer of facts about
  schedules, so no decision is based on a state that something else has changed.
- It keeps working while the remote cannot be reached: a schedule belongs to the applied commit, which is stored locally.
- It reads the wall clock at least twice a minute, which bounds the effect of a clock that jumps or a machine that slept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec

from waterflow_agent.backoff import Backoff
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.dsl import cron
from waterflowd.model.ids import RunId
from waterflowd.model.plan import ScheduleTrigger
from waterflowd.model.statuses import Status
from waterflowd.reconcile import schedules
from waterflowd.reconcile.events import ScheduleDecided
from waterflowd.reconcile.loop.live_repository import LiveRepository
from waterflowd.reconcile.loop.plan_recovery import PlanRecovery, not_ready
from waterflowd.reconcile.loop.ports import LoopPorts
from waterflowd.reconcile.state import FileState, RefState, ScheduleName, ScheduleState

#: The longest sleep; bounds the effect of a wall clock that jumps.
_WAKE_S_MAX = 30.0
#: How often it checks whether the run that a queued one waits for has ended.
_WAITING_S = 1.0
_BACKOFF = Backoff(first_s=0.5, max_s=60.0)
#: Schedules that are handled before other tasks get the event loop.
_AT_ONCE = 50

_logger = logging.getLogger("waterflow.reconcile")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule and its current state, for listings."""

    schedule: ScheduleState
    trigger: ScheduleTrigger
    file: FileState
    next_at: int | None
    #: The newest run that it started.
    run: RunId | None


class Scheduler:
    """Starts the scheduled runs of one repository. `run` is its task."""

    def __init__(self, repository: LiveRepository, plan_recovery: PlanRecovery, ports: LoopPorts) -> None:
        self._repository = repository
        self._plan_recovery = plan_recovery
        self._changed = repository.subscribe()
        self._name = repository.name
        #: Fields of every line of the daemon's own log.
        self._log_fields = {"repository": self._name}
        self._ports = ports
        #: The time after which the next due time was computed, and the due time; None if it has no next one.
        self._next: dict[ScheduleName, tuple[int, int | None]] = {}
        #: The runs that have been cancelled for a newer one.
        self._cancelled: dict[ScheduleName, RunId] = {}
        self._failures = 0
        #: The ref and versions with which the armed schedules were last compared.
        self._compared: tuple[str, int, int, int] | None = None

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self._changed.clear()
            wait_s = await self._guarded_tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    async def rows(self, workflow: str | None) -> list[Row]:
        """The schedules by path, or those of one workflow (by path or name)."""
        wall_at = self._ports.wall()
        found: list[Row] = []
        for name, schedule in sorted(self._repository.state.schedules.items()):
            current = self._current(schedule)
            if current is None:
                continue
            _, file, trigger = current
            if workflow not in (None, name.path, file.newest.name):
                continue
            # The clock was wrong before; the schedule is about to start over.
            stale = schedules.went_back(schedule, wall_at)
            next_at = self._next_after(name, wall_at) if stale else self._next_of(schedule)
            run = await self._run_of(schedule)
            found.append(Row(schedule=schedule, trigger=trigger, file=file, next_at=next_at, run=run))
        return found

    # One tick

    async def _guarded_tick(self) -> float:
        try:
            wait_s = await self._tick()
        except WaterflowError as error:
            _logger.warning("repository %s: schedules are delayed: %s", self._name, error, extra=self._log_fields)
        except Exception:
            # A supervision point of repositories: an internal error here must not end the others' tasks.
            _logger.exception("repository %s: internal error in the scheduler", self._name, extra=self._log_fields)
        else:
            self._failures = 0
            return wait_s
        self._failures += 1
        return _BACKOFF.delay_s(self._failures)

    async def _tick(self) -> float:
        """Decides everything that is due; returns the seconds until more may be due."""
        # After a transaction that seemed to fail the state may be behind the log.
        await self._repository.fold()
        state = self._repository.state
        if state.is_suspended:
            return _WAKE_S_MAX
        await self._compare()
        wait_s = _WAKE_S_MAX
        failures: list[WaterflowError] = []
        for number, schedule in enumerate(list(state.schedules.values()), start=1):
            if number % _AT_ONCE == 0:
                # Many schedules are a lot of work, and other tasks need the event loop.
                await asyncio.sleep(0)
            if state.is_suspended:
                # It was suspended while another schedule was being decided.
                return _WAKE_S_MAX
            if schedules.is_due(schedule, self._next_of(schedule), self._ports.wall()):
                current = self._current(schedule)
                if current is None:
                    # No file contains it now; `_compare` drops it after the next reconciliation.
                    continue
                try:
                    await self._decide(schedule, *current)
                except WaterflowError as error:
                    # A schedule that cannot start now does not delay the others.
                    failures.append(error)
            wait_s = min(wait_s, self._wait_s(schedule))
        if failures:
            raise failures[0]
        return wait_s

    async def _compare(self) -> None:
        """Arms and drops schedules so that they equal those of the default ref, once it is known which one that is."""
        if self._repository.progress.fetched_at is None:
            return
        ref = self._repository.default_ref()
        version = ref.version if ref is not None else 0
        key = (ref.ref if ref is not None else "", version, self._ports.webhooks.version, self._ports.access.version)
        if key == self._compared:
            return
        at, wall_at = self._ports.clock.now(), self._ports.wall()
        facts = schedules.changes(self._repository.state.schedules, ref, self._may_start, at, wall_at)
        if facts:
            await self._repository.apply(facts, ())
        self._compared = key

    async def _decide(self, schedule: ScheduleState, ref: RefState, file: FileState, trigger: ScheduleTrigger) -> None:
        open_run = await self._open_run(schedule)
        at, wall_at = self._ports.clock.now(), self._ports.wall()
        decision = schedules.decide(schedule, trigger, wall_at, at, is_open=open_run is not None)
        if decision.start is not None:
            await self._start(decision, decision.start, schedule, ref, file, trigger)
        elif decision.facts:
            await self._repository.apply(decision.facts, ())
        for fact in decision.facts:
            if isinstance(fact, ScheduleDecided):
                _logger.info(
                    "%s %s: %s",
                    self._name,
                    escape_for_display(fact.path),
                    schedules.text_of(fact),
                    extra=self._log_fields,
                )
        if decision.is_cancelling:
            await self._cancel(schedule)

    async def _start(
        self,
        decision: schedules.Decision,
        due_at: int,
        schedule: ScheduleState,
        ref: RefState,
        file: FileState,
        trigger: ScheduleTrigger,
    ) -> None:
        plan = await self._ports.plans.get(file.newest.plan_hash or "")
        if plan is None:
            # Lost by a restart. Subscribers are notified when it is compiled again.
            self._plan_recovery.request_now(ref.ref, file.newest)
            raise not_ready(file.newest.path)
        request = schedules.start_request(plan, self._name, ref, schedule.name, trigger, due_at)
        try:
            await self._repository.apply(decision.facts, (request,))
        except Rejected as error:
            if error.is_limit:
                raise
            _logger.warning(
                "%s %s: scheduled run not started: %s",
                self._name,
                escape_for_display(schedule.name.path),
                error,
                extra=self._log_fields,
            )
            await self._repository.apply(schedules.refused(schedule, decision), ())

    async def _cancel(self, schedule: ScheduleState) -> None:
        run = await self._open_run(schedule)
        if run is not None and run != self._cancelled.get(schedule.name):
            await self._ports.runs.cancel(run, "schedule")
            self._cancelled[schedule.name] = run

    # What is known

    def _current(self, schedule: ScheduleState) -> tuple[RefState, FileState, ScheduleTrigger] | None:
        """The applied file that has the schedule, and its trigger there; None if no file contains it now."""
        ref = self._repository.state.refs.get(schedule.ref)
        file = ref.files.get(schedule.name.path) if ref is not None and not ref.is_removed else None
        if ref is None or file is None or not self._may_start(file):
            return None
        named = (
            trigger
            for trigger in schedules.of_file(file)
            if schedules.name_of(schedule.name.path, trigger) == schedule.name
        )
        return next(((ref, file, trigger) for trigger in named), None)

    def _may_start(self, file: FileState) -> bool:
        return not self._repository.errors(file.newest)

    async def _run_of(self, schedule: ScheduleState) -> RunId | None:
        if schedule.started_at is None:
            return None
        return await self._ports.history.run_for_key(
            schedules.trigger_key(self._name, schedule.name, schedule.started_at), self._name
        )

    async def _open_run(self, schedule: ScheduleState) -> RunId | None:
        """The newest run, if it is still open."""
        run = await self._run_of(schedule)
        row = await self._ports.history.run(run) if run is not None else None
        return run if row is not None and row.status is not Status.COMPLETED else None

    def _next_of(self, schedule: ScheduleState) -> int | None:
        """The next due time that is not decided yet."""
        known = self._next.get(schedule.name)
        if known is None or known[0] != schedule.handled_at:
            known = self._next[schedule.name] = (
                schedule.handled_at,
                self._next_after(schedule.name, schedule.handled_at),
            )
        return known[1]

    def _next_after(self, name: ScheduleName, after: int) -> int | None:
        return next(iter(cron.upcoming(name.cron, name.timezone, after, 1)), None)

    def _wait_s(self, schedule: ScheduleState) -> float:
        if schedule.queued:
            return _WAITING_S
        next_at = self._next_of(schedule)
        return _WAKE_S_MAX if next_at is None else max(0.0, (next_at - self._ports.wall()) / 1_000)
