"""A batch: the contents of one transaction, built from inputs, and the messages to send after it.

Rules of this file:

- Steps advance the driver's own runs at once; nothing of it is visible elsewhere until the batch is durable.
- Requests to the fleet are answered inside the batch: the answer is fed back as an input of the same batch.
- Outgoing messages are built now, from the state that they belong to, and sent only after the commit.
- A secret that is still being read delays only what needs it: no slot is requested, or the offer is deferred
  (`LiveState.awaiting_secrets`), and both are repeated when there is news.
- If the step of a run raises an exception, only that run stalls: it leaves the live state; its log and error stay visible.
- Values that the log cannot store are rejected before they enter a batch: they would fail the other runs' events too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.wire import messages
from waterflowd.engine import Run, commands, events, inputs, step
from waterflowd.fleet.locks import Holder, LockRequest
from waterflowd.fleet.placement import ServerListRequest
from waterflowd.host import child_runs, fleet_requests
from waterflowd.host.fleet_requests import attempt_id
from waterflowd.host.live_state import LiveState
from waterflowd.host.recovery import DeferredCommand, outstanding_near
from waterflowd.host.run_summary import summary
from waterflowd.host.secret_uses import secret_uses
from waterflowd.model import records
from waterflowd.model.ids import AUDIT, AgentId, AttemptId, RunId, StreamName, run_stream
from waterflowd.model.reasons import ReasonCode, reason

_encode = msgspec.msgpack.Encoder().encode

#: Events after which a run's row in the index is rewritten.
_INDEXED = frozenset(
    (events.RunCreated, events.RunStarted, events.CancelRequested, events.RunTimedOut, events.RunCompleted)
)


class BatchBuilder:
    """One transaction in the making."""

    def __init__(self, state: LiveState, now: int, head_of: Callable[[StreamName], int]) -> None:
        """`head_of` returns the position of a stream's newest event in the log."""
        self._state = state
        self._now = now
        self._head_of = head_of
        self.contents = records.Batch(appends=[], plans={}, summaries=[], keys={}, counters={})
        self._appends: dict[StreamName, records.StreamAppend] = {}
        self._rows: dict[RunId, records.RunSummary] = {}
        self._late: set[AttemptId] = set()
        self.outbox: dict[AgentId, list[messages.DaemonMessage]] = {}
        #: Agents whose settlement, right after the commit, sends everything outstanding.
        self.settled: set[AgentId] = set()
        self.completed: list[RunId] = []
        #: Inputs that one run caused for other runs; they are fed before the batch is sealed.
        self._others: deque[tuple[RunId, inputs.Input]] = deque()
        self.touched: dict[RunId, None] = {}

    def feed(self, run_id: RunId, item: inputs.Input) -> bool:
        """Feeds an input, and all inputs that follow from it inside the batch. False when the run is not open."""
        run = self._state.runs.get(run_id)
        if run is None:
            return False
        waiting = deque([item])
        try:
            while waiting:
                self._step(run, waiting.popleft(), waiting)
        except Exception as error:  # noqa: BLE001  supervision point: one run's failure must not stop the others
            self._state.stall(run, error)
        return True

    def _step(self, run: Run, item: inputs.Input, waiting: deque[inputs.Input]) -> None:
        before = run.seq
        progress = step(run, item, self._now)
        if progress.events:
            self._append(run_stream(run.id), before, progress.events)
            self.touched[run.id] = None
            if not _INDEXED.isdisjoint(map(type, progress.events)):
                self._rows[run.id] = summary(run)
            if run.is_completed and before < run.seq:
                self.completed.append(run.id)
                self._others.extend(
                    (attempt.run, child_runs.ended(attempt, run))
                    for attempt in self._state.child_runs.waiting_for(run.id)
                )
        if isinstance(item, inputs.SlotGranted) and not _is_held(run, item):
            # The slot was granted to an attempt that no longer needs it.
            self._state.placement.free(item.agent, attempt_id(run.id, item))
        for command in progress.commands:
            self._carry_out(run, command, waiting)

    def _append(self, stream: StreamName, before: int, facts: Sequence[Any]) -> None:
        check_storable(facts)
        append = self._appends.get(stream)
        if append is None:
            append = records.StreamAppend(stream=stream, expected=before, at=self._now, events=[])
            self._appends[stream] = append
            self.contents.appends.append(append)
        append.events.extend(facts)

    def record(self, stream: StreamName, head: int, facts: Sequence[Any]) -> None:
        """Adds facts to a stream that is not a run's and ends at position `head` on disk."""
        if facts:
            self._append(stream, head, facts)

    def record_evidence(self, run: Run, evidence: Sequence[events.RunEvent]) -> None:
        """Adds late reports to the stream of a completed run, one per attempt and batch."""
        for event in evidence:
            assert isinstance(event, events.LateReport), "a completed run accepts only late reports"
            attempt = AttemptId(run.id, event.job, event.step, event.attempt)
            if attempt not in self._late:
                self._late.add(attempt)
                self._append(run_stream(run.id), run.seq, [event])

    # Commands ---------------------------------------------------------------------------------------------------------

    def _carry_out(self, run: Run, command: commands.Command, waiting: deque[inputs.Input]) -> None:
        state = self._state
        # The most frequent ones first.
        match command:
            case commands.RequestSlot():
                waiting.append(fleet_requests.request_slot(state, run, command))
            case commands.SendTask(agent=agent):
                for message in state.offers(run, command):
                    self._send(agent, message)
                    if message.task.secrets:
                        self.record(AUDIT, self._head_of(AUDIT), secret_uses(run, command, self._now))
            case commands.FreeSlot(agent=agent):
                state.placement.free(agent, attempt_id(run.id, command))
            case commands.ListServers():
                waiting.append(fleet_requests.list_servers(state, run, command))
            case commands.DropServerList(job=job):
                state.placement.drop_list_request(ServerListRequest(run.id, job))
            case commands.AcquireLock():
                self._lock(run, command)
            case commands.ReleaseLock(job=job):
                state.locks.release(Holder(run.id, job))
            case commands.StartChildRun():
                state.child_runs.request(attempt_id(run.id, command))
            case commands.WatchChildRun():
                waiting.extend(self._watch(run.id, command))
            case commands.CancelChildRun():
                self._cancel_child_run(run.id, command)
            case commands.DropChildRun():
                state.child_runs.drop(attempt_id(run.id, command))
            case commands.CancelSlotRequest():
                state.placement.cancel(attempt_id(run.id, command))
            case commands.CancelTask(agent=agent):
                task = messages.TaskId(AttemptId(run.id, command.job, command.step, command.attempt), command.epoch)
                self._send(agent, messages.Cancel(task, command.is_forced, command.reason))
            case commands.ReleaseJob(agent=agent, job=job):
                self._send(agent, messages.Release(run.id, job))
            case commands.ArmTimer(timer=timer):
                state.timers.arm(run.id, timer)
            case commands.DropTimer(timer=timer):
                state.timers.drop(run.id, timer)

    def _send(self, agent: AgentId, message: messages.DaemonMessage) -> None:
        self.outbox.setdefault(agent, []).append(message)

    def carry_out_deferred(self, deferred: Sequence[tuple[RunId, DeferredCommand]]) -> None:
        """Carries out commands that were deferred by recovery or by unread secrets, as far as they are still outstanding."""
        for run_id, command in deferred:
            run = self._state.runs.get(run_id)
            # A timer may have ended the attempt since, or the run may have been folded again and deferred twice.
            outstanding = () if run is None else outstanding_near(run, command)
            if run is None or command not in outstanding:
                continue
            match command:
                case commands.SendTask():
                    self._offer_again(run, outstanding)
                case commands.RequestSlot() if not self._state.placement.knows(attempt_id(run_id, command)):
                    self.feed(run_id, fleet_requests.request_slot(self._state, run, command))
                case commands.ListServers():
                    self.feed(run_id, fleet_requests.list_servers(self._state, run, command))
                case commands.WatchChildRun():
                    for answer in self._watch(run_id, command):
                        self.feed(run_id, answer)
                case commands.CancelChildRun():
                    self._cancel_child_run(run_id, command)
                case _:
                    pass

    def _offer_again(self, run: Run, outstanding: Sequence[commands.Command]) -> None:
        """Sends the deferred offer, and again a cancel, which may have left before the agent knew the attempt."""
        try:
            for command in outstanding:
                if isinstance(command, commands.SendTask | commands.CancelTask):
                    self._carry_out(run, command, deque())
        except Exception as error:  # noqa: BLE001  supervision point: one run's failure must not stop the others
            self._state.stall(run, error)

    def _watch(self, run_id: RunId, command: commands.WatchChildRun) -> list[inputs.Input]:
        """Waits for the end of a child run; returns its result if it has ended."""
        attempt, state = attempt_id(run_id, command), self._state
        child = state.runs.get(command.run)
        if child is None and command.run not in state.stalled:
            child = state.child_runs.look_up(command.run)
            if child is None:
                return [child_runs.missing(attempt, command.run)]
        if child is not None and child.is_completed:
            return [child_runs.ended(attempt, child)]
        state.child_runs.watch(attempt, command.run)
        return []

    def _cancel_child_run(self, run_id: RunId, command: commands.CancelChildRun) -> None:
        """Cancels the child run, if it is still open."""
        self._others.append((command.run, inputs.CancelRun(by=f"run {run_id}", is_forced=command.is_forced)))

    def _lock(self, run: Run, command: commands.AcquireLock) -> None:
        locks = self._state.locks
        request = fleet_requests.lock_request(run, command)
        is_waiting = False
        for answer in locks.request(request):
            self._others.append((answer.holder.run, fleet_requests.lock_answer(answer)))
            is_waiting |= answer.holder == request.holder and not answer.is_granted and not answer.is_refused
        if is_waiting and command.cancel_in_progress:
            self._cancel(locks.holders(request.repository, request.group), request)

    def _cancel(self, holders: Sequence[Holder], request: LockRequest) -> None:
        by = f"run {request.holder.run}"
        for holder in holders:
            if holder.job is None:
                self._others.append((holder.run, inputs.CancelRun(by=by)))
            else:
                text = f'replaced by {by} in concurrency group "{request.group}"'
                cause = reason(ReasonCode.SUPERSEDED, text, group=request.group, run=request.holder.run)
                self._others.append((holder.run, inputs.CancelJob(job=holder.job, reason=cause)))

    # The end of a batch -----------------------------------------------------------------------------------------------

    def assign(self) -> None:
        """Gives free slots and locks to waiting runs, and feeds changed reasons to those that keep waiting."""
        placement = self._state.placement
        while True:
            self._feed_others()
            for request, server in placement.assign():
                if not self.feed(request.attempt.run, fleet_requests.slot_granted(self._state, request, server)):
                    placement.free(server.agent, request.attempt)
            for request, cause in placement.changed_reasons():
                key = request.attempt
                self.feed(key.run, inputs.SlotPending(job=key.job, step=key.step, attempt=key.number, reason=cause))
            for list_request, found in placement.changed_lists():
                self.feed(list_request.run, fleet_requests.servers_listed(list_request, found))
            for answer in self._state.locks.news():
                self._others.append((answer.holder.run, fleet_requests.lock_answer(answer)))
            if not self._others:
                return

    def _feed_others(self) -> None:
        while self._others:
            run_id, item = self._others.popleft()
            if not self.feed(run_id, item) and isinstance(item, inputs.LockAcquired):
                self._state.locks.forget(run_id)

    def seal(self) -> records.Batch:
        """The complete contents of the batch."""
        self.contents.summaries.extend(self._rows.values())
        return self.contents


def _is_held(run: Run, item: inputs.SlotGranted) -> bool:
    """Whether the attempt has a slot on this server, by this answer or another one to the same request."""
    attempt = run.attempt(item.job, item.step, item.attempt)
    return attempt is not None and attempt.is_open and attempt.agent == item.agent


def check_storable(content: Sequence[Any]) -> None:
    """Raises `Rejected` WF605 for values that cannot be encoded: a number of more than 64 bits, a lone surrogate, a cycle."""
    try:
        _encode(content)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Rejected("WF605", f"a value cannot be stored: {error}") from error
