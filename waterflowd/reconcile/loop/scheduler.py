"""The schedules of one repository in real time: when the next instant comes, what becomes of it, and the run that it starts.

Rules of this file:

- `schedules` decides; here are the wall clock, the log's answers, and the waiting. It is the only writer of facts about
  schedules, so a decision is never made on a state that another one has changed.
- It goes on while the remote cannot be reached: a schedule belongs to the applied commit, which is here.
- It looks at the wall clock twice a minute at least, so a clock that jumps, or a machine that slept, costs no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec

from waterflow_agent.backoff import Backoff
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable, WaterflowError
from waterflowd.dsl import cron
from waterflowd.model.ids import RunId
from waterflowd.model.plan import ScheduleTrigger
from waterflowd.model.statuses import Status
from waterflowd.reconcile import codes, schedules
from waterflowd.reconcile.events import ScheduleDecided
from waterflowd.reconcile.loop.repository import LoopPorts, RepositoryLoop
from waterflowd.reconcile.state import FileState, RefState, ScheduleName, ScheduleState

#: The longest sleep; bounds the effect of a wall clock that jumps.
_WAKE_S_MAX = 30.0
#: How often somebody looks whether the run has ended that an instant waits for.
_WAITING_S = 1.0
_BACKOFF = Backoff(first_s=0.5, max_s=60.0)
#: Schedules that are looked at before others have the loop.
_AT_ONCE = 50
#: `Rejected` with this status means too many open runs, which passes.
_BUSY = 429

_logger = logging.getLogger("waterflow.reconcile")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule with what is known of it now."""

    held: ScheduleState
    trigger: ScheduleTrigger
    file: FileState
    next_at: int | None
    #: The run of the newest instant that was started.
    run: RunId | None


class Scheduler:
    """Starts what the schedules of one repository say. `run` is its task."""

    def __init__(self, loop: RepositoryLoop, ports: LoopPorts) -> None:
        self._loop = loop
        self._name = loop.settings.name
        #: Fields of every line of the daemon's own log.
        self._about = {"repository": self._name}
        self._ports = ports
        #: Where the next instant was looked for from, and where it is; None when the calendar has no more.
        self._next: dict[ScheduleName, tuple[int, int | None]] = {}
        #: The runs that were asked to end.
        self._cancelled: dict[ScheduleName, RunId] = {}
        self._failures = 0
        #: What the held schedules were compared with last.
        self._compared: tuple[str, int, int] | None = None

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self._loop.changed.clear()
            wait_s = await self._guarded_tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._loop.changed.wait()

    def rows(self, workflow: str | None) -> list[Row]:
        """The schedules by path, or those of one workflow (by path or name)."""
        wall_at = self._ports.wall()
        found: list[Row] = []
        for name, held in sorted(self._loop.state.schedules.items()):
            current = self._current(held)
            if current is None:
                continue
            _, file, trigger = current
            if workflow not in (None, name.path, file.newest.name):
                continue
            # After a clock that stood wrong the schedule is about to count anew.
            stale = schedules.went_back(held, wall_at)
            next_at = self._next_after(name, wall_at) if stale else self._next_of(held)
            run = self._run_of(held)
            found.append(Row(held=held, trigger=trigger, file=file, next_at=next_at, run=run))
        return found

    # One tick

    async def _guarded_tick(self) -> float:
        try:
            wait_s = await self._tick()
        except WaterflowError as error:
            _logger.warning("repository %s: schedules wait: %s", self._name, error, extra=self._about)
        except Exception:
            # The supervision point of repositories, as for a look: a fault here must not end the others' loops.
            _logger.exception("repository %s: schedules failed", self._name, extra=self._about)
        else:
            self._failures = 0
            return wait_s
        self._failures += 1
        return _BACKOFF.delay_s(self._failures)

    async def _tick(self) -> float:
        """Decides everything that has come; gives the seconds until more may have."""
        # After a transaction that seemed to fail the state may be behind the log.
        self._loop.fold()
        state = self._loop.state
        if state.is_suspended:
            return _WAKE_S_MAX
        await self._compare()
        wait_s = _WAKE_S_MAX
        failures: list[WaterflowError] = []
        for number, held in enumerate(list(state.schedules.values()), start=1):
            if number % _AT_ONCE == 0:
                # Many schedules are much work, and others wait for the loop.
                await asyncio.sleep(0)
            if state.is_suspended:
                # Somebody did it while another schedule was being decided.
                return _WAKE_S_MAX
            if schedules.is_due(held, self._next_of(held), self._ports.wall()):
                current = self._current(held)
                if current is None:
                    # Nothing names it any more; the next look will say so, and `_compare` drops it.
                    continue
                try:
                    await self._decide(held, *current)
                except WaterflowError as error:
                    # One that cannot start now does not hold up the others.
                    failures.append(error)
            wait_s = min(wait_s, self._wait_s(held))
        if failures:
            raise failures[0]
        return wait_s

    async def _compare(self) -> None:
        """Arms and drops schedules, so that they are those of the default ref; once somebody has seen which one that is."""
        if self._loop.progress.fetched_at is None:
            return
        ref = self._loop.default_ref()
        key = (ref.ref if ref is not None else "", ref.version if ref is not None else 0, self._ports.webhooks.version)
        if key == self._compared:
            return
        at, wall_at = self._ports.clock.now(), self._ports.wall()
        facts = schedules.changes(self._loop.state.schedules, ref, self._may_start, at, wall_at)
        if facts:
            await self._loop.apply(facts, ())
        self._compared = key

    async def _decide(self, held: ScheduleState, ref: RefState, file: FileState, trigger: ScheduleTrigger) -> None:
        open_run = self._open_run(held)
        at, wall_at = self._ports.clock.now(), self._ports.wall()
        decision = schedules.decide(held, trigger, wall_at, at, is_open=open_run is not None)
        if decision.start is not None:
            await self._start(decision, decision.start, held, ref, file, trigger)
        elif decision.facts:
            await self._loop.apply(decision.facts, ())
        for fact in decision.facts:
            if isinstance(fact, ScheduleDecided):
                _logger.info(
                    "%s %s: %s",
                    self._name,
                    escape_for_display(fact.path),
                    schedules.text_of(fact),
                    extra=self._about,
                )
        if decision.is_cancelling:
            await self._cancel(held)

    async def _start(
        self,
        decision: schedules.Decision,
        instant: int,
        held: ScheduleState,
        ref: RefState,
        file: FileState,
        trigger: ScheduleTrigger,
    ) -> None:
        plan = self._ports.plans.get(file.newest.plan_hash or "")
        if plan is None:
            # Lost by a restart, and no run has brought it into the log: `changed` is set when it is compiled again.
            self._loop.want_plan(ref.ref, file.newest)
            text = f'the workflow "{escape_for_display(file.newest.path)}" is compiled again after a restart'
            raise Retryable(codes.PLAN_NOT_READY, text)
        request = schedules.start_request(plan, self._name, ref, held.name, trigger, instant)
        try:
            await self._loop.apply(decision.facts, (request,))
        except Rejected as error:
            if error.status == _BUSY:
                raise
            _logger.warning(
                "%s %s: not started: %s", self._name, escape_for_display(held.name.path), error, extra=self._about
            )
            await self._loop.apply(schedules.refused(held, decision), ())

    async def _cancel(self, held: ScheduleState) -> None:
        run = self._open_run(held)
        if run is not None and run != self._cancelled.get(held.name):
            await self._ports.runs.cancel(run, "schedule")
            self._cancelled[held.name] = run

    # What is known

    def _current(self, held: ScheduleState) -> tuple[RefState, FileState, ScheduleTrigger] | None:
        """The applied file that names the schedule, with its own words for it; None where none does any more."""
        ref = self._loop.state.refs.get(held.ref)
        file = ref.files.get(held.name.path) if ref is not None and not ref.is_removed else None
        if ref is None or file is None or not self._may_start(file):
            return None
        named = (
            trigger for trigger in schedules.of_file(file) if schedules.name_of(held.name.path, trigger) == held.name
        )
        return next(((ref, file, trigger) for trigger in named), None)

    def _may_start(self, file: FileState) -> bool:
        return not self._loop.errors(file.newest)

    def _run_of(self, held: ScheduleState) -> RunId | None:
        if held.started_at is None:
            return None
        return self._ports.log.run_for_key(schedules.trigger_key(self._name, held.name, held.started_at))

    def _open_run(self, held: ScheduleState) -> RunId | None:
        """The run of the newest instant, if it is still open."""
        run = self._run_of(held)
        row = self._ports.log.run(run) if run is not None else None
        return run if row is not None and row.status is not Status.COMPLETED else None

    def _next_of(self, held: ScheduleState) -> int | None:
        """The next instant that is not decided yet."""
        known = self._next.get(held.name)
        if known is None or known[0] != held.handled_at:
            known = self._next[held.name] = (held.handled_at, self._next_after(held.name, held.handled_at))
        return known[1]

    def _next_after(self, name: ScheduleName, after: int) -> int | None:
        return next(iter(cron.upcoming(name.cron, name.timezone, after, 1)), None)

    def _wait_s(self, held: ScheduleState) -> float:
        if held.queued:
            return _WAITING_S
        next_at = self._next_of(held)
        return _WAKE_S_MAX if next_at is None else max(0.0, (next_at - self._ports.wall()) / 1_000)
