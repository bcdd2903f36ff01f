"""The driver: owns the open runs and is the single writer of the log.

The only order allowed, for every batch:

1. take every input that has arrived and run `step` for each (batch.py); this advances the driver's own runs;
2. append all their events in one transaction; meanwhile the loop goes on collecting inputs;
3. when it is on disk: wake the feed, answer callers, acknowledge agents, send messages.

Nothing is acknowledged, sent or shown before 2 is done. When a commit fails because the disk is full, nothing of the batch
has happened: the touched runs are folded from the log again, callers get the error, and what nobody would say a second time
(reports, whose acknowledgements are cumulative, and what the host itself has found out) is tried again before anything newer.
Any other failure of a commit ends the daemon, which starts again and verifies.

There is no shutdown work: stopping is the same as crashing at a good moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.engine import Run, events, fold, inputs
from waterflowd.engine.decide import decide
from waterflowd.engine.rules import approvals
from waterflowd.host import child_runs
from waterflowd.host.batch import Batch, LiveState, Question, check_storable, drop, owe, summary
from waterflowd.host.feed import Feed
from waterflowd.host.metrics import CommitMetrics
from waterflowd.host.queries import RunQueries
from waterflowd.host.run_logging import log_batch
from waterflowd.model import ids, plan
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId, StepId, StreamName, run_stream
from waterflowd.model.records import RunSummary, StartRequest

logger = logging.getLogger("waterflow.host")

#: Work items in one batch, and timers; bounds the time that a batch holds the loop (about 0.2 s of small steps).
BATCH_ITEMS_MAX = 1000
#: Open runs at a time; beyond it a start is refused.
OPEN_RUNS_MAX = 20_000
#: Why nothing new begins before the disk is really full.
DISK_LOW = "the disk is almost full: what is open goes on, nothing new begins; make room"
#: How long the driver waits after a full disk before it tries again.
DISK_FULL_PAUSE_S = 1.0
#: Decoded plans that are kept; runs of one plan share it.
PLANS_CACHED = 256
#: The longest sleep of the loop: bounds the effect of a clock that was suspended.
WAKE_S_MAX = 30.0


class _Item(msgspec.Struct, frozen=True):
    """Work for the next batch. `apply` fills the batch; after the commit `done` is called, or `failed` if there was none.

    Without `failed` nobody is there to ask again: the item is kept until it is durable.
    """

    apply: Callable[[Batch], object]
    done: Callable[[], None]
    failed: Callable[[WaterflowError], None] | None


class Driver:
    """See the file's docstring. Implements `ports.Runs`."""

    def __init__(
        self, state: LiveState, log: ports.Log, link: ports.Link, clock: ports.Clock, feed: Feed, queries: RunQueries
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
        self._plans: dict[str, plan.Plan] = {}
        #: The runs know more than the log: a commit is on its way.
        self.is_ahead = False
        #: Why nothing can be written at the moment; empty when all is well.
        self.read_only = ""
        #: Why nothing will be written any more.
        self._ended: Stalled | None = None

    # Recovery ---------------------------------------------------------------------------------------------------------

    def recover(self) -> int:
        """Folds all open runs and takes up what is owed to them; gives their number. Called once, before `run`."""
        self._take_up(list(self._log.open_runs()))
        return len(self.state.runs)

    def _take_up(self, run_ids: Sequence[RunId]) -> None:
        """Folds runs from the log, takes up what is owed to them, and asks for what they lack in the next batch."""
        questions: list[tuple[RunId, Question]] = []
        for run_id in run_ids:
            try:
                questions.extend((run_id, question) for question in owe(self.state, self._fold(run_id)))
            except Exception as error:  # noqa: BLE001  supervision point: one run's log must not keep the others from going on
                logger.error("run %s is stalled: %s", run_id, error, extra={"run": run_id})
                drop(self.state, run_id)
                self.state.stalled[run_id] = str(error)
        if run_ids:
            # Even without questions: places in concurrency groups are given by the batch.
            self._submit(lambda batch: batch.ask(questions))

    def _fold(self, run_id: RunId) -> Run:
        history = [record.event for record in self._log.read(run_stream(run_id))]
        created = history[0] if history else None
        compiled = self._log.plan(created.plan_hash) if isinstance(created, events.RunCreated) else None
        if not isinstance(created, events.RunCreated) or compiled is None:
            raise Stalled("WF305", "its first event or its plan is missing from the store; run waterflowd fsck")
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
        """Makes batches for ever. Raises `Stalled` when the log can be written no more."""
        while True:
            await self._next_work()
            await self._make_batch()

    async def _next_work(self) -> None:
        if self._items:
            return
        self._wake.clear()
        next_at = self.state.timers.next_at
        delay_s = WAKE_S_MAX if next_at is None else min(WAKE_S_MAX, max(0.0, (next_at - self._clock.now()) / 1000))
        handle = asyncio.get_running_loop().call_later(delay_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            handle.cancel()

    async def _make_batch(self) -> None:
        now = self._clock.now()
        batch = Batch(self.state, now)
        for run_id, timer in self.state.timers.due(now, BATCH_ITEMS_MAX):
            batch.feed(run_id, inputs.TimerFired(timer=timer))
        items: list[_Item] = []
        while self._items and len(items) < BATCH_ITEMS_MAX:
            item = self._items.popleft()
            try:
                item.apply(batch)
            except WaterflowError as error:
                if item.failed is None:
                    logger.error("dropped: %s", error)
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

    def _publish(self, batch: Batch, items: list[_Item]) -> None:
        self.is_ahead = False
        for run_id in batch.completed:
            drop(self.state, run_id)
        self._feed.published(append.stream for append in batch.contents.appends)
        for item in items:
            item.done()
        for agent, outgoing in batch.outbox.items():
            if agent in batch.settled:
                # Its settlement has just said all that is owed.
                continue
            # An offer for an earlier start of the agent would be refused; the settlement with the present one makes it again.
            instance = self.state.placement.server(agent).instance
            fresh = [one for one in outgoing if not isinstance(one, messages.Offer) or one.task.instance == instance]
            self._link.send(agent, fresh)

    async def _undo(self, batch: Batch, items: list[_Item], error: Retryable) -> None:
        """Nothing of the batch has happened: takes the touched runs back to what the log says."""
        self.read_only = error.text
        logger.error("read-only: %s", error.text)
        kept = [item for item in items if item.failed is None]
        for item in items:
            if item.failed is not None:
                item.failed(error)
        # In their order and before whatever has come meanwhile: an acknowledgement says so of everything before it.
        self._items.extendleft(reversed(kept))
        for run_id in batch.touched:
            drop(self.state, run_id)
            self.state.stalled.pop(run_id, None)
        # At once: who looks during the pause must find these runs open.
        self._take_up([run_id for run_id in batch.touched if self._log.head(run_stream(run_id))])
        self.is_ahead = False
        await asyncio.sleep(DISK_FULL_PAUSE_S)

    def _end(self, items: list[_Item], error: Stalled) -> None:
        """Nobody may wait for what will never come: the daemon's doors close once everybody was answered."""
        self._ended = error
        for item in (*items, *self._items):
            if item.failed is not None:
                item.failed(error)
        self._items.clear()

    # Work from outside ------------------------------------------------------------------------------------------------

    def _submit(
        self,
        apply: Callable[[Batch], object],
        done: Callable[[], None] = lambda: None,
        failed: Callable[[WaterflowError], None] | None = None,
    ) -> None:
        if self._ended is not None:
            if failed is not None:
                failed(self._ended)
            return
        self._items.append(_Item(apply, done, failed))
        self._wake.set()

    def submit(self, given: Sequence[tuple[RunId, inputs.Input]], durable: Callable[[], None] = lambda: None) -> None:
        """Feeds inputs in the next batch; `durable` is called once they are in the log, however long that takes."""

        def apply(batch: Batch) -> None:
            for run_id, item in given:
                batch.feed(run_id, item)

        self._submit(apply, durable)

    def record_evidence(self, run_id: RunId, given: inputs.Input) -> None:
        """Records what a report says about a run that is completed, if it is news. The run itself never changes again."""

        def apply(batch: Batch) -> None:
            if self._log.run(run_id) is None:
                return
            run = self._queries.run(run_id)
            evidence = decide(run, given, self._clock.now()) if run.is_completed else ()
            batch.record_evidence(run, evidence)

        self._submit(apply)

    def settle(self, agent: AgentId, call: Callable[[], None]) -> None:
        """Calls back once all that was given so far is in the log and the runs are as it says; `call` says what is owed."""
        self._submit(lambda batch: batch.settled.add(agent), call)

    async def pass_through(self) -> None:
        """Returns when the driver has taken an item and finished its batch: the proof that it makes progress."""
        with contextlib.suppress(Retryable):
            # A full disk fails the batch, and that is progress too.
            await self._commit(lambda batch: None)

    def secrets_read(self) -> None:
        """Some secret was read, or could not be: asks again for all that waits for secrets."""
        waiting = list(self.state.unread)
        self.state.unread.clear()
        if waiting:
            self._submit(lambda batch: batch.ask(waiting))

    def wake(self) -> None:
        """Servers or groups have changed: look for slots again."""
        self._submit(lambda batch: None)

    async def _commit(self, apply: Callable[[Batch], Any]) -> Any:
        """Runs `apply` in the next batch and gives its result once the batch is durable."""
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
        """Why nothing new may begin at the moment; empty when all is well."""
        return self.read_only or (DISK_LOW if self._log.is_disk_low else "")

    def knows(self, run_id: str) -> bool:
        """Whether the log has a run with this id, open or completed."""
        return ids.is_run_id(run_id) and self._log.run(RunId(run_id)) is not None

    async def start(self, request: StartRequest) -> RunSummary:
        """See `ports.Runs`."""
        request = await self._with_hashes(request)
        (run_id,) = await self._commit(lambda batch: self._start_all(batch, [request]))
        found = self._log.run(run_id)
        if found is None:
            raise Stalled("WF403", self.state.stalled.pop(run_id, f"run {run_id} could not begin"))
        return found

    async def apply(self, stream: StreamName, facts: Sequence[Any], starts: Sequence[StartRequest]) -> list[RunId]:
        """See `ports.Runs`."""

        wanted = [await self._with_hashes(request) for request in starts]

        def apply(batch: Batch) -> list[RunId]:
            return self._start_all(batch, wanted, lambda: batch.record(stream, self._log.head(stream), facts))

        started: list[RunId] = await self._commit(apply)
        return started

    async def _with_hashes(self, request: StartRequest) -> StartRequest:
        """The request with what `hashFiles` gives over its commit, which has to be known before the run is."""
        try:
            calls = self._decode(plan.content_hash(request.plan), request.plan).hashed
        except msgspec.MsgspecError:
            # What is wrong with the plan is told where the request is checked.
            return request
        if not calls or request.hashes or request.repository is None or request.revision is None:
            return request
        hashes = await self.state.digests(request.repository, request.revision, calls)
        return msgspec.structs.replace(request, hashes=hashes)

    async def record(self, stream: StreamName, facts: Sequence[Any]) -> None:
        """See `ports.Runs`."""
        await self._commit(lambda batch: batch.record(stream, self._log.head(stream), facts))

    def _start_all(
        self, batch: Batch, requests: Sequence[StartRequest], record: Callable[[], None] = lambda: None
    ) -> list[RunId]:
        """Starts all of the runs and records, or raises `Rejected` before anything of it is in the batch."""
        for request in requests:
            self._check(request)
        fresh = sum(self._known(batch, request) is None for request in requests)
        if fresh and self._log.is_disk_low:
            raise Retryable("WF302", DISK_LOW)
        if fresh and len(self.state.runs) + fresh > OPEN_RUNS_MAX:
            raise Rejected(
                "WF609", f"{OPEN_RUNS_MAX} runs are open, which is the limit; wait or cancel some", status=429
            )
        record()
        return [self._known(batch, request) or self._start(batch, request) for request in requests]

    def _check(self, request: StartRequest) -> None:
        try:
            self._decode(plan.content_hash(request.plan), request.plan)
        except msgspec.MsgspecError as error:
            raise Rejected("WF605", f"the plan cannot be read: {error}", where="plan") from error
        check_storable([request.trigger, request.repository, request.revision, request.inputs, request.vars])

    def _known(self, batch: Batch, request: StartRequest) -> RunId | None:
        """The run that one of the request's trigger keys has started before."""
        for key in (request.trigger.key, *request.earlier_keys):
            run = None if key is None else batch.contents.keys.get(key) or self._log.run_for_key(key)
            if run is not None:
                return run
        return None

    def _start(self, batch: Batch, request: StartRequest) -> RunId:
        key = request.trigger.key
        plan_hash = plan.content_hash(request.plan)
        compiled = self._decode(plan_hash, request.plan)
        run_id = ids.run_id(self._clock.now(), secrets.randbits(80))
        counter = f"{request.repository or ''}:{compiled.path}"
        counters = batch.contents.counters
        number = counters[counter] = (counters.get(counter) or self._log.counter(counter)) + 1
        batch.contents.plans[plan_hash] = request.plan
        if key is not None:
            batch.contents.keys[key] = run_id
        self.state.runs[run_id] = Run(run_id, compiled)
        batch.feed(
            run_id,
            inputs.StartRun(
                plan_hash=plan_hash,
                number=number,
                trigger=request.trigger,
                repository=request.repository,
                revision=request.revision,
                inputs=request.inputs,
                vars=request.vars,
                rerun_of=request.rerun_of,
                kept=request.kept,
                hashes=request.hashes,
                environments=self.state.policies(request, compiled),
            ),
        )
        if key is not None and run_id not in batch.touched:
            # A bug has kept the run from its first event: the key has started nothing.
            del batch.contents.keys[key]
        return run_id

    async def begin(self, place: AttemptId, request: StartRequest) -> None:
        """Starts the run that a step wants, and tells the step of it, in one transaction. Nothing if it wants it no more.

        Raises `Rejected` for a run that cannot be, WF609 with status 429 while too many are open, `Retryable` WF302.
        """
        wanted = await self._with_hashes(request)

        def apply(batch: Batch) -> None:
            live = self.state.runs.get(place.run)
            if live is None or not child_runs.is_wanted(live, place):
                return
            (started,) = self._start_all(batch, [wanted])
            found = self.state.runs.get(started)
            row = self._log.run(started) if found is None else summary(found)
            if row is None:
                raise Rejected("WF403", self.state.stalled.pop(started, f"run {started} could not begin"))
            batch.feed(place.run, child_runs.created(place, row))

        await self._commit(apply)

    async def decide(
        self, run: RunId, job: JobId, step: StepId | None, by: str, *, is_approved: bool, comment: str = ""
    ) -> RunSummary:
        """See `ports.Runs`."""
        given = inputs.DecideApproval(job=job, step=step, by=by, is_approved=is_approved, comment=comment)

        def apply(batch: Batch) -> None:
            # Here and not before: what else is in the batch may have decided, or ended what waits.
            self._check_decision(given, run)
            batch.feed(run, given)

        await self._commit(apply)
        found = self._log.run(run)
        assert found is not None, "an open run is in the log"
        return found

    def _check_decision(self, given: inputs.DecideApproval, run: RunId) -> None:
        live = self.state.runs.get(run)
        approval = approvals.find(live, given.job, given.step) if live is not None else None
        if live is None or approval is None:
            where = given.job if given.step is None else f"{given.job}/{given.step}"
            raise Rejected("WF606", f"nothing of run {run} at {where} waits for an approval", status=409)
        refusal = approvals.refusal(live, approval, given.by)
        if refusal:
            raise Rejected("WF602", refusal, status=403)

    async def cancel(self, run: RunId, by: str, *, is_forced: bool = False) -> RunSummary:
        """See `ports.Runs`."""
        if run not in self.state.runs:
            known = self._log.run(run)
            if known is None:
                raise Rejected("WF604", f"there is no run {run}", status=404)
            if run in self.state.stalled:
                raise Rejected("WF606", f"run {run} is stalled: {self.state.stalled[run]}", status=409)
            raise Rejected("WF606", f"run {run} is completed; there is nothing to cancel", status=409)
        given = inputs.CancelRun(by=by, is_forced=is_forced)
        await self._commit(lambda batch: batch.feed(run, given))
        found = self._log.run(run)
        assert found is not None, "an open run has its row"
        return found
