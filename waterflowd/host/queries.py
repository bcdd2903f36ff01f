"""Reads runs from the durable log, for all readers outside the driver.

Rules of this file: the driver's own runs are ahead of the disk while a commit is in progress, so only the driver uses them.
Readers get runs that are folded from the log; a small cache keeps recently read runs and folds only new events. `at` is time
travel: the run after its first `at` events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from waterflow_agent.errors import Rejected, Stalled, WaterflowError
from waterflowd import ports
from waterflowd.engine import Run, evolve, fold
from waterflowd.engine.state.blocks import Attempt
from waterflowd.model import plan
from waterflowd.model.ids import AttemptId, RunId, is_run_id, run_stream

#: Runs in the cache; about 1 KB per step each.
CACHED_RUNS = 64


class RunQueries:
    """Reads runs from a log, with a cache."""

    def __init__(self, log: ports.Log) -> None:
        self._log = log
        self._cache: OrderedDict[RunId, Run] = OrderedDict()

    def known(self, run_id: RunId) -> Run | None:
        """The current run; None when the log has no such run, or cannot read it."""
        try:
            return self.run(run_id)
        except WaterflowError:
            return None

    def attempt(self, open_runs: Mapping[RunId, Run], name: AttemptId) -> Attempt | None:
        """The attempt, of an open run or of one in the log; None if there is none. `name` may come from anywhere."""
        run = open_runs.get(name.run)
        if run is None and is_run_id(name.run):
            run = self.known(name.run)
        return run.attempt(name.job, name.step, name.number) if run is not None else None

    def run(self, run_id: RunId, at: int | None = None) -> Run:
        """The run, now or after its first `at` events. Use it before the next call, which may change it in place."""
        cached = self._cache.get(run_id)
        if at is not None and (cached is None or cached.seq != at):
            return self._fold(run_id, at)
        if cached is None:
            cached = self._fold(run_id, None)
            self._cache[run_id] = cached
            if len(self._cache) > CACHED_RUNS:
                self._cache.popitem(last=False)
        elif at is None:
            try:
                for record in self._log.read(run_stream(run_id), cached.seq + 1):
                    evolve(cached, record.event)
            except WaterflowError:
                # Some of the new events may have been applied.
                del self._cache[run_id]
                raise
            self._cache.move_to_end(run_id)
        return cached

    def _fold(self, run_id: RunId, at: int | None) -> Run:
        records = self._log.read(run_stream(run_id), 1, at) if at is None or at >= 1 else []
        if not records or (at is not None and len(records) < at):
            where = f"run {run_id}" if at is None else f"event {at} of run {run_id}"
            raise Rejected("WF604", f"there is no {where}", status=404)
        compiled = self._log.plan(records[0].event.plan_hash)
        if compiled is None:
            raise Stalled("WF305", f"the plan of run {run_id} is missing from the log; run waterflowd fsck")
        return fold(run_id, plan.decode(compiled), (record.event for record in records))
