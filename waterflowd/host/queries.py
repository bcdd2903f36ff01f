"""RunQueries: runs as they stand in the durable log, for whoever looks.

Rules of this file: the driver's own runs are ahead of the disk while a commit is on its way, so nobody but the driver sees
them. What is shown is folded from the log again; a small cache keeps the runs that somebody watches and folds only what is
new. `at` is time travel: the run after its first `at` events.
"""

from __future__ import annotations

from collections import OrderedDict

from waterflow_agent.errors import Rejected, Stalled, WaterflowError
from waterflowd import ports
from waterflowd.engine import Run, evolve, fold
from waterflowd.model import plan
from waterflowd.model.ids import RUN_ID_LENGTH, RunId, is_run_id, run_stream

#: Runs that are watched at the same time without folding them anew; about 1 KB a step each.
CACHED_RUNS = 64


class RunQueries:
    """Reads runs from a log."""

    def __init__(self, log: ports.Log) -> None:
        self._log = log
        self._cache: OrderedDict[RunId, Run] = OrderedDict()

    def find(self, text: str) -> RunId:
        """The run that a whole or partial id names. `Rejected` WF604 (404) for no run, WF606 (409) for several."""
        wanted = text.upper()
        if is_run_id(wanted) and self._log.run(RunId(wanted)) is not None:
            return RunId(wanted)
        if len(wanted) >= RUN_ID_LENGTH or not wanted.isalnum() or not wanted.isascii():
            raise Rejected("WF604", f'there is no run "{text[:40]}"; waterflowctl runs shows them', status=404)
        found = self._log.runs_by_prefix(wanted, 2)
        if not found:
            raise Rejected(
                "WF604", f'there is no run that begins with "{text}"; waterflowctl runs shows them', status=404
            )
        if len(found) > 1:
            raise Rejected("WF606", f'"{text}" is the beginning of several runs; give more of it', status=409)
        return found[0]

    def known(self, run_id: RunId) -> Run | None:
        """The run as of now; None when the log has none of this id, or none that can be read."""
        try:
            return self.run(run_id)
        except WaterflowError:
            return None

    def run(self, run_id: RunId, at: int | None = None) -> Run:
        """The run, now or after its first `at` events. Read it at once: a later call may change it in place."""
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
                # What could not be applied whole may have been applied in part.
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
            raise Stalled("WF305", f"the plan of run {run_id} is missing from the store; run waterflowd fsck")
        return fold(run_id, plan.decode(compiled), (record.event for record in records))
