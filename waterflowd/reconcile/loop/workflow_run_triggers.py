"""Starts the workflows of one repository that have a `workflow_run` trigger.

Rules of this file:

- Level-triggered and durable: the feed is read on from the last handled position, so runs that completed while the daemon was
  down count. The position is recorded in the repository's stream, in one transaction with the runs that were started.
- Nothing is read while no file has such a trigger, and a file counts from the fact that added it. An update of the default ref
  records the position before it, so a completed run is not matched a second time against files that came later.
- `reconcile.workflow_run` decides; this module has the feed and the waiting. It keeps working while the remote cannot be
  reached, like the scheduler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.engine.events import RunCompleted, RunCreated
from waterflowd.model import chains
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import Record, RunSummary, StartRequest
from waterflowd.ports import RunEnds
from waterflowd.reconcile import events, workflow_run
from waterflowd.reconcile.loop.live_repository import LiveRepository
from waterflowd.reconcile.loop.plan_recovery import PlanRecovery, not_ready
from waterflowd.reconcile.loop.ports import LoopPorts
from waterflowd.reconcile.state import FileState, RefState

#: Records that are read before other tasks get the event loop.
_AT_ONCE = 200
#: Records after which the position is recorded even if they started nothing.
_RECORD_EVERY = 1_000
_BACKOFF = Backoff(first_s=0.5, max_s=60.0)
_RUN_STREAM = run_stream(RunId(""))

_logger = logging.getLogger("waterflow.reconcile")


class WorkflowRunTriggers:
    """Starts runs after completed runs of one repository. `run` is its task."""

    def __init__(
        self, repository: LiveRepository, plan_recovery: PlanRecovery, ports: LoopPorts, ends: RunEnds
    ) -> None:
        self._repository = repository
        self._plan_recovery = plan_recovery
        self._changed = repository.subscribe()
        self._name = repository.name
        self._log_fields = {"repository": self._name}
        self._ports = ports
        self._ends = ends
        self._failures = 0

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self._changed.clear()
            wait_s = await self._guarded_tick()
            if wait_s is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
            elif self._repository.handled_runs_seq is None:
                await self._changed.wait()
            else:
                await self._wait_for_news(self._repository.handled_runs_seq)

    async def _wait_for_news(self, seq: int) -> None:
        """Returns when there are records after `seq`, or the repository has changed."""
        changed = asyncio.ensure_future(self._changed.wait())
        new_records = asyncio.ensure_future(anext(self._ends.everything(seq)))
        try:
            await asyncio.wait((changed, new_records), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            new_records.cancel()
            await asyncio.gather(changed, new_records, return_exceptions=True)

    async def _guarded_tick(self) -> float | None:
        """Handles completed runs; returns the seconds to wait after a failure."""
        try:
            await self._tick()
        except WaterflowError as error:
            _logger.warning(
                "repository %s: workflow_run triggers are delayed: %s", self._name, error, extra=self._log_fields
            )
        except Exception:
            # A supervision point of repositories: an internal error here must not end the others' tasks.
            _logger.exception(
                "repository %s: internal error in workflow_run triggers", self._name, extra=self._log_fields
            )
        else:
            self._failures = 0
            return None
        self._failures += 1
        return _BACKOFF.delay_s(self._failures)

    async def _tick(self) -> None:
        await self._repository.fold()
        while True:
            ref = self._ref()
            files = workflow_run.triggered_files(ref) if not self._repository.state.is_suspended else {}
            if ref is None or not files:
                self._repository.runs_are_handled(None)
                return
            seq = self._repository.handled_runs_seq
            if seq is None:
                first = min(file.workflow_run_since for file in files.values())
                seq = max(self._repository.state.handled_runs_seq, first)
                self._repository.runs_are_handled(seq)
            records = self._ends.read(seq, _AT_ONCE)
            if not records:
                return
            for record in records:
                if self._repository.state.is_suspended:
                    # It was suspended while earlier runs were being handled.
                    break
                if isinstance(record.event, RunCompleted):
                    await self._completed(record, ref, files)
                seq = record.seq
                self._repository.runs_are_handled(seq)
            if seq - self._repository.state.handled_runs_seq >= _RECORD_EVERY:
                await self._repository.apply([self._handled(seq)], ())
            await asyncio.sleep(0)

    def _ref(self) -> RefState | None:
        """The default ref, once it is known which one that is."""
        watched = self._repository.watched()
        if self._repository.progress.fetched_at is None and len(watched) > 1:
            return None
        return next(iter(watched), None)

    async def _completed(self, record: Record, ref: RefState, files: dict[str, FileState]) -> None:
        run_id = RunId(record.stream.removeprefix(_RUN_STREAM))
        row = await self._ports.history.run(run_id)
        if row is None or row.repository != self._name:
            return
        matching = {
            path: file
            for path, file in files.items()
            if file.workflow_run is not None
            and (earlier := file.workflow_run_at(record.seq)) is not None
            and workflow_run.is_triggered(earlier, path, row)
            and workflow_run.is_triggered(file.workflow_run, path, row)
            and not self._repository.errors(file.newest)
            and await self._ports.history.run_for_key(workflow_run.trigger_key(run_id, path), self._name) is None
        }
        if not matching:
            return
        depth = await self._depth(run_id) + 1
        if depth > workflow_run.CHAIN_MAX:
            text = "%s: run %s triggers nothing: it is number %d in a chain of workflow_run triggers, the limit"
            _logger.warning(text, self._name, run_id, workflow_run.CHAIN_MAX, extra=self._log_fields)
            return
        await self._start(record, row, ref, matching, depth)

    async def _start(
        self, record: Record, row: RunSummary, ref: RefState, matching: dict[str, FileState], depth: int
    ) -> None:
        starts: list[StartRequest] = []
        for path, file in matching.items():
            plan = await self._ports.plans.get(file.newest.plan_hash or "")
            if plan is None:
                self._plan_recovery.request_now(ref.ref, file.newest)
                raise not_ready(path)
            starts.append(workflow_run.start_request(plan, self._name, ref, path, row, depth))
        try:
            await self._repository.apply([self._handled(record.seq)], starts)
        except Rejected as error:
            if error.is_limit:
                raise
            # One that can never start does not delay the others or later runs.
            for start in starts:
                await self._start_alone(start)
            await self._repository.apply([self._handled(record.seq)], ())
        _logger.info("%s: runs started after run %s: %d", self._name, row.id, len(starts), extra=self._log_fields)

    async def _start_alone(self, start: StartRequest) -> None:
        try:
            await self._ports.runs.start(start)
        except Rejected as error:
            if error.is_limit:
                raise
            _logger.warning("%s: run not started: %s", self._name, error, extra=self._log_fields)

    async def _depth(self, run_id: RunId) -> int:
        first = await self._ports.history.read(run_stream(run_id), 1, 1)
        created = first[0].event if first else None
        return chains.depth_of(created.trigger) if isinstance(created, RunCreated) else 0

    def _handled(self, seq: int) -> events.CompletedRunsHandled:
        return events.CompletedRunsHandled(at=self._ports.clock.now(), seq=seq)
