"""The driver: owns the open runs and is the only writer of the log.

Every batch follows the same order:

1. take all inputs that have arrived and run `step` for each (batch.py); this advances the driver's own runs;
2. append all their events in one transaction; meanwhile the event loop collects more inputs;
3. once the events are on disk: wake the feed, answer callers, acknowledge agents, send messages.

Nothing is acknowledged, sent or shown before step 2 is done. When a commit fails because the disk is full, nothing of the
batch has happened: the touched runs are folded from the log again, and callers get the error. Work that no caller would
repeat (reports, whose acknowledgements are cumulative, and findings of the host itself) is retried before any newer work.
Any other failure of a commit ends the daemon, which restarts and verifies the log.

There is no shutdown work: stopping is like crashing at a convenient moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.dispatch import lowering
from waterflowd.engine import Run, commands, events, fold, inputs
from waterflowd.engine.decide import decide
from waterflowd.engine.rules import approvals
from waterflowd.host import child_runs
from waterflowd.host.batch import BatchBuilder
from waterflowd.host.feed import Feed
from waterflowd.host.live_state import LiveState
from waterflowd.host.metrics import CommitMetrics
from waterflowd.host.queries import RunQueries
from waterflowd.host.recovery import DeferredCommand, resume
from waterflowd.host.run_logging import log_batch
from waterflowd.host.run_summary import summary
from waterflowd.host.turn import check_storable
from waterflowd.model import accesses, ids, plan
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId, StepId, StreamName, run_stream
from waterflowd.model.records import RemovedPiece, RunSummary, StartRequest, Trigger

logger = logging.getLogger("waterflow.host")

#: Work items in one batch, and timers; bounds how long a batch blocks the event loop (about 0.2 s of small steps).
BATCH_ITEMS_MAX = 1000
#: Open runs; beyond it a start is refused.
OPEN_RUNS_MAX = 20_000
#: Why starts are refused before the disk is really full.
DISK_LOW = "disk almost full: running work continues, new runs are refused; free some space"
#: Pause after a full disk, before the next try.
DISK_FULL_PAUSE_S = 1.0
#: Cached decoded plans; runs of one plan share it.
PLANS_CACHED = 256
#: The longest sleep of the loop: bounds the effect of a suspended clock.
WAKE_S_MAX = 30.0


class _Item(msgspec.Struct, frozen=True):
    """Work for the next batch. `apply` fills the batch; after the commit `done` is called, or `failed` if it failed.

    Without `failed` there is no caller who could repeat it: the item is kept until it is durable.
    """

    apply: Callable[[BatchBuilder], object]
    done: Callable[[], None]
    failed: Callable[[WaterflowError], None] | None


class PreparedStart(msgspec.Struct, frozen=True, kw_only=True):
    """A checked start: its first input, without a number, and a new id."""

    run: RunId
    path: str
    plan: bytes
    start: inputs.StartRun
    #: When it was prepared.
    at: int


def runs_left(open_count: int, fresh: int) -> int:
    """How many runs may be open besides. Raises `Rejected` WF609 if the fresh ones are too many."""
    left = OPEN_RUNS_MAX - open_count - fresh
    if left < 0:
        raise Rejected("WF609", f"limit of {OPEN_RUNS_MAX} open runs reached; wait, or cancel some", status=429)
    return left


def check_share(repository: str, own: int, fresh: int, left: int) -> None:
    """Raises `Rejected` WF609 if a repository with `own` open runs would have more than it leaves to others, or one."""
    if own + fresh > left + 1:
        text = f'repository "{repository}" has {own} open runs, and may not have more than it leaves to others'
        raise Rejected("WF609", f"{text} ({left} of {OPEN_RUNS_MAX}); wait, or cancel some", status=429)


class Driver:
    """See the file's docstring. Implements `ports.Runs`."""

    def __init__(
        self,
        state: LiveState,
        log: ports.Journal,
        link: ports.Link,
        clock: ports.Clock,
        feed: Feed,
        queries: RunQueries,
    ) -> None:
        self.state = state
        self._queries = queries
        self._log = log
        self._link = link
        self._clock = clock
        self._feed = feed
        self.metrics = CommitMetrics()
        self._items: deque[_Item] = deque()
        self._wake = asyncio.Event()
        #: Set while nothing is waiting for a batch, nor a batch for the disk.
        self._idle = asyncio.Event()
        self._plans: dict[str, plan.Plan] = {}
        #: Repositories and plans that the configuration permits; it does not change while the daemon runs.
        self._permitted: set[tuple[str | None, str]] = set()
        #: The runs are ahead of the log: a commit is in progress.
        self.is_ahead = False
        #: Why nothing can be written at the moment; empty if writing works.
        self.read_only = ""
        #: Why nothing will ever be written again.
        self._ended: Stalled | None = None

    @property
    def is_busy(self) -> bool:
        """Whether work waits for a batch, or a batch for its commit."""
        return not self._idle.is_set()

    # Recovery ---------------------------------------------------------------------------------------------------------

    def recover(self) -> int:
        """Folds all open runs and resumes them; returns their number. Called once, before `run`."""
        self._resume(list(self._log.open_runs()))
        return len(self.state.runs)

    def _resume(self, run_ids: Sequence[RunId]) -> None:
        """Folds runs from the log and resumes their outstanding work, partly in the next batch."""
        deferred: list[tuple[RunId, DeferredCommand]] = []
        for run_id in run_ids:
            try:
                deferred.extend((run_id, command) for command in resume(self.state, self._fold(run_id)))
            except Exception as error:  # noqa: BLE001  supervision point: one run's log must not stop the other runs
                logger.error("run %s is stalled: %s", run_id, error, extra={"run": run_id})
                self.state.drop(run_id)
                self.state.stalled[run_id] = str(error)
        if run_ids:
            # Even without deferred commands: the batch assigns the locks of concurrency groups.
            self._submit(lambda batch: batch.carry_out_deferred(deferred))

    def _fold(self, run_id: RunId) -> Run:
        history = [record.event for record in self._log.read(run_stream(run_id))]
        created = history[0] if history else None
        compiled = self._log.plan(created.plan_hash) if isinstance(created, events.RunCreated) else None
        if not isinstance(created, events.RunCreated) or compiled is None:
            raise Stalled("WF305", "its first event or its plan is missing from the log; run waterflowd fsck")
        run = self.state.runs[run_id] = fold(run_id, self._decode(created.plan_hash, compiled), history)
        self.state.stalled.pop(run_id, None)
        return run

    def _decode(self, plan_hash: str, compiled: bytes) -> plan.Plan:
        found = self._plans.get(plan_hash)
        if found is None:
            if len(self._plans) >= PLANS_CACHED:
                self._plans.pop(next(iter(self._plans)))
            found = self._plans[plan_hash] = plan.decode(compiled)
        return found

    # The loop ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Makes batches forever. Raises `Stalled` when the log can no longer be written."""
        while True:
            await self._next_work()
            await self._make_batch()

    async def _next_work(self) -> None:
        if self._items:
            return
        self._wake.clear()
        self._idle.set()
        next_at = self.state.timers.next_at
        delay_s = WAKE_S_MAX if next_at is None else min(WAKE_S_MAX, max(0.0, (next_at - self._clock.now()) / 1000))
        handle = asyncio.get_running_loop().call_later(delay_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            self._idle.clear()
            handle.cancel()

    async def _make_batch(self) -> None:
        now = self._clock.now()
        batch = BatchBuilder(self.state, now, self._log)
        for run_id, timer in self.state.timers.due(now, BATCH_ITEMS_MAX):
            batch.feed(run_id, inputs.TimerFired(timer=timer))
        items: list[_Item] = []
        while self._items and len(items) < BATCH_ITEMS_MAX:
            item = self._items.popleft()
            try:
                item.apply(batch)
            except WaterflowError as error:
                if item.failed is None:
                    logger.error("dropped an item: %s", error)
                else:
                    item.failed(error)
            else:
                items.append(item)
        batch.assign()
        contents = batch.seal()
        if not contents.is_empty:
            began = time.monotonic()
            self.is_ahead = True
            try:
                await self._log.append(contents)
            except Retryable as error:
                await self._undo(batch, items, error)
                return
            except Stalled as error:
                self._end(items, error)
                raise
            self.metrics.add(contents, time.monotonic() - began)
            log_batch(contents)
            self.read_only = ""
        self._publish(batch, items)

    def _publish(self, batch: BatchBuilder, items: list[_Item]) -> None:
        self.is_ahead = False
        for run_id in batch.completed:
            self.state.drop(run_id)
        contents = batch.contents
        self._feed.published([append.stream for append in contents.appends])
        if contents.removed_runs:
            self._feed.published(run_stream(removal.run) for removal, _ in contents.removed_runs)
        for item in items:
            item.done()
        for agent, outgoing in batch.outbox.items():
            if agent in batch.settled:
                # Its settlement has just sent everything outstanding.
                continue
            # The agent would refuse an offer for an earlier instance of itself; the settlement offers the task again.
            instance = self.state.placement.server(agent).instance
            current = [
                message
                for message in outgoing
                if not isinstance(message, messages.Offer) or message.task.instance == instance
            ]
            self._link.send(agent, current)

    async def _undo(self, batch: BatchBuilder, items: list[_Item], error: Retryable) -> None:
        """Undoes a batch that was not committed: restores the touched runs from the log."""
        self.read_only = error.text
        logger.error("read-only: %s", error.text)
        kept = [item for item in items if item.failed is None]
        for item in items:
            if item.failed is not None:
                item.failed(error)
        # In order and before anything newer: an acknowledgement covers everything before it.
        self._items.extendleft(reversed(kept))
        for run_id in batch.touched:
            self.state.drop(run_id)
            self.state.stalled.pop(run_id, None)
        # At once, before the pause: callers must find these runs open.
        self._resume([run_id for run_id in batch.touched if self._log.head(run_stream(run_id))])
        self.is_ahead = False
        await asyncio.sleep(DISK_FULL_PAUSE_S)

    def _end(self, items: list[_Item], error: Stalled) -> None:
        """Fails all waiting callers: the daemon closes its listeners only when every request has an answer."""
        self._ended = error
        for item in (*items, *self._items):
            if item.failed is not None:
                item.failed(error)
        self._items.clear()

    # Work from outside ------------------------------------------------------------------------------------------------

    def _submit(
        self,
        apply: Callable[[BatchBuilder], object],
        done: Callable[[], None] = lambda: None,
        failed: Callable[[WaterflowError], None] | None = None,
    ) -> None:
        if self._ended is not None:
            if failed is not None:
                failed(self._ended)
            return
        self._items.append(_Item(apply, done, failed))
        self._idle.clear()
        self._wake.set()

    def submit(self, items: Sequence[tuple[RunId, inputs.Input]], durable: Callable[[], None] = lambda: None) -> None:
        """Feeds inputs in the next batch; `durable` is called once they are in the log, however long that takes."""

        def apply(batch: BatchBuilder) -> None:
            for run_id, item in items:
                batch.feed(run_id, item)

        self._submit(apply, durable)

    def record_evidence(self, run_id: RunId, report: inputs.Input) -> None:
        """Records a report about a completed run, if it contains news. The run itself never changes again."""

        def apply(batch: BatchBuilder) -> None:
            if self._log.run(run_id) is None:
                return
            run = self._queries.run(run_id)
            evidence = decide(run, report, self._clock.now()) if run.is_completed else ()
            batch.record_evidence(run, evidence)

        self._submit(apply)

    def keep(self, stream: StreamName, facts: Sequence[Any]) -> None:
        """Records findings of the host itself in the next batch, or as soon as they can be written."""
        self._submit(lambda batch: batch.record(stream, facts))

    def keep_counters(self, counters: Mapping[str, int]) -> None:
        """Records counters in the next batch, or as soon as they can be written."""
        self._submit(lambda batch: batch.contents.counters.update(counters))

    def record_secret_use(self, run: Run, command: commands.SendTask, draft: lowering.Draft) -> None:
        """Records in the audit trail that the secrets of an attempt are sent."""
        self._submit(lambda batch: batch.record_secret_use(run, command, draft))

    def settle(self, agent: AgentId, call: Callable[[], None]) -> None:
        """Calls `call` once everything submitted so far is durable and no commit is in progress."""
        self._submit(lambda batch: batch.settled.add(agent), call)

    async def pass_through(self) -> None:
        """Returns when the driver has finished one more batch, which proves that it makes progress."""
        with contextlib.suppress(Retryable):
            # A batch that fails because of a full disk is progress too.
            await self._commit(lambda batch: None)

    def secrets_read(self) -> None:
        """Repeats the commands that wait for secrets: a secret was read, or could not be read."""
        waiting = list(self.state.awaiting_secrets)
        self.state.awaiting_secrets.clear()
        if waiting:
            self._submit(lambda batch: batch.carry_out_deferred(waiting))

    async def until_idle(self, seconds_max: float) -> None:
        """Returns when there is no work, or after some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                await self._idle.wait()

    async def remove(
        self, read: Callable[[], list[RemovedPiece]], entry: Callable[[Sequence[RemovedPiece]], Any]
    ) -> list[RemovedPiece]:
        """Removes pieces of runs, or of their output, with an entry of the audit trail about them; returns them.

        `read` is called when the batch is made, so that nothing changes between what it reads and the commit. A piece of a
        run that gets new events in the same batch is left out.
        """
        removed: list[RemovedPiece] = await self._commit(lambda batch: batch.remove(read(), entry))
        for removal, _ in removed:
            self._queries.forget(removal.run)
        return removed

    def wake(self) -> None:
        """Assigns slots again: servers or groups have changed."""
        self._submit(lambda batch: None)

    async def _commit(self, apply: Callable[[BatchBuilder], Any]) -> Any:
        """Runs `apply` in the next batch and returns its result once the batch is durable."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        result: list[Any] = []

        def done() -> None:
            if not future.done():
                future.set_result(result[0])

        def failed(error: WaterflowError) -> None:
            if not future.done():
                future.set_exception(error)

        self._submit(lambda batch: result.append(apply(batch)), done, failed)
        return await future

    @property
    def refusal(self) -> str:
        """Why new runs are refused at the moment; empty if they are not."""
        return self.read_only or (DISK_LOW if self._log.is_disk_low else "")

    def knows(self, run_id: str) -> bool:
        """Whether the log contains a run with this id, open or completed."""
        return ids.is_run_id(run_id) and self._log.run(RunId(run_id)) is not None

    async def start(self, request: StartRequest) -> RunSummary:
        """See `ports.Runs`."""
        request = await self._with_hashes(request)
        (run_id,) = await self._commit(lambda batch: self._start_all(batch, [request]))
        found = self._log.run(run_id)
        if found is None:
            raise Stalled("WF403", self.state.stalled.pop(run_id, f"run {run_id} could not be started"))
        return found

    async def apply(self, stream: StreamName, facts: Sequence[Any], starts: Sequence[StartRequest]) -> list[RunId]:
        """See `ports.Runs`."""
        requests = [await self._with_hashes(request) for request in starts]

        def apply(batch: BatchBuilder) -> list[RunId]:
            return self._start_all(batch, requests, lambda: batch.record(stream, facts))

        started: list[RunId] = await self._commit(apply)
        return started

    async def _with_hashes(self, request: StartRequest) -> StartRequest:
        """The request with the results of `hashFiles` for its commit, which must be known before the run exists."""
        try:
            calls = self._decode(plan.content_hash(request.plan), request.plan).hashed
        except msgspec.MsgspecError:
            # `_check` reports an invalid plan.
            return request
        if not calls or request.hashes or request.repository is None or request.revision is None:
            return request
        hashes = await self.state.digests(request.repository, request.revision, calls)
        return msgspec.structs.replace(request, hashes=hashes)

    async def record(self, stream: StreamName, facts: Sequence[Any]) -> None:
        """See `ports.Runs`."""
        await self._commit(lambda batch: batch.record(stream, facts))

    async def prepare(self, requests: Sequence[StartRequest]) -> list[PreparedStart]:
        """Checks requests for runs that another engine numbers and hosts, as `start` does, and keeps their plans.

        Counts them in the quotas of this daemon.
        """
        hashed = [await self._with_hashes(request) for request in requests]

        def apply(batch: BatchBuilder) -> list[PreparedStart]:
            self._admit(batch, hashed)
            return [self._prepare(batch, request) for request in hashed]

        prepared: list[PreparedStart] = await self._commit(apply)
        return prepared

    def _start_all(
        self, batch: BatchBuilder, requests: Sequence[StartRequest], record: Callable[[], None] = lambda: None
    ) -> list[RunId]:
        """Starts all runs and records the facts, or raises before anything is in the batch."""
        self._admit(batch, requests)
        record()
        return [self._known(batch, request) or self._start(batch, request) for request in requests]

    def _admit(self, batch: BatchBuilder, requests: Sequence[StartRequest]) -> None:
        """Checks the requests, and counts those that have not started a run yet."""
        for request in requests:
            self._check(request)
        fresh = [request for request in requests if self._known(batch, request) is None]
        if fresh and self._log.is_disk_low:
            raise Retryable("WF302", DISK_LOW)
        if fresh:
            self._check_open_runs(fresh)
            self.state.quotas.take_runs(fresh, self._clock.now(), batch.contents.counters)

    def _check_open_runs(self, fresh: Sequence[StartRequest]) -> None:
        """Refuses starts beyond the limit. A repository may have as many open runs as it leaves to others, or one."""
        runs = self.state.runs
        left = runs_left(len(runs), len(fresh))
        if 2 * left >= OPEN_RUNS_MAX:
            return
        for repository, count in Counter(request.repository for request in fresh).items():
            if repository is not None:
                check_share(repository, sum(run.repository == repository for run in runs.values()), count, left)

    def _check(self, request: StartRequest) -> None:
        plan_hash = plan.content_hash(request.plan)
        try:
            compiled = self._decode(plan_hash, request.plan)
        except msgspec.MsgspecError as error:
            raise Rejected("WF605", f"invalid plan: {error}", where="plan") from error
        if (request.repository, plan_hash) not in self._permitted:
            self.state.access.check_plan(request.repository, accesses.of_plan(compiled))
            if len(self._permitted) >= PLANS_CACHED:
                self._permitted.clear()
            self._permitted.add((request.repository, plan_hash))
        check_storable([request.trigger, request.repository, request.revision, request.inputs, request.vars])

    def _known(self, batch: BatchBuilder, request: StartRequest) -> RunId | None:
        """The run that one of the request's trigger keys has already started."""
        for key in (request.trigger.key, *request.earlier_keys):
            run = None if key is None else batch.contents.keys.get(key) or self._log.run_for_key(key)
            if run is not None:
                return run
        return None

    def _start(self, batch: BatchBuilder, request: StartRequest) -> RunId:
        prepared, key = self._prepare(batch, request), request.trigger.key
        run_id = prepared.run
        counter, counters = f"{request.repository or ''}:{prepared.path}", batch.contents.counters
        number = counters[counter] = (counters.get(counter) or self._log.counter(counter)) + 1
        if key is not None:
            batch.contents.keys[key] = run_id
        self.state.runs[run_id] = Run(run_id, self._decode(prepared.start.plan_hash, request.plan))
        batch.feed(run_id, msgspec.structs.replace(prepared.start, number=number))
        if run_id in batch.touched:
            batch.contents.plan_uses.append(prepared.start.plan_hash)
        if key is not None and run_id not in batch.touched:
            # A bug prevented the run's first event, so the key has started nothing.
            del batch.contents.keys[key]
        return run_id

    def _prepare(self, batch: BatchBuilder, request: StartRequest) -> PreparedStart:
        """Puts the plan of a run into the batch."""
        plan_hash = plan.content_hash(request.plan)
        compiled = self._decode(plan_hash, request.plan)
        batch.contents.plans[plan_hash] = request.plan
        start = inputs.StartRun(
            plan_hash=plan_hash,
            number=0,
            trigger=self._described(request),
            repository=request.repository,
            revision=request.revision,
            inputs=request.inputs,
            vars=request.vars,
            rerun_of=request.rerun_of,
            reused=request.reused,
            hashes=request.hashes,
            environments=self.state.policies(request, compiled),
        )
        now = self._clock.now()
        run_id = ids.run_id(now, secrets.randbits(80))
        return PreparedStart(run=run_id, path=compiled.path, plan=request.plan, start=start, at=now)

    def _described(self, request: StartRequest) -> Trigger:
        """The trigger with what the configuration says about the repository."""
        git = request.trigger.git
        if not git or request.repository is None:
            return request.trigger
        return msgspec.structs.replace(
            request.trigger, git={**git, "full-name": self.state.full_name(request.repository)}
        )

    async def start_child_run(self, attempt: AttemptId, request: StartRequest) -> None:
        """Starts an attempt's child run and reports it to the parent, in one transaction; nothing if no longer requested.

        Raises `Rejected` when the run can never be started, with status 429 while a limit is reached, and
        `Retryable` WF302.
        """
        request = await self._with_hashes(request)

        def apply(batch: BatchBuilder) -> None:
            parent = self.state.runs.get(attempt.run)
            if parent is None or not child_runs.is_requested(parent, attempt):
                return
            (run_id,) = self._start_all(batch, [request])
            child = self.state.runs.get(run_id)
            row = self._log.run(run_id) if child is None else summary(child)
            if row is None:
                raise Rejected("WF403", self.state.stalled.pop(run_id, f"run {run_id} could not be started"))
            batch.feed(attempt.run, child_runs.started(attempt, row))

        await self._commit(apply)

    async def decide(
        self, run: RunId, job: JobId, step: StepId | None, by: str, *, is_approved: bool, comment: str = ""
    ) -> RunSummary:
        """See `ports.Runs`."""
        decision = inputs.DecideApproval(job=job, step=step, by=by, is_approved=is_approved, comment=comment)

        def apply(batch: BatchBuilder) -> None:
            # Checked inside the batch: an earlier item of it may have decided already, or ended the step.
            self._check_decision(decision, run)
            batch.feed(run, decision)

        await self._commit(apply)
        found = self._log.run(run)
        assert found is not None, "an open run is in the log"
        return found

    def _check_decision(self, decision: inputs.DecideApproval, run: RunId) -> None:
        live = self.state.runs.get(run)
        if live is None:
            raise Rejected("WF606", f"run {run} is not open, so nothing of it is waiting for approval", status=409)
        approvals.check(live, decision)

    async def cancel(self, run: RunId, by: str, *, is_forced: bool = False) -> RunSummary:
        """See `ports.Runs`."""
        if run not in self.state.runs:
            known = self._log.run(run)
            if known is None:
                raise Rejected("WF604", f"there is no run {run}", status=404)
            if run in self.state.stalled:
                raise Rejected("WF606", f"run {run} is stalled: {self.state.stalled[run]}", status=409)
            raise Rejected("WF606", f"run {run} is already completed", status=409)
        cancel = inputs.CancelRun(by=by, is_forced=is_forced)
        await self._commit(lambda batch: batch.feed(run, cancel))
        found = self._log.run(run)
        assert found is not None, "an open run has its row"
        return found
