"""Reads runs from the durable log, for all readers outside the driver.

Rules of this file: the driver's own runs are ahead of the disk while a commit is in progress, so only the driver uses them.
Readers get runs that are folded from the log; a small cache keeps recently read runs and folds only new events. `at` is time
travel: the run after its first `at` events.

Reading is divided work (time_slices.py), because a run may have tens of thousands of events. The cache may hold a run of which
only the first events have been applied; several readers of one run continue where the last one was interrupted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from waterflow_agent.errors import Rejected, Stalled, WaterflowError
from waterflowd import ports
from waterflowd.engine import Run, evolve
from waterflowd.model import plan
from waterflowd.model.ids import RunId, is_run_id, run_stream
from waterflowd.time_slices import Work, finish

#: Runs in the cache, and their events in total: 1 to 2 KB of memory for each event. The run that was read last is always kept.
CACHED_RUNS = 64
CACHED_EVENTS = 50_000
#: Events that are applied before a reader can be interrupted: a millisecond. Divides the distance between the log's marks.
_EVENTS = 64


class RunQueries:
    """Reads runs from a log, with a cache."""

    def __init__(self, log: ports.Journal) -> None:
        self._log = log
        self._cache: OrderedDict[RunId, Run] = OrderedDict()

    def known(self, run_id: RunId) -> Run | None:
        """The current run; None when the log has no such run, or cannot read it."""
        try:
            return self.run(run_id)
        except WaterflowError:
            return None

    def forget(self, run_id: RunId) -> None:
        """The run was removed."""
        self._cache.pop(run_id, None)

    def find(self, open_runs: Mapping[RunId, Run], run_id: RunId) -> Run | None:
        """The run, open or in the log; None if there is none. `run_id` may come from anywhere."""
        run = open_runs.get(run_id)
        return self.known(run_id) if run is None and is_run_id(run_id) else run

    def run(self, run_id: RunId) -> Run:
        """The run as it is now. Use it before the next call, which may change it in place."""
        return finish(self.read(run_id))

    def read(self, run_id: RunId, at: int | None = None) -> Work[Run]:
        """The run, now or after its first `at` events. Use it before the next call or `await`, after which it may change."""
        run = self._cache.get(run_id)
        if at is not None and (run is None or run.seq != at):
            return (yield from self._apply(self._begin(run_id, at), at))
        if run is None:
            run = self._cache[run_id] = self._begin(run_id, None)
        self._cache.move_to_end(run_id)
        try:
            yield from self._apply(run, at)
            self._shrink()
            return run
        except WaterflowError:
            # Some of the new events may have been applied.
            self._cache.pop(run_id, None)
            raise

    def _shrink(self) -> None:
        """Removes the runs that were not read for the longest time while the cache is too large."""
        while len(self._cache) > 1 and (len(self._cache) > CACHED_RUNS or self._events() > CACHED_EVENTS):
            self._cache.popitem(last=False)

    def _events(self) -> int:
        return sum(run.seq for run in self._cache.values())

    def _begin(self, run_id: RunId, at: int | None) -> Run:
        """The run before its first event."""
        records = self._log.read(run_stream(run_id), 1, 1) if at is None or at >= 1 else []
        if not records or (at is not None and at > self._log.head(run_stream(run_id))):
            where = f"run {run_id}" if at is None else f"event {at} of run {run_id}"
            raise Rejected("WF604", f"there is no {where}", status=404)
        return Run(run_id, self._plan(run_id, records[0].event.plan_hash))

    def _plan(self, run_id: RunId, plan_hash: str) -> plan.Plan:
        """The run's plan, which it shares with the other runs of the same plan in the cache."""
        for run in self._cache.values():
            if run.plan_hash == plan_hash:
                return run.plan
        compiled = self._log.plan(plan_hash)
        if compiled is None:
            raise Stalled("WF305", f"the plan of run {run_id} is missing from the log; run waterflowd fsck")
        return plan.decode(compiled)

    def _apply(self, run: Run, at: int | None) -> Work[Run]:
        """Applies the events that the run does not have yet, up to event `at`."""
        while at is None or run.seq < at:
            # To the next multiple of `_EVENTS`, so that the log begins to read at one of its marks.
            count = _EVENTS - run.seq % _EVENTS
            records = self._log.read(run_stream(run.id), run.seq + 1, count if at is None else min(count, at - run.seq))
            for record in records:
                evolve(run, record.event)
            if len(records) < count:
                break
            yield
        return run
