"""Starts the workflows of one repository that start after others.

Rules of this file:

- Level-triggered and durable: the log is read from where the last start left off, so a run that completed while the daemon
  was down counts. Where that is stands in the repository's stream, in the same transaction as the runs that it started.
- Nothing is read while no file follows another, and a file counts from the fact that brought it. A movement of the default ref
  records how far was read before it, so a run is not judged a second time by files that came later.
- `following` decides; here are the log and the waiting. It goes on while the remote cannot be reached, as schedules do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from waterflow_agent.backoff import Backoff
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable, WaterflowError
from waterflowd.engine.events import RunCompleted, RunCreated
from waterflowd.model import chains
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import Record, RunSummary, StartRequest
from waterflowd.reconcile import codes, events, workflow_run
from waterflowd.reconcile.loop.repository import LoopPorts, RepositoryLoop
from waterflowd.reconcile.state import FileState, RefState

#: Records that are read before others have the loop.
_AT_ONCE = 200
#: Records after which the log says that nothing in them was followed.
_MARK_EVERY = 1_000
#: How often the log is asked when nobody tells of new records.
_UNTOLD_S = 0.05
_BACKOFF = Backoff(first_s=0.5, max_s=60.0)
#: `Rejected` with this status means too many open runs, which passes.
_BUSY = 429
_RUN_STREAM = run_stream(RunId(""))

_logger = logging.getLogger("waterflow.reconcile")


class WorkflowRunTriggers:
    """Follows the completed runs of one repository. `run` is its task."""

    def __init__(self, loop: RepositoryLoop, ports: LoopPorts) -> None:
        self._loop = loop
        self._name = loop.settings.name
        self._about = {"repository": self._name}
        self._ports = ports
        self._failures = 0

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self._loop.is_news.clear()
            wait_s = await self._guarded_tick()
            if wait_s is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._loop.is_news.wait()
            elif self._loop.handled_runs_seq is None:
                await self._loop.is_news.wait()
            else:
                await self._news(self._loop.handled_runs_seq)

    async def _news(self, seq: int) -> None:
        """Returns when there are records after `seq`, or the repository has changed."""
        feed = self._ports.feed
        changed = asyncio.ensure_future(self._loop.is_news.wait())
        told = asyncio.ensure_future(anext(feed.subscribe(None, seq)) if feed is not None else asyncio.sleep(_UNTOLD_S))
        try:
            await asyncio.wait((changed, told), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            told.cancel()
            await asyncio.gather(changed, told, return_exceptions=True)

    async def _guarded_tick(self) -> float | None:
        """Handles what has completed; gives the seconds to wait after a failure."""
        try:
            await self._tick()
        except WaterflowError as error:
            _logger.warning("repository %s: runs that follow wait: %s", self._name, error, extra=self._about)
        except Exception:
            # The supervision point of repositories, as for a look: a fault here must not end the others' loops.
            _logger.exception("repository %s: following runs failed", self._name, extra=self._about)
        else:
            self._failures = 0
            return None
        self._failures += 1
        return _BACKOFF.delay_s(self._failures)

    async def _tick(self) -> None:
        self._loop.fold()
        while True:
            ref = self._ref()
            files = workflow_run.triggered_files(ref) if not self._loop.state.is_suspended else {}
            if ref is None or not files:
                self._loop.handled_runs_seq = None
                return
            if self._loop.handled_runs_seq is None:
                first = min(file.workflow_run_since for file in files.values())
                self._loop.handled_runs_seq = max(self._loop.state.handled_runs_seq, first)
            records = self._ports.log.feed(self._loop.handled_runs_seq, _AT_ONCE)
            if not records:
                return
            for record in records:
                if self._loop.state.is_suspended:
                    # Somebody did it while the runs before were being followed.
                    break
                if isinstance(record.event, RunCompleted):
                    await self._completed(record, ref, files)
                self._loop.handled_runs_seq = record.seq
            if self._loop.handled_runs_seq - self._loop.state.handled_runs_seq >= _MARK_EVERY:
                await self._loop.apply([self._mark(self._loop.handled_runs_seq)], ())
            await asyncio.sleep(0)

    def _ref(self) -> RefState | None:
        """The default ref, once it is certain which one that is."""
        watched = self._loop.watched()
        if self._loop.progress.fetched_at is None and len(watched) > 1:
            return None
        return next(iter(watched), None)

    async def _completed(self, record: Record, ref: RefState, files: dict[str, FileState]) -> None:
        run_id = RunId(record.stream.removeprefix(_RUN_STREAM))
        row = self._ports.log.run(run_id)
        if row is None or row.repository != self._name:
            return
        followed = {
            path: file
            for path, file in files.items()
            if file.workflow_run is not None
            and (asked := file.workflow_run_at(record.seq)) is not None
            and workflow_run.is_triggered(asked, path, row)
            and workflow_run.is_triggered(file.workflow_run, path, row)
            and not self._loop.errors(file.newest)
            and self._ports.log.run_for_key(workflow_run.trigger_key(run_id, path)) is None
        }
        if not followed:
            return
        depth = self._depth(run_id) + 1
        if depth > workflow_run.CHAIN_MAX:
            text = "%s: run %s is the %dth in a row that started one another: nothing starts after it"
            _logger.warning(text, self._name, run_id, workflow_run.CHAIN_MAX, extra=self._about)
            return
        await self._start(record, row, ref, followed, depth)

    async def _start(
        self, record: Record, row: RunSummary, ref: RefState, followed: dict[str, FileState], depth: int
    ) -> None:
        starts: list[StartRequest] = []
        for path, file in followed.items():
            plan = self._ports.plans.get(file.newest.plan_hash or "")
            if plan is None:
                self._loop.want_plan(ref.ref, file.newest)
                text = f'the workflow "{escape_for_display(path)}" is compiled again after a restart'
                raise Retryable(codes.PLAN_NOT_READY, text)
            starts.append(workflow_run.start_request(plan, self._name, ref, path, row, depth))
        try:
            await self._loop.apply([self._mark(record.seq)], starts)
        except Rejected as error:
            if error.status == _BUSY:
                raise
            # One that can never start does not hold up the others, nor what comes later.
            for start in starts:
                await self._start_alone(start)
            await self._loop.apply([self._mark(record.seq)], ())
        _logger.info("%s: started after run %s: %d", self._name, row.id, len(starts), extra=self._about)

    async def _start_alone(self, start: StartRequest) -> None:
        try:
            await self._ports.runs.start(start)
        except Rejected as error:
            if error.status == _BUSY:
                raise
            _logger.warning("%s: not started: %s", self._name, error, extra=self._about)

    def _depth(self, run_id: RunId) -> int:
        first = self._ports.log.read(run_stream(run_id), 1, 1)
        created = first[0].event if first else None
        return chains.depth_of(created.trigger) if isinstance(created, RunCreated) else 0

    def _mark(self, seq: int) -> events.CompletedRunsHandled:
        return events.CompletedRunsHandled(at=self._ports.clock.now(), seq=seq)
